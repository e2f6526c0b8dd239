"""A map from ids that come and go to a fixed number of rows: where ids are found, admitted and put out.

The rule is that of torchrec's MPZCH (``zero_collision_hash``): the slot of an id is its hash modulo the slots of its
block, and the first of ``max_probe`` slots from there on, in a circle, that holds the id. A slot that was taken is
never empty again, so an id lies before the first empty slot. The last rows of a block are *reserved*: they hold no id,
and ids without a slot share them by their hash.

A slot that was used at the present time of the clock is never taken from its id. So what a step reads is its own until
the clock moves on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from rectab.ops import slots_reference as reference
from rectab.ops.dispatch import is_eager, kernel_name
from rectab.ops.murmur import murmur, unsigned_remainder

__all__ = [
    "EMPTY",
    "TALLY",
    "Admission",
    "Admit",
    "Blocks",
    "Evict",
    "SlotRule",
    "SlotState",
    "find_rows",
    "shared_rows",
    "take_rows",
]

EMPTY = -1
"""Identity of a slot that nobody has; so the id -1 never gets a row."""

Evict = Literal["lru", "lfu", "distance_lfu", "ttl", "never"]
Admit = Literal["always", "probability", "count", "better"]

TALLY = ("now", "told", "lookups", "absent", "admitted", "evicted", "asked", "aged")
"""What :attr:`SlotState.tally` counts: the clock; whether the caller gives it; lookups since the start, those that
found no slot, ids admitted, ids put out; ids that asked for admission; updates of the sketch."""


@dataclass(frozen=True)
class SlotRule:
    """Who is admitted, and who makes place.

    Attributes:
        evict: ``lru`` the slot used longest ago; ``lfu`` the one used least often; ``distance_lfu`` the least
            ``count / (now - last + 1) ** decay``; ``ttl`` the first that was not used for more than ``ttl``; ``never``.
        ttl: in units of the clock.
        decay: see ``evict``.
        half_life: of the counts of ``lfu``, in units of the clock; 0 for counts that do not fade.
        admit: ``always``; ``probability`` an id that asks is admitted with ``probability``; ``count`` once a sketch
            has seen it ``count`` times; ``better`` once the sketch has seen it more often than the id that would make
            place is worth by ``lfu`` or ``distance_lfu`` (an empty slot it gets at once), as TinyLFU does
            (arXiv 1512.00727).
        probability, count: see ``admit``.
        max_probe: slots that are tried.
        salt: of the chance and of the sketch.
    """

    evict: Evict = "lru"
    ttl: int = 0
    decay: float = 1.0
    admit: Admit = "always"
    probability: float = 1.0
    count: int = 1
    max_probe: int = 128
    salt: int = 0
    half_life: float = 0.0

    @property
    def codes(self) -> tuple[int, int, int, int, int, int, float]:
        """As kernels take it: evict, ttl, admit, count, chance out of 2^63, probes, decay or half-life."""
        chance = min(int(self.probability * 2.0**63), 2**63 - 1)
        evict, admit = get_args(Evict).index(self.evict), get_args(Admit).index(self.admit)
        pace = self.half_life if self.evict == "lfu" else self.decay
        return evict, self.ttl, admit, self.count, chance, self.max_probe, pace


@dataclass(frozen=True)
class Blocks:
    """Where the rows of every vocabulary are.

    Attributes:
        first_row: int64 [V].
        num_rows: int64 [V], the reserved ones among them; negative for a vocabulary that is kept whole: a row an id.
        reserved: int64 [V], at the end of the block.
    """

    first_row: Tensor
    num_rows: Tensor
    reserved: Tensor


@dataclass(frozen=True)
class SlotState:
    """What is kept for every row, and for all.

    Attributes:
        identities: int64 [R], the id of every slot or -1.
        last: int32 [R], when it was last used by the clock.
        count: int32 [R], how often since it was admitted, times 256 where counts fade; [0] where the rule does not ask.
        sketch: uint8 [4, W], counts of ids without a slot; [4, 0] where the rule does not ask.
        tally: int64 [8], see :data:`TALLY`.
    """

    identities: Tensor
    last: Tensor
    count: Tensor
    sketch: Tensor
    tally: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        return self.identities, self.last, self.count, self.sketch, self.tally


@dataclass(frozen=True)
class Admission:
    """Attributes:
    rows: int64 [n], the row of every id; -1 for one that has neither a slot nor a reserved row to read.
    admitted: int64 [m], distinct rows that were given to an id.
    replaced: int64 [m], the ids that had them before, or -1.
    """

    rows: Tensor
    admitted: Tensor
    replaced: Tensor


def find_rows(
    ids: Tensor, vocabulary: Tensor, blocks: Blocks, identities: Tensor, max_probe: int, shared: bool = True
) -> Tensor:
    """Rows of ids, without changing anything.

    Args:
        ids: int64 [*].
        vocabulary: int64, broadcastable to ``ids``.
        blocks: where rows are.
        identities: int64 [R].
        max_probe: slots that are tried.
        shared: an id without a slot reads a reserved row, or where there is none the row that its hash says; False
            gives -1 for it.

    Returns:
        int64 [*]. Raises IndexError for an id outside a vocabulary that is kept whole.
    """
    if is_eager(ids, vocabulary, identities) and kernel_name(ids.device) == "numba":
        flat, columns = _flat(ids, vocabulary)
        return _numba().find(flat, columns, _arrays(blocks), identities, max_probe, shared).view(ids.shape)
    return reference.find(ids, vocabulary, blocks, identities, max_probe, shared)


def shared_rows(ids: Tensor, vocabulary: Tensor, blocks: Blocks) -> Tensor:
    """int64 [*]: the row that an id of a hashed block reads without a slot; arguments as for :func:`find_rows`."""
    first, rows, reserved = (t[vocabulary] for t in (blocks.first_row, blocks.num_rows, blocks.reserved))
    hashed, slots = murmur(ids), rows - reserved
    own = unsigned_remainder(hashed, slots.clamp(min=1))
    return first + torch.where(reserved > 0, slots + unsigned_remainder(hashed, reserved.clamp(min=1)), own)


def take_rows(ids: Tensor, vocabulary: Tensor, blocks: Blocks, state: SlotState, rule: SlotRule) -> Admission:
    """Rows of ids that are being trained: counts and ages them, and admits those that the rule admits, in their order.

    Arguments as for :func:`find_rows`. The state is changed in place. The result is the same on every device and number
    of threads. On other devices than the CPU the state is brought there and back.
    """
    flat, columns = _flat(ids, vocabulary)
    if ids.device.type != "cpu":
        return _on_host(flat, columns, blocks, state, rule)
    take: Any = _numba().take if kernel_name("cpu") == "numba" else reference.take
    rows, admitted, replaced = take(flat, columns, _arrays(blocks), state, rule)
    return Admission(rows.view(ids.shape), admitted, replaced)


def _on_host(ids: Tensor, columns: Tensor, blocks: Blocks, state: SlotState, rule: SlotRule) -> Admission:
    device = ids.device
    held = SlotState(*(tensor.cpu() for tensor in state.tensors()))
    here = Blocks(blocks.first_row.cpu(), blocks.num_rows.cpu(), blocks.reserved.cpu())
    made = take_rows(ids.cpu(), columns.cpu(), here, held, rule)
    for tensor, changed in zip(state.tensors(), held.tensors(), strict=True):
        tensor.copy_(changed)
    return Admission(made.rows.to(device), made.admitted.to(device), made.replaced.to(device))


def _flat(ids: Tensor, vocabulary: Tensor) -> tuple[Tensor, Tensor]:
    """ids [n], and vocabularies [p]: that of id i is the one at ``i % p``."""
    inner = ids.shape[ids.dim() - vocabulary.dim() :]
    if vocabulary.shape != inner:
        vocabulary = vocabulary.expand(ids.shape)
    return ids.to(torch.int64).reshape(-1), vocabulary.to(torch.int64).reshape(-1)


def _arrays(blocks: Blocks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(t.to(torch.int64).numpy() for t in (blocks.first_row, blocks.num_rows, blocks.reserved))  # type: ignore[return-value]


def _numba() -> Any:
    from rectab.ops import kernels_slots

    return kernels_slots
