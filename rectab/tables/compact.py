"""Tables that are physically small after pruning: only the kept rows, each only as wide as its group's kept dimensions.

The serving forms of the learned methods are built from these parts. They are trained too: a method prunes its full
table, goes on with the compact one, and so has no masks to keep and no pruned entry that could move.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor, nn

from rectab.ops import RowStore, address_rows
from rectab.ops.dispatch import is_eager, kernels_for
from rectab.ops.steps import LearnedSteps
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.findings import Finding

__all__ = ["CompactTable", "RaggedRows", "gather_present", "index_dtype"]

ConfigT = TypeVar("ConfigT")


def index_dtype(largest: int) -> torch.dtype:
    """The narrowest integer type that holds ``-1 .. largest`` and that torch can index and compute with."""
    return next(d for d in (torch.int8, torch.int16, torch.int32, torch.int64) if largest <= torch.iinfo(d).max)


class CompactTable(EmbeddingTable[ConfigT]):
    """Base: numbers the ids of all vocabularies ``0 .. N - 1``, in schema order, and holds what was learned.

    Every id of a vocabulary is served, kept or pruned.

    Memory: one integer a vocabulary, beside what the method adds.
    """

    lookup_refuses = True
    first_id: Tensor
    findings: tuple[Finding, ...]

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: ConfigT,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        self.num_ids = sum(v.num_embeddings for v in self.vocabularies)
        self.register_buffer("first_id", self._first_ids().to(self.options.device))
        self.findings = ()

    def _first_ids(self) -> Tensor:
        sizes = [v.num_embeddings for v in self.vocabularies]
        return torch.tensor([0, *accumulate(sizes)]).to(index_dtype(self.num_ids))

    def check_contents(self) -> None:
        """Refuse numbers of ids, from a file, that are not those of the vocabularies. Raises ValueError."""
        if not torch.equal(self.first_id.cpu(), self._first_ids()):
            raise ValueError("first_id does not number the ids of the vocabularies")

    def serving(self) -> EmbeddingTable:
        """With the findings of the one that was trained."""
        served = super().serving()
        if isinstance(served, CompactTable):
            served.findings = self.findings
        return served

    def learned(self) -> tuple[Finding, ...]:
        """``findings``, as the method that pruned the table left them; none of a loaded table."""
        return self.findings

    def number_ids(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        """int64 [*] -> int64 [*] in ``0 .. N - 1``. Raises IndexError for an id outside, in eager execution."""
        first = self.first_id[vocabulary].to(torch.int64)
        if not is_eager(ids):
            return ids + first
        return address_rows(ids, torch.zeros_like(first), first, first - self.first_id[vocabulary + 1])


def gather_present(store: RowStore, rows: Tensor, present: Tensor) -> Tensor:
    """int64 [*], bool [*] -> [*, row_dim]: rows where present, else zeros; in fixed shapes, for exports."""
    return store(rows.where(present, 0)).masked_fill(~present.unsqueeze(-1), 0.0)


class RaggedRows(nn.Module):
    """Groups of rows; the rows of group g hold only the dimensions ``columns[g]``. Groups of equal width share a store.

    Memory: sum over groups of rows * (bytes of a row of that width), a first row and a width a group, and D integers a
    group if a group keeps other than its first dimensions.

    Args:
        num_rows: rows of every group.
        columns: kept dimensions of every group, ascending; none for a group without rows.
        embedding_dim: D, width of the vectors given.
        options: how rows are held; they start at 0.
    """

    first: Tensor
    width: Tensor
    place: Tensor

    def __init__(
        self, num_rows: Sequence[int], columns: Sequence[Sequence[int]], embedding_dim: int, options: TableOptions
    ) -> None:
        super().__init__()
        self.num_rows, self.columns, self.embedding_dim = tuple(num_rows), tuple(map(tuple, columns)), embedding_dim
        first, rows_of_width, self.prefixes = self._layout(self.num_rows, self.columns, embedding_dim)
        self._first_rows = tuple(first)
        widths = torch.tensor([len(kept) for kept in self.columns])
        self.register_buffer("first", torch.tensor(first).to(self._first_dtype(rows_of_width)).to(options.device))
        self.register_buffer("width", widths.to(index_dtype(embedding_dim)).to(options.device))
        if not self.prefixes:
            place = torch.full((len(widths), embedding_dim), -1)
            for group, kept in enumerate(self.columns):
                place[group, list(kept)] = torch.arange(len(kept))
            self.register_buffer("place", place.to(index_dtype(embedding_dim)).to(options.device))
        groups = {
            width: [n for n, c in zip(num_rows, columns, strict=True) if len(c) == width] for width in rows_of_width
        }
        self.stores = nn.ModuleDict(
            {
                str(width): options.row_store(rows, width, init_std=0.0, groups=groups[width], steps="filled")
                for width, rows in sorted(rows_of_width.items())
            }
        )

    @staticmethod
    def _layout(
        num_rows: Sequence[int], columns: Sequence[Sequence[int]], embedding_dim: int
    ) -> tuple[list[int], dict[int, int], bool]:
        """(every group's first row in its store, rows of every width, whether every group keeps its first
        dimensions)."""
        if any(not all(0 <= c < embedding_dim for c in kept) or sorted(set(kept)) != list(kept) for kept in columns):
            raise ValueError(f"columns must be ascending and in 0..{embedding_dim - 1}")
        if any(bool(kept) != bool(rows) for rows, kept in zip(num_rows, columns, strict=True)):
            raise ValueError("a group keeps dimensions exactly if it has rows")
        first, rows_of_width = [], dict[int, int]()
        for rows, kept in zip(num_rows, columns, strict=True):
            first.append(rows_of_width.get(len(kept), 0))
            if rows:
                rows_of_width[len(kept)] = first[-1] + rows
        if not rows_of_width:
            raise ValueError("a compact table must keep at least one row with at least one dimension")
        return first, rows_of_width, all(tuple(kept) == tuple(range(len(kept))) for kept in columns)

    @staticmethod
    def _first_dtype(rows_of_width: Mapping[int, int]) -> torch.dtype:
        return index_dtype(max(rows_of_width.values()))

    @staticmethod
    def bytes_of(
        num_rows: Sequence[int], columns: Sequence[Sequence[int]], embedding_dim: int, options: TableOptions
    ) -> int:
        """Bytes of the tensors, for a layout that is not built."""
        _, rows_of_width, prefixes = RaggedRows._layout(num_rows, columns, embedding_dim)
        small = index_dtype(embedding_dim).itemsize
        group_bytes = (
            RaggedRows._first_dtype(rows_of_width).itemsize + small + (0 if prefixes else embedding_dim * small)
        )
        row_bytes = sum(options.row_bytes(width) * rows for width, rows in rows_of_width.items())
        widths = [len(kept) for kept in columns]
        steps = sum(options.step_bytes(widths.count(width)) for width in rows_of_width)
        return int(row_bytes) + steps + len(num_rows) * group_bytes

    def forward(self, group: Tensor, position: Tensor, kept: Tensor) -> Tensor:
        """Vectors of rows.

        Args:
            group: int64 [*].
            position: int64 [*], row within the group; any number where ``kept`` is false.
            kept: bool [*]; false gives the zero vector.

        Returns:
            float [*, D], zero in the dimensions that the group does not keep.
        """
        fast = self._gathered(group, position, kept)
        if fast is not None:
            return fast
        width = self.width[group].where(kept, 0)
        rows = self.first[group] + position
        vectors = self._masked(width, rows) if torch.compiler.is_compiling() else self._sorted(width, rows)
        if self.prefixes:
            return vectors
        place = self.place[group].to(torch.int64)
        return vectors.gather(-1, place.clamp(min=0)).masked_fill(place < 0, 0.0)

    def _gathered(self, group: Tensor, position: Tensor, kept: Tensor) -> Tensor | None:
        """By a kernel, where there is one for this device and format and nothing is recorded for training."""
        stores = list(self._stores())
        gather = (
            getattr(kernels_for(self.width.device), "gather_ragged", None) if is_eager(group, position, kept) else None
        )
        if gather is None or not all(store.reads_plainly for store in stores):
            return None
        weights = {store.row_dim: store.weight for store in stores}
        some = stores[0].weight  # of a group without rows, which is never read
        groups = [
            (weights[len(kept)] if kept else some, first, count)
            for kept, first, count in zip(self.columns, self._first_rows, self.num_rows, strict=True)
        ]
        found: Tensor = gather(group, position, kept, groups, self.columns, self.embedding_dim)
        return found

    def _sorted(self, width: Tensor, rows: Tensor) -> Tensor:
        """int [*], int64 [*] -> [*, D]: every store is asked for the rows of its width only, all at once."""
        widths, order = width.reshape(-1).sort(stable=True)
        counts = torch.bincount(widths, minlength=self.embedding_dim + 1).tolist()
        parts = rows.reshape(-1)[order].split(counts)
        vectors = [self._new_zeros(counts[0])]
        for store in self._stores():
            if counts[store.row_dim]:
                vectors.append(self._padded(store(parts[store.row_dim])))
        together = torch.cat(vectors)
        return torch.empty_like(together).index_copy(0, order, together).view(*rows.shape, self.embedding_dim)

    def _masked(self, width: Tensor, rows: Tensor) -> Tensor:
        """As :meth:`_sorted`, in shapes that do not depend on the ids: for exports."""
        vectors = self._new_zeros(*rows.shape)
        for store in self._stores():
            here = width == store.row_dim
            vectors = vectors + self._padded(gather_present(store, rows, here))
        return vectors

    def _stores(self) -> Iterator[RowStore]:
        for store in self.stores.values():
            assert isinstance(store, RowStore)
            yield store

    def _padded(self, vectors: Tensor) -> Tensor:
        return nn.functional.pad(vectors, (0, self.embedding_dim - vectors.shape[-1]))

    def _new_zeros(self, *shape: int) -> Tensor:
        return next(self._stores()).new_zeros(*shape, self.embedding_dim)

    @torch.no_grad()
    def fill(self, group: int, vectors: Tensor) -> None:
        """Set the rows of a group from [num_rows, D]: its columns are taken."""
        if vectors.shape[0] != self.num_rows[group]:
            raise ValueError(f"group {group} has {self.num_rows[group]} rows, got {vectors.shape[0]}")
        kept, first = list(self.columns[group]), int(self.first[group])
        store = self.stores[str(len(kept))]
        assert isinstance(store, RowStore)
        store.write(slice(first, first + vectors.shape[0]), vectors[:, kept])

    def fit_steps(self) -> None:
        """Begin learned steps, once every group is filled."""
        for store in self._stores():
            store.fit_steps()

    @torch.no_grad()
    def take_steps(self, steps: LearnedSteps) -> None:
        """Go on with steps that were learned of the same groups."""
        for store in self._stores():
            if isinstance(store.steps, LearnedSteps):
                groups = [group for group, kept in enumerate(self.columns) if len(kept) == store.row_dim]
                store.steps.log_step.copy_(steps.log_step[groups])
