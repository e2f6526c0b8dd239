"""Bytes that are counted: every tensor a module or an optimizer holds, by component."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rectab.ops import RowStore

__all__ = ["Ledger", "LedgerEntry", "bound", "measure", "measure_tensors", "parameters_held", "state_of"]


@dataclass(frozen=True)
class LedgerEntry:
    """One tensor held.

    Attributes:
        component: where it hangs, as in ``state_dict`` (``store.weight``).
        kind: ``rows`` (embedding rows with their scales), ``index`` (salts, offsets, remaps, codes), ``decoder`` (other
            parameters), ``gradient`` or ``optimizer``.
        dtype: torch dtype without the ``torch.``.
        shape: shape of the tensor.
        bytes: bytes of its storage.
    """

    component: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Ledger:
    """Every tensor held, once each."""

    entries: tuple[LedgerEntry, ...]

    def __iter__(self) -> Iterator[LedgerEntry]:
        return iter(self.entries)

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(self.entries + other.entries)

    @property
    def bytes(self) -> int:
        """Bytes of all entries together: of whole storages, each once."""
        return sum(entry.bytes for entry in self.entries)

    def only(self, kind: str) -> Ledger:
        """The entries of one kind."""
        return Ledger(tuple(entry for entry in self.entries if entry.kind == kind))

    def by_kind(self) -> dict[str, int]:
        """Bytes of each kind, largest first."""
        total: dict[str, int] = {}
        for entry in self.entries:
            total[entry.kind] = total.get(entry.kind, 0) + entry.bytes
        return dict(sorted(total.items(), key=lambda item: -item[1]))


def bound(budget: int | None, smallest: int, largest: int) -> Ledger:
    """One entry, the most that training may end in: ``budget`` as far as there are forms of that size."""
    size = largest if budget is None else max(smallest, min(budget, largest))
    return Ledger((LedgerEntry("rows and indexes, at most", "rows", "", (), size),))


def measure(module: nn.Module) -> Ledger:
    """The parameters and buffers of ``module``, each storage once (a view counts its whole storage)."""
    rows = {
        id(tensor) for store in module.modules() if isinstance(store, RowStore) for tensor in store.tensors.values()
    }
    named = [(name, "rows" if id(p) in rows else "decoder", p) for name, p in parameters_held(module)]
    named += [(name, "rows" if id(b) in rows else "index", b) for name, b in module.named_buffers()]
    return Ledger(tuple(_entries(named)))


def parameters_held(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, parameter) of all but the handles of row gradients, which hold nothing of a table."""
    stores = [store for store in module.modules() if isinstance(store, RowStore) and store.gradient == "row"]
    handles = {id(store.handle) for store in stores}
    return ((name, parameter) for name, parameter in module.named_parameters() if id(parameter) not in handles)


def measure_tensors(named: Iterable[tuple[str, Tensor]], kind: str) -> Ledger:
    """A ledger of loose tensors (optimizer state, gradients), each storage once."""
    return Ledger(tuple(_entries((name, kind, tensor) for name, tensor in named)))


def _entries(named: Iterable[tuple[str, str, Tensor]]) -> Iterator[LedgerEntry]:
    seen: set[object] = set()
    for name, kind, tensor in named:
        storage = tensor.untyped_storage()
        # Tensors on the meta device have no address, so their identity stands in for it.
        key = id(tensor) if tensor.device.type == "meta" else storage.data_ptr()
        if key in seen and storage.nbytes():
            continue
        seen.add(key)
        dtype = str(tensor.dtype).removeprefix("torch.")
        yield LedgerEntry(name, kind, dtype, tuple(tensor.shape), storage.nbytes())


def state_of(optimizer: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of an optimizer's state; row optimizers give theirs by ``state_tensors``."""
    if hasattr(optimizer, "state_tensors"):
        yield from optimizer.state_tensors()
        return
    for index, state in enumerate(optimizer.state.values()):
        for key, value in state.items():
            if isinstance(value, Tensor):
                yield f"{index}.{key}", value
