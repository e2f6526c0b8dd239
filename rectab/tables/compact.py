"""Tables that are physically small after pruning: only the kept rows, each only as wide as its group's kept dimensions.

The serving forms of the learned methods are built from these parts. They are trained too: a method prunes its full
table, goes on with the compact one, and so has no masks to keep and no pruned entry that could move.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rectab.ops import RowStore
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions

__all__ = ["CompactTable", "RaggedRows", "index_dtype"]

ConfigT = TypeVar("ConfigT")


def index_dtype(largest: int) -> torch.dtype:
    """The narrowest integer type that holds ``-1 .. largest`` and that torch can index and compute with."""
    return next(d for d in (torch.int8, torch.int16, torch.int32, torch.int64) if largest <= torch.iinfo(d).max)


class CompactTable(EmbeddingTable[ConfigT]):
    """Base: numbers the ids of all vocabularies ``0 .. N - 1``, in schema order, and holds what was learned.

    Every id of a vocabulary is served, kept or pruned; any other id raises IndexError, as in the full table.

    Memory: one integer a vocabulary, beside what the method adds.
    """

    first_id: Tensor
    summary: dict[str, Any]

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: ConfigT,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        sizes = [v.num_embeddings for v in self.vocabularies]
        self.num_ids = sum(sizes)
        first = torch.tensor([0, *sizes]).cumsum(0).to(index_dtype(self.num_ids))
        self.register_buffer("first_id", first.to(self.options.device))
        self.summary = {}

    def learned(self) -> dict[str, Any]:
        """What training decided about the shape: ``summary``, as the method filled it; empty for a loaded table."""
        return self.summary

    def number_ids(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        """int64 [*] -> int64 [*] in ``0 .. N - 1``. Raises IndexError for an id outside its vocabulary."""
        numbers = ids + self.first_id[vocabulary]
        if not torch.compiler.is_compiling():
            outside = (ids < 0) | (numbers >= self.first_id[vocabulary + 1])
            if bool(outside.any()):
                raise IndexError(f"id {int(ids[outside][0])} is outside its vocabulary")
        return numbers


class RaggedRows(nn.Module):
    """Groups of rows; the rows of group g hold only the dimensions ``columns[g]``, end to end in one store.

    The store's rows are as wide as the greatest common divisor of the groups' widths, so groups of equal width cost one
    gather a lookup, and any mix of widths is exact.

    Memory: (sum over groups of rows * width) * itemsize, a first row and a width a group, and D integers a group if a
    group keeps other than its first dimensions.

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
        widths = [len(kept) for kept in self.columns]
        self.piece_dim, self.num_pieces, prefixes = self._layout(self.num_rows, self.columns, embedding_dim)
        self.max_width = max(widths)
        pieces = [rows * width // self.piece_dim for rows, width in zip(self.num_rows, widths, strict=True)]
        first = torch.tensor([0, *pieces[:-1]]).cumsum(0).to(index_dtype(self.num_pieces))
        width = torch.tensor(widths).div(self.piece_dim, rounding_mode="floor").to(index_dtype(embedding_dim))
        self.register_buffer("first", first.to(options.device))
        self.register_buffer("width", width.to(options.device))
        if not prefixes:
            place = torch.full((len(widths), embedding_dim), -1)
            for group, kept in enumerate(self.columns):
                place[group, list(kept)] = torch.arange(len(kept))
            self.register_buffer("place", place.to(index_dtype(embedding_dim)).to(options.device))
        self.prefixes = prefixes
        self.store = RowStore(
            self.num_pieces,
            self.piece_dim,
            init_std=0.0,
            gradient=options.gradient,
            dtype=options.dtype,
            device=options.device,
        )

    @staticmethod
    def _layout(num_rows: Sequence[int], columns: Sequence[Sequence[int]], embedding_dim: int) -> tuple[int, int, bool]:
        """(width of the store's rows, how many there are, whether every group keeps its first dimensions)."""
        elements = sum(rows * len(kept) for rows, kept in zip(num_rows, columns, strict=True))
        if elements == 0:
            raise ValueError("a compact table must keep at least one row with at least one dimension")
        if any(not all(0 <= c < embedding_dim for c in kept) or sorted(set(kept)) != list(kept) for kept in columns):
            raise ValueError(f"columns must be ascending and in 0..{embedding_dim - 1}")
        piece_dim = math.gcd(*(len(kept) for rows, kept in zip(num_rows, columns, strict=True) if rows))
        if any(bool(kept) != bool(rows) for rows, kept in zip(num_rows, columns, strict=True)):
            raise ValueError("a group keeps dimensions exactly if it has rows")
        prefixes = all(tuple(kept) == tuple(range(len(kept))) for kept in columns)
        return piece_dim, elements // piece_dim, prefixes

    @staticmethod
    def bytes_of(
        num_rows: Sequence[int], columns: Sequence[Sequence[int]], embedding_dim: int, options: TableOptions
    ) -> int:
        """Bytes of the tensors, for a layout that is not built."""
        piece_dim, pieces, prefixes = RaggedRows._layout(num_rows, columns, embedding_dim)
        small = index_dtype(embedding_dim).itemsize
        groups = len(num_rows) * (index_dtype(pieces).itemsize + small + (0 if prefixes else embedding_dim * small))
        return pieces * piece_dim * options.dtype.itemsize + groups

    def forward(self, group: Tensor, position: Tensor, kept: Tensor) -> Tensor:
        """Vectors of rows.

        Args:
            group: int64 [*].
            position: int64 [*], row within the group; any number where ``kept`` is false.
            kept: bool [*]; false gives the zero vector.

        Returns:
            float [*, D], zero in the dimensions that the group does not keep.
        """
        width = self.width[group].to(torch.int64)
        first = self.first[group] + position * width
        piece = torch.arange(self.max_width // self.piece_dim, device=position.device)
        present = kept.unsqueeze(-1) & (piece < width.unsqueeze(-1))
        rows = first.unsqueeze(-1) + piece
        vectors = gather_present(self.store, rows, present).flatten(-2)
        if not self.prefixes:
            place = self.place[group].to(torch.int64)
            return vectors.gather(-1, place.clamp(min=0)).masked_fill(place < 0, 0.0)
        return nn.functional.pad(vectors, (0, self.embedding_dim - self.max_width))

    @torch.no_grad()
    def fill(self, group: int, vectors: Tensor) -> None:
        """Set the rows of a group from [num_rows, D]: its columns are taken."""
        width = len(self.columns[group])
        first = int(self.first[group]) * self.piece_dim
        flat = vectors[:, list(self.columns[group])].reshape(-1)
        if vectors.shape[0] != self.num_rows[group]:
            raise ValueError(f"group {group} has {self.num_rows[group]} rows, got {vectors.shape[0]}")
        self.store.weight.view(-1)[first : first + self.num_rows[group] * width] = flat


def gather_present(store: RowStore, rows: Tensor, present: Tensor) -> Tensor:
    """int64 [*], bool [*] -> [*, row_dim]: rows of the store where present, else zeros.

    While training only the present rows are looked up, so that no optimizer sees a row that was not read.
    """
    if torch.is_grad_enabled() and store.weight.requires_grad and not torch.compiler.is_compiling():
        zeros = torch.zeros(*rows.shape, store.row_dim, dtype=store.weight.dtype, device=rows.device)
        return zeros.index_put((present,), store(rows[present]))
    return store(rows.where(present, 0)).masked_fill(~present.unsqueeze(-1), 0.0)
