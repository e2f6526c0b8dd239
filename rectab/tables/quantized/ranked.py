"""A packed table for ids in any order: a bit-packed partition says in which block an id is, and its rank there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rectab.ops.packing import pack_codes, packed_bytes, unpack_codes
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.quantized.table import QuantizedConfig, QuantizedTable

__all__ = ["Partition", "RankedTable", "partition_bytes"]

_GROUP = 256  # ids between two stored counts
_AT_A_TIME = 4096  # ids, outside graphs: each unpacks the codes of its group


def _bits(num_blocks: int) -> int:
    return (num_blocks - 1).bit_length()


def partition_bytes(num_ids: int, num_blocks: int) -> int:
    """Bytes of a :class:`Partition`; none for one block."""
    if num_blocks == 1:
        return 0
    groups = -(-num_ids // _GROUP)
    return groups * (packed_bytes(_GROUP, _bits(num_blocks)) + 4 * num_blocks) + 4 * num_blocks


class Partition(nn.Module):
    """Maps ids to positions: the blocks one after another, ids in rising order within each.

    Args:
        block_of: int64 [num_ids], the block of every id; no block is empty.
        num_blocks: how many there are, at least two.
    """

    codes: Tensor
    counts: Tensor
    firsts: Tensor

    def __init__(self, block_of: Tensor, num_blocks: int) -> None:
        super().__init__()
        self.bits = _bits(num_blocks)
        groups = -(-len(block_of) // _GROUP)
        padded = nn.functional.pad(block_of, (0, groups * _GROUP - len(block_of)))
        self.register_buffer("codes", pack_codes(padded.view(groups, _GROUP), self.bits))
        keys = torch.arange(len(block_of)) // _GROUP * num_blocks + block_of
        held = torch.bincount(keys, minlength=groups * num_blocks).view(groups, num_blocks)
        self.register_buffer("counts", (held.cumsum(0) - held).to(torch.int32))
        sizes = held.sum(0)
        self.register_buffer("firsts", (sizes.cumsum(0) - sizes).to(torch.int32))

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [m] ids -> int64 [m] positions."""
        if torch.compiler.is_compiling() or len(ids) <= _AT_A_TIME:
            return self._positions(ids)
        return torch.cat([self._positions(part) for part in ids.split(_AT_A_TIME)])

    def _positions(self, ids: Tensor) -> Tensor:
        group, place = ids // _GROUP, ids % _GROUP
        codes = unpack_codes(self.codes[group], self.bits, _GROUP)
        own = codes.gather(1, place.unsqueeze(1))
        before = torch.arange(_GROUP, device=ids.device) < place.unsqueeze(1)
        rank = ((codes == own) & before).sum(1)
        block = own[:, 0].to(torch.int64)
        return rank + self.counts[group, block] + self.firsts[block]


class RankedTable(EmbeddingTable[QuantizedConfig]):
    """One vocabulary whose ids are in any order, over a packed table in which they are sorted into blocks.

    Args:
        vocabulary: of the ids.
        packed: the table by positions.
        partition: from ids to positions; None if they are the same.
        dtype: of the vectors.
    """

    method = "quantized.packed"

    def __init__(
        self, vocabulary: Vocabulary, packed: QuantizedTable, partition: Partition | None, dtype: torch.dtype
    ) -> None:
        super().__init__([vocabulary], packed.embedding_dim, packed.config, TableOptions(unseen="error"))
        self.packed, self.partition, self._dtype = packed, partition, dtype

    @property
    def dtype(self) -> torch.dtype:
        """Of its vectors."""
        return self._dtype

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        positions = ids if self.partition is None else self.partition(ids.reshape(-1)).reshape(ids.shape)
        return self.packed(positions, 0).to(self._dtype)
