"""Where the rows that one of several processes holds lie in the whole table, and what a table says of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from torch.optim import Optimizer

if TYPE_CHECKING:
    from rectab.tables.base import EmbeddingTable

__all__ = ["HoldsAllRows", "Shard"]


@dataclass(frozen=True)
class Shard:
    """A part of a row store of the whole table, which this process holds as a row store of its own.

    Attributes:
        name: of the store here.
        store: of the whole table's.
        first_row, first_column: of that, where the part begins.
        rows, columns: how many the part has.
        shape: (rows, columns) of the whole store.
    """

    name: str
    store: str
    first_row: int
    first_column: int
    rows: int
    columns: int
    shape: tuple[int, int]

    def of(self, whole: Tensor) -> Tensor:
        """What is here of a tensor with a row, or a number, for every row of the whole store."""
        part = whole[self.first_row : self.first_row + self.rows]
        return part if part.dim() < 2 else part[:, self.first_column : self.first_column + self.columns]

    def offsets(self, part: Tensor) -> tuple[int, ...]:
        """Where ``part``, a tensor of the rows here, begins in that of the whole store."""
        return (self.first_row, self.first_column)[: part.dim()]


class HoldsAllRows:
    """What a table says of its rows if this process holds all of them; a table that shares them out says otherwise."""

    def shards(self) -> tuple[Shard, ...] | None:
        """What this process holds of the rows, where several share them out; None where it holds all."""
        return None

    def with_all_rows(self) -> EmbeddingTable:
        """A table whose row stores have all rows: this one, or one of the same layout where rows are shared out."""
        return self  # type: ignore[return-value]

    def own_row_optimizer(self, lr: float) -> Optimizer | None:
        """The optimizer of rows that the table steps by itself; None where row stores are stepped as any others."""
        return None
