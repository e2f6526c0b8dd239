"""A table's vectors as the rows of torchrec's and FBGEMM's inference tables: one table a vocabulary."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rectab.ops.fused import fuse, unfuse
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable

__all__ = ["BITS", "HostPrecision", "HostTable", "host_tables", "precision_of"]

HostPrecision = Literal["fp32", "fp16", "int8", "int4", "int2"]

BITS: dict[str, int] = {"int8": 8, "int4": 4, "int2": 2}
"""Of the codes of a row with a scale and a bias."""

_IDS_AT_A_TIME = 1 << 16


@dataclass(frozen=True)
class HostTable:
    """The rows of one vocabulary.

    Attributes:
        vocabulary: what they are of; id i is row i.
        embedding_dim: D.
        precision: how they are held.
        rows: fp32 or fp16 [n, D], or uint8 [n, :func:`rectab.ops.fused.fused_row_bytes`].
        squared_error: sum of the squared differences from the table's vectors.
        squared_size: sum of the squares of these vectors.
    """

    vocabulary: Vocabulary
    embedding_dim: int
    precision: HostPrecision
    rows: Tensor
    squared_error: float
    squared_size: float

    @property
    def bytes(self) -> int:
        return self.rows.numel() * self.rows.element_size()

    @property
    def error(self) -> float:
        """Of the rows, relative to the size of the vectors (root mean square)."""
        return math.sqrt(self.squared_error / self.squared_size) if self.squared_size else 0.0

    def vectors(self, ids: Tensor) -> Tensor:
        """int64 [*] -> fp32 [*, D], as the host decodes them."""
        found = _decoded(self.rows[ids.flatten()], self.precision, self.embedding_dim)
        return found.unflatten(0, ids.shape)

    def torchrec(self) -> dict[str, Tensor]:
        """Entries ``weight`` and, of codes, ``weight_qscale`` and ``weight_qbias`` of torchrec's (quantised) state.

        It holds 4 and 2 bits as a tensor type of its own: wrap these weights in ``UInt4Tensor`` or ``UInt2Tensor``.
        """
        if self.precision not in BITS:
            return {"weight": self.rows}
        scale, bias = self.rows[:, -4:].contiguous().view(torch.float16).split(1, 1)
        return {
            "weight": self.rows[:, :-4].contiguous(),
            "weight_qscale": scale.contiguous(),
            "weight_qbias": bias.contiguous(),
        }

    def fbgemm(self) -> dict[str, Tensor]:
        """``weight`` uint8 [n, bytes of the numbers] and, of codes, ``scale_shift`` uint8 [n, 4]: an entry of the
        ``weight_lists`` of ``IntNBitTableBatchedEmbeddingBagsCodegen``."""
        if self.precision not in BITS:
            return {"weight": self.rows.view(torch.uint8)}
        return {"weight": self.rows[:, :-4].contiguous(), "scale_shift": self.rows[:, -4:].contiguous()}


def precision_of(table: EmbeddingTable) -> HostPrecision:
    """The nearest one: as the rows are where they are floats or in a layout of hosts, else int8."""
    rows = table.options.rows
    bits = {"fused4": 4, "fused2": 2}.get(rows)
    if bits is not None and table.embedding_dim % (8 // bits) == 0:
        return "int4" if bits == 4 else "int2"
    if table.method.startswith("quantized") or rows not in ("fp32", "fp16", "bf16"):
        return "int8"
    return "fp16" if rows == "fp16" else "fp32"


def host_tables(table: EmbeddingTable, precision: HostPrecision) -> list[HostTable]:
    """Every vocabulary's vectors, encoded a part at a time: fp32 of a whole vocabulary is never held.

    Raises:
        ValueError: a vocabulary takes the hash of any value, so no rows hold its vectors; or the width does not fill
            whole bytes of such codes.
    """
    hashed = [v.name for v in table.vocabularies if v.hashed]
    if hashed:
        raise ValueError(
            f"{', '.join(hashed)}: ids are hashes of any value, which no table with a row an id can hold; export the "
            "whole model with --to onnx or --to pt2"
        )
    a_byte = 8 // BITS.get(precision, 8)
    if table.embedding_dim % a_byte:
        raise ValueError(f"{precision} needs an embedding_dim that {a_byte} divides; it is {table.embedding_dim}")
    return [_host_table(table, index, precision) for index in range(len(table.vocabularies))]


@torch.no_grad()
def _host_table(table: EmbeddingTable, index: int, precision: HostPrecision) -> HostTable:
    parts, error, size = [], 0.0, 0.0
    for vectors in _vectors(table, index):
        parts.append(_encoded(vectors, precision))
        error += float((_decoded(parts[-1], precision, table.embedding_dim) - vectors).double().square().sum())
        size += float(vectors.double().square().sum())
    return HostTable(table.vocabularies[index], table.embedding_dim, precision, torch.cat(parts), error, size)


def _vectors(table: EmbeddingTable, index: int) -> Iterator[Tensor]:
    """fp32 [m, D], ids in order."""
    vocabulary, size = torch.tensor(index), table.vocabularies[index].num_embeddings
    for first in range(0, size, _IDS_AT_A_TIME):
        yield table(torch.arange(first, min(first + _IDS_AT_A_TIME, size)), vocabulary).float()


def _encoded(vectors: Tensor, precision: HostPrecision) -> Tensor:
    if precision in BITS:
        return fuse(vectors, BITS[precision])
    return vectors.half() if precision == "fp16" else vectors


def _decoded(rows: Tensor, precision: HostPrecision, embedding_dim: int) -> Tensor:
    return unfuse(rows, BITS[precision], embedding_dim) if precision in BITS else rows.float()
