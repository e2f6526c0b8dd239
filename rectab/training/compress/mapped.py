"""The id map of an encoded table: which ids it leaves out, and what the others cost."""

from __future__ import annotations

from collections.abc import Sequence

from rectab.id_bytes import RANGE_BYTES, SALT_BYTES, IdRange, key_bits
from rectab.ops.packing import packed_bytes
from rectab.quantize.allocate import Allocation
from rectab.quantize.blocks import Block
from rectab.quantize.encodings import Rare
from rectab.schema import Schema

__all__ = ["id_bits", "omitted_ids", "salt_bytes", "smallest_map"]


def omitted_ids(allocation: Allocation, schema: Schema) -> dict[str, list[IdRange]]:
    """By vocabulary, the ids that read what id 0 reads, so that their values need not be in the map."""
    mapped = {v.name for v in schema.mapped_vocabularies}
    found: dict[str, list[IdRange]] = {}
    for block, encoding in zip(allocation.blocks, allocation.encodings, strict=True):
        name = schema.vocabularies[block.vocabulary].name
        if encoding != Rare() or name not in mapped:
            continue
        ranges = found.setdefault(name, [])
        if ranges and ranges[-1][1] == block.first:
            ranges[-1] = (ranges[-1][0], block.last)
        else:
            ranges.append((block.first, block.last))
    return found


def id_bits(schema: Schema) -> list[int]:
    """What an id of every vocabulary takes in the map of all values; one that leaves some out takes no more."""
    mapped = {v.name for v in schema.mapped_vocabularies}
    return [key_bits(v.num_embeddings - 1) if v.name in mapped else 0 for v in schema.vocabularies]


def salt_bytes(schema: Schema) -> int:
    """What the map takes whatever is left out."""
    return SALT_BYTES * len(schema.mapped_vocabularies)


def smallest_map(schema: Schema, blocks: Sequence[Sequence[Block]], header_bytes: int) -> int:
    """Bytes of the smallest map and of the block headers it costs: each vocabulary keeps all, or its first block."""
    total = salt_bytes(schema)
    for parts, bits in zip(blocks, id_bits(schema), strict=True):
        whole = packed_bytes(parts[-1].last - 1, bits)
        first = packed_bytes(parts[0].last - 1, bits) + RANGE_BYTES + header_bytes
        total += min(whole, first) if len(parts) > 1 else whole
    return total
