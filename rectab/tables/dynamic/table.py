"""The dynamic table: rows behind a slot map, whose ids change while it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from rectab.ops import salt_of
from rectab.ops.dispatch import is_eager
from rectab.ops.memory import empty_rows
from rectab.ops.slots import EMPTY, TALLY, Admission, Blocks, SlotState, find_rows, shared_rows, take_rows
from rectab.optim import RowOptimizer
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.dynamic.config import DynamicConfig
from rectab.tables.dynamic.start import start_from_targets
from rectab.tables.fit import FitTarget

__all__ = ["DynamicTable"]

_COUNTING = ("lfu", "distance_lfu")
_LATEST = 2**31 - 1


class DynamicTable(EmbeddingTable[DynamicConfig]):
    """One store; vocabulary v owns ``num_rows[v]`` consecutive rows of it, which its ids get and lose.

    A lookup in training mode and with gradients counts and ages what it reads, and admits ids; any other lookup changes
    nothing. A row that an id gets starts again: values, and the state that the row optimizer keeps for it. Nothing is
    admitted while gradients wait for a step, or where row gradients have no optimizer. Time is a whole number that
    never falls: the caller's (:meth:`set_clock`), else the number of steps. A row that was used at the present time
    stays its id's, so with a clock of the caller's nothing is evicted twice within a unit of it.

    A fitted vocabulary whose range has a row for every id is kept whole. Any other int64 but -1 can get a row.

    Memory: (sum of num_rows) * (bytes of a row, 8 for the id, 4 for its age, and 4 for its count where ``evict`` asks),
    4 * sketch_width, 24 bytes a vocabulary and 64.
    """

    ids_move = True
    first_row: Tensor
    num_rows: Tensor
    reserved: Tensor
    identities: Tensor
    last: Tensor
    count: Tensor
    sketch: Tensor
    tally: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: DynamicConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        rows = config.num_rows
        if len(rows) != len(self.vocabularies) or min(rows) < 1:
            raise ValueError(f"num_rows needs one positive number a vocabulary, got {tuple(rows)}")
        held = list(zip(self.vocabularies, rows, strict=True))
        self.whole = tuple(not v.hashed and n >= v.num_embeddings for v, n in held)
        self.lookup_refuses = all(self.whole)
        signed = [-n if whole else n for n, whole in zip(rows, self.whole, strict=True)]
        total, device = sum(rows), self.options.device
        for name, values in (
            ("first_row", torch.tensor([0, *accumulate(rows[:-1])])),
            ("num_rows", torch.tensor(signed)),
            ("reserved", torch.tensor([config.reserved(v, n) for v, n in held])),
        ):
            self.register_buffer(name, values.to(torch.int64).to(device))
        counted = total if config.evict in _COUNTING else 0
        self.register_buffer("identities", empty_rows(total, dtype=torch.int64, device=device).fill_(EMPTY))
        self.register_buffer("last", empty_rows(total, dtype=torch.int32, device=device).zero_())
        self.register_buffer("count", empty_rows(counted, dtype=torch.int32, device=device).zero_())
        self.register_buffer("sketch", torch.zeros(4, config.sketch_width, dtype=torch.uint8, device=device))
        self.register_buffer("tally", torch.zeros(len(TALLY), dtype=torch.int64, device=device))
        self.rule = config.rule(salt_of(config.seed, "dynamic"))
        self.store = self.options.row_store(
            total,
            embedding_dim,
            init_std=self.options.init_std,
            generator=torch.Generator().manual_seed(self.options.seed),
        )
        self.evicted: list[tuple[Tensor, Tensor]] | None = None
        """(rows, the ids that lost them) since a caller set it to an empty list; None keeps no record."""

    @property
    def blocks(self) -> Blocks:
        """Where the rows of every vocabulary are."""
        return Blocks(self.first_row, self.num_rows, self.reserved)

    @property
    def state(self) -> SlotState:
        """What is kept for every row."""
        return SlotState(self.identities, self.last, self.count, self.sketch, self.tally)

    def tallies(self) -> dict[str, int]:
        """What has happened so far, by name: see :data:`rectab.ops.slots.TALLY`."""
        return dict(zip(TALLY, self.tally.tolist(), strict=True))

    @torch.no_grad()
    def set_clock(self, now: int) -> None:
        """Say what time it is: a whole number of 0 .. 2^31 - 1 in units of the caller's, such as minutes.

        Raises:
            ValueError: it is outside, or earlier than what it was.
        """
        before = int(self.tally[0])
        if not before <= now <= _LATEST:
            raise ValueError(f"the clock of a dynamic table stands at {before} and goes up to {_LATEST}, got {now}")
        self.tally[0], self.tally[1] = now, 1

    def holds(self, ids: Tensor, vocabulary: Tensor | int) -> Tensor:
        """bool [*]: which ids have a row of their own."""
        columns = vocabulary if isinstance(vocabulary, Tensor) else torch.tensor(vocabulary, device=ids.device)
        return find_rows(ids, columns, self.blocks, self.identities, self.config.max_probe, shared=False) >= 0

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        ids = ids.expand(torch.broadcast_shapes(ids.shape, vocabulary.shape))
        zeros = self.config.absent == "zero"
        if self._takes(ids):
            rows = self._take(ids, vocabulary)
            if zeros:
                rows = torch.where(self._is_reserved(rows, vocabulary), -1, rows)
        else:
            rows = find_rows(ids, vocabulary, self.blocks, self.identities, self.config.max_probe, not zeros)
        return self.store(rows) if not zeros else self._or_zeros(rows)

    def _or_zeros(self, rows: Tensor) -> Tensor:
        if not is_eager(rows):
            return self.store(rows.clamp(min=0)).masked_fill((rows < 0).unsqueeze(-1), 0.0)
        flat = rows.reshape(-1)
        kept = (flat >= 0).nonzero().squeeze(1)
        found = self.store(flat[kept])
        vectors = found.new_zeros(flat.numel(), self.embedding_dim).index_copy(0, kept, found)
        return vectors.view(*rows.shape, self.embedding_dim)

    def _is_reserved(self, rows: Tensor, vocabulary: Tensor) -> Tensor:
        """bool [*]: rows that hold no id, of ids that so have none."""
        size = self.num_rows[vocabulary]
        return (size > 0) & (rows - self.first_row[vocabulary] >= size - self.reserved[vocabulary])

    def _takes(self, ids: Tensor) -> bool:
        if not (self.training and torch.is_grad_enabled() and self.store.trained and is_eager(ids)):
            return False
        return self.options.gradient != "row" or (
            self.store.gradients.optimizer is not None and not self.store.gradients.parts
        )

    @torch.no_grad()
    def _take(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        number = int(self.tally[4])
        made = take_rows(ids, vocabulary, self.blocks, self.state, self.rule)
        if made.admitted.numel():
            self._restart(made, number)
        if self.options.gradient != "row" and not int(self.tally[1]):
            self.tally[0] += 1  # nobody tells of the steps of an optimizer of torch's
        return made.rows

    def _restart(self, made: Admission, number: int) -> None:
        """Rows of new ids, of which ``number`` came before, start again."""
        rows = made.admitted
        if self.evicted is not None:
            lost = made.replaced != EMPTY
            self.evicted.append((rows[lost], made.replaced[lost]))
        if self.config.start == "shared":
            vocabulary = torch.searchsorted(self.first_row, rows, right=True) - 1
            values = self.store.read(shared_rows(self.identities[rows], vocabulary, self.blocks))
        else:
            generator = torch.Generator().manual_seed(salt_of(self.options.seed, "admitted", number) & (2**63 - 1))
            values = torch.empty(rows.numel(), self.embedding_dim, dtype=self.store.dtype)
            values = values.normal_(0.0, self.options.init_std, generator=generator).to(self.store.device)
        optimizer = self.store.gradients.optimizer
        if isinstance(optimizer, RowOptimizer):
            optimizer.reset(self.store, rows, values)
        else:
            self.store.write(rows, values)

    def after_step(self, step: int, optimizer: RowOptimizer | None) -> None:
        """One unit of time more, unless the caller gives the time."""
        self.tally[0] += 1 - self.tally[1]

    def start_from(self, targets: Sequence[FitTarget], seed: int = 0) -> None:
        """Give rows to the ids that occur most, with their vectors; a reserved row is the mean of those it serves."""
        start_from_targets(self, targets)

    def ids_held(self, tensor: Callable[[str], Tensor]) -> dict[str, np.ndarray]:
        identities, first = tensor("identities").cpu().numpy(), [0, *accumulate(self.config.num_rows)]
        blocks = {v.name: identities[a:b] for v, a, b in zip(self.vocabularies, first, first[1:], strict=False)}
        moving = [v.name for v, whole in zip(self.vocabularies, self.whole, strict=True) if not whole]
        return {name: np.sort(blocks[name][blocks[name] != EMPTY]) for name in moving}
