"""Starts a table from trained vectors: exact rows where an id has its own, least squares where ids share them.

A table whose output is its rows laid end to end has a closed form: the (weighted) mean of what meets in a row is the
least-squares solution, chunk by chunk. Where rows are added or multiplied, and every chunk has a store of its own, one
chunk after another is solved for, the others held. Any other table is fitted by gradient descent on the same squared
error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rectab.ops import RowStore
from rectab.optim import RowAdam
from rectab.tables.addressing import Address, rows_of

if TYPE_CHECKING:
    from rectab.tables.base import EmbeddingTable

__all__ = ["FitTarget", "fit_table", "reconstruction_error"]

_IDS_AT_A_TIME = 1 << 16
_RATE_OF_A_NETWORK = 2e-3  # whose weights are of one size, whatever that of its output
_SAMPLED_ROWS = 1 << 12  # whose size tells that of a store's
_SMALLEST_WEIGHT = 1e-3
"""Of an id that training never saw: rows that only such ids read are still defined, others hardly feel them."""


@dataclass(frozen=True)
class FitTarget:
    """What the table should give for one vocabulary.

    Attributes:
        vocabulary: its index.
        vectors: float [num_embeddings, D], before any output scale.
        padding_idx: an id that is never read, or None.
        counts: float [num_embeddings], how much each id's error weighs; None for all alike.
    """

    vocabulary: int
    vectors: Tensor
    padding_idx: int | None
    counts: Tensor | None

    @property
    def dtype(self) -> torch.dtype:
        """In which the fit computes: the vectors' own, at least float32."""
        return torch.float64 if self.vectors.dtype == torch.float64 else torch.float32

    def blocks(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(ids int64 [n], vectors [n, D], weights [n]), both of :attr:`dtype`."""
        for ids in torch.arange(self.vectors.shape[0], device=self.vectors.device).split(_IDS_AT_A_TIME):
            if self.padding_idx is not None:
                ids = ids[ids != self.padding_idx]
            if self.counts is None:
                weights = torch.ones(ids.numel(), dtype=self.dtype, device=ids.device)
            else:
                weights = self.counts[ids].to(self.dtype).clamp(min=_SMALLEST_WEIGHT)
            yield ids, self.vectors[ids].to(self.dtype), weights


def fit_table(table: EmbeddingTable, targets: Sequence[FitTarget], seed: int = 0) -> None:
    """Set the weights of ``table`` so that its vectors come nearest to the targets' in (weighted) squares."""
    if table.ids_move:  # which id has a row is for the table to say
        table.start_from(targets, seed)
    elif table.is_rows_end_to_end:
        _fit_rows(table, targets)
    elif table.is_combined_rows and _chunks_apart(table):
        _alternate(table, targets)
    else:
        _descend(table, targets, seed)


def _chunks_apart(table: EmbeddingTable) -> bool:
    """Whether no row is read by two chunks: else what is solved for is also held, and the turns never settle."""
    chunks: dict[str, set[int]] = {}
    for address in table.addresses():
        chunks.setdefault(address.store, set()).add(address.chunk)
    return all(len(found) == 1 for found in chunks.values())


@torch.no_grad()
def _fit_rows(table: EmbeddingTable, targets: Sequence[FitTarget]) -> None:
    dtype, mass, mean = _dtype_of(targets), dict[RowStore, Tensor](), dict[RowStore, Tensor]()
    for store, rows, _, weights in _lookups(table, targets):
        if store not in mass:
            mass[store] = torch.zeros(store.num_rows, dtype=dtype, device=store.device)
            mean[store] = mass[store].new_zeros(store.num_rows, store.row_dim)
        mass[store].index_add_(0, rows, weights.to(dtype))
    for store, rows, vectors, weights in _lookups(table, targets):
        shares = weights.to(dtype) / mass[store][rows]  # 1, to the bit, where an id has the row for itself
        mean[store].index_add_(0, rows, vectors.to(dtype) * shares.unsqueeze(1))
    for store, means in mean.items():
        read = (mass[store] > 0).nonzero().squeeze(1)  # a row that no known id reads keeps its initial value
        store.write(read, means[read])


def _dtype_of(targets: Sequence[FitTarget]) -> torch.dtype:
    return torch.float64 if any(target.dtype == torch.float64 for target in targets) else torch.float32


def _lookups(table: EmbeddingTable, targets: Sequence[FitTarget]) -> Iterator[tuple[RowStore, Tensor, Tensor, Tensor]]:
    """(store, its rows [n], what they should give [n, row_dim], weights [n]) of every target's ids, chunk by chunk."""
    for target in targets:
        for ids, vectors, weights in target.blocks():
            start = 0
            for store, rows in table.reads(ids, torch.full((), target.vocabulary, device=ids.device)):
                for chunk in rows.unbind(-1):
                    yield store, chunk, vectors[:, start : start + store.row_dim], weights
                    start += store.row_dim


@torch.no_grad()
def _alternate(table: EmbeddingTable, targets: Sequence[FitTarget], sweeps: int = 10) -> None:
    """Least squares of the rows of one chunk given those of all others, in turns."""
    dtype = _dtype_of(targets)
    for chunk in sorted({address.chunk for address in table.addresses()}) * sweeps:
        names = {a.store for a in table.addresses() if a.chunk == chunk}
        used: dict[str, RowStore] = {name: table.get_submodule(name) for name in names}  # type: ignore[misc]
        sums = {n: torch.zeros(2, s.num_rows, s.row_dim, dtype=dtype, device=table.device) for n, s in used.items()}
        for target in targets:
            for address, rows, wanted, weights in _given_others(table, target, chunk):
                above, below = sums[address.store]
                above.index_add_(0, rows, wanted.to(dtype))
                below.index_add_(0, rows, weights.to(dtype))
        for name, (above, below) in sums.items():
            read = (below > 0).all(1)
            used[name].write(read.nonzero().squeeze(1), above[read] / below[read])


def _given_others(
    table: EmbeddingTable, target: FitTarget, chunk: int
) -> Iterator[tuple[Address, Tensor, Tensor, Tensor]]:
    """(address, rows int64 [n], numerator [n, D], denominator [n, D]) of the least-squares rows of a chunk."""
    addresses = {a.chunk: a for a in table.addresses() if a.vocabulary == target.vocabulary}
    size = table.vocabularies[target.vocabulary].num_embeddings
    for ids, vectors, weights in target.blocks():
        rows = {c: rows_of(a, ids, size) for c, a in addresses.items()}
        parts = [table.get_submodule(a.store).read(rows[c]) for c, a in addresses.items() if c != chunk]  # type: ignore
        mass = weights.unsqueeze(1).expand_as(vectors)
        if table.combine == "product":
            others = math.prod(parts, start=torch.ones_like(vectors))
            yield addresses[chunk], rows[chunk], mass * vectors * others, mass * others.square()
        else:
            yield addresses[chunk], rows[chunk], mass * (vectors - sum(parts)), mass


@torch.enable_grad()
def _descend(
    table: EmbeddingTable, targets: Sequence[FitTarget], seed: int, passes: int = 40, batch: int = 4096
) -> None:
    """Adam on the squared error, with a rate that falls to zero."""
    was_training = table.training
    table.eval()
    vectors = torch.cat([target.vectors.float() for target in targets])
    blocks = [(target.vocabulary, *block) for target in targets for block in target.blocks()]
    ids = torch.cat([block[1] for block in blocks])
    columns = torch.cat([torch.full_like(block[1], block[0]) for block in blocks])
    wanted = torch.cat([block[2] for block in blocks])
    weights = torch.cat([block[3] for block in blocks])
    weights = weights / weights.mean()
    # Rows that are multiplied are larger than what they make.
    sizes = [float(store.read(slice(0, _SAMPLED_ROWS)).square().mean()) ** 0.5 for _, store in table.row_stores()]
    optimizers = _optimizers(table, 0.1 * max(float(vectors.std()), *sizes, 1e-8))
    generator = torch.Generator().manual_seed(seed)
    steps = passes * -(-ids.numel() // batch)
    for step in range(steps):
        if step % -(-ids.numel() // batch) == 0:
            order = torch.randperm(ids.numel(), generator=generator).to(ids.device)
            start = 0
        chosen, start = order[start : start + batch], start + batch
        error = (table(ids[chosen], columns[chosen]).float() - wanted[chosen]).square().sum(-1)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * (1 - step / steps)
            optimizer.zero_grad()
        (error * weights[chosen]).mean().backward()
        for optimizer in optimizers:
            optimizer.step()
    table.zero_grad()
    table.train(was_training)


def _optimizers(table: EmbeddingTable, rate: float) -> list[torch.optim.Optimizer]:
    rest = list(table.dense_parameters())
    stores = list(table.row_stores())
    optimizers: list[torch.optim.Optimizer] = []
    if stores and table.options.gradient == "row":
        optimizers.append(RowAdam(stores, lr=rate))
    elif stores and table.options.gradient == "sparse":
        optimizers.append(torch.optim.SparseAdam([store.weight for _, store in stores], lr=rate))
    else:
        rest += [store.weight for _, store in stores]
    if not stores:
        rate = min(rate, _RATE_OF_A_NETWORK)
    return [*optimizers, torch.optim.Adam(rest, lr=rate)] if rest else optimizers


@torch.no_grad()
def reconstruction_error(table: EmbeddingTable, target: FitTarget) -> float:
    """Root of the (weighted) squared error over the (weighted) squares: 0 is exact, 1 is no better than zeros."""
    error = energy = 0.0
    was_training = table.training
    table.eval()
    for ids, vectors, weights in target.blocks():
        got = table(ids, target.vocabulary).to(target.dtype)
        error += float(((got - vectors).square().sum(-1) * weights).double().sum())
        energy += float((vectors.square().sum(-1) * weights).double().sum())
    table.train(was_training)
    return (error / energy) ** 0.5 if energy else 0.0
