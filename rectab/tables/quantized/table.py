"""The table whose blocks of ids are held in encodings of their own, in packed bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rectab.ops import numba_blocks
from rectab.ops.dispatch import find_kernel, is_eager, kernel_name
from rectab.ops.numba_support import flat_rows, launch_lookup, thread_count
from rectab.ops.searching import last_at_or_before
from rectab.quantize.allocate import Allocation
from rectab.quantize.encodings import Encoding, Rare, encoding_of
from rectab.quantize.fitted import Fitted
from rectab.quantize.options import OptionTable
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.ledger import Ledger
from rectab.tables.quantized.codes import code_of
from rectab.tables.quantized.decoding import decode_ids
from rectab.tables.registry import TableMethod, build_table, register
from rectab.tables.unseen import refuse_outside

__all__ = ["FIXED_BYTES", "HEADER_BYTES", "QuantizedConfig", "QuantizedTable", "encode_table"]

HEADER_BYTES = 10
"""Bytes of a block beside its payload: its first row, where its payload begins (32 bits), and its encoding."""

FIXED_BYTES = 8
"""Bytes of a vocabulary beside its blocks: its first row, and how many it has, as in the full table."""


@dataclass(frozen=True)
class QuantizedConfig:
    """Attributes, one each a block, in order of vocabulary and first id:

    vocabularies: index of the vocabulary.
    first_ids: the block's first id; the first block of a vocabulary begins at 0.
    encodings: names, see :func:`rectab.quantize.encodings.encoding_of`.
    """

    vocabularies: tuple[int, ...]
    first_ids: tuple[int, ...]
    encodings: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.vocabularies) == len(self.first_ids) == len(self.encodings):
            raise ValueError("quantized: vocabularies, first_ids and encodings must be equally long")


@dataclass(frozen=True)
class _Part:
    """A block as it lies in the table: rows ``first .. first + num_ids - 1``, bytes ``begin .. end - 1``."""

    vocabulary: int
    first: int
    num_ids: int
    encoding: Encoding
    begin: int
    end: int


class QuantizedTable(EmbeddingTable[QuantizedConfig]):
    """Decodes vectors at every lookup.

    Memory: the payload of every block (``Encoding.bytes``), :data:`HEADER_BYTES` a block and :data:`FIXED_BYTES` a
    vocabulary.
    """

    payload: Tensor
    blocks: Tensor
    codes: Tensor
    ranges: Tensor
    lookup_refuses = True

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: QuantizedConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        self.parts = _parts(self.vocabularies, embedding_dim, config)
        for name, tensor in self._tensors().items():
            self.register_buffer(name, tensor.to(self.options.device))
        size = self.parts[-1].end
        self.register_buffer("payload", torch.zeros(size, dtype=torch.uint8, device=self.options.device))

    def _tensors(self) -> dict[str, Tensor]:
        """What follows from the config: first row, first byte and code of every block, rows of every vocabulary.

        Of the first byte the lowest 32 bits are held: all of it follows from the blocks before, and a payload of more
        than 2 GiB needs no wider header.
        """
        sizes = [v.num_embeddings for v in self.vocabularies]
        ranges = list(zip(accumulate([0, *sizes[:-1]]), sizes, strict=True))
        return {
            "blocks": torch.tensor([(part.first, _lowest_bits(part.begin)) for part in self.parts], dtype=torch.int32),
            "codes": torch.tensor([code_of(p.encoding, self.embedding_dim) for p in self.parts], dtype=torch.int16),
            "ranges": torch.tensor(ranges, dtype=torch.int32),
        }

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Refuse the state of another layout before anything is copied: it would be decoded as something else."""
        for name, tensor in self._tensors().items():
            given = state_dict.get(prefix + name)
            differs = given is not None and given.shape == tensor.shape and not given.is_meta
            if differs and not torch.equal(given.cpu(), tensor):
                rest[-1].append(f"quantized: {prefix}{name} are not those of its config")
                return
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def ledger(self, optimizer: Any = None) -> Ledger:
        """As of every table; the payload is what other tables' rows are."""
        entries = super().ledger(optimizer).entries
        return Ledger(tuple(replace(e, kind="rows") if e.component == "payload" else e for e in entries))

    def fill(self, fitted: Iterable[Fitted]) -> None:
        """Hold the payloads of these fits, one a block, each let go before the next is asked for."""
        payload = torch.from_numpy(np.concatenate([fit.payload() for fit in fitted]))
        if len(payload) != len(self.payload):
            raise ValueError(f"quantized: payloads of {len(payload)} bytes for blocks of {len(self.payload)}")
        self.payload.copy_(payload)

    def payloads(self) -> list[np.ndarray]:
        """uint8 of every block; views."""
        held = self.payload.cpu().numpy()
        return [held[part.begin : part.end] for part in self.parts]

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        if is_eager(ids) and kernel_name(self.payload.device) == "numba":
            return self._lookup_by_numba(ids, vocabulary)
        if is_eager(ids) and (kernel := find_kernel("packed", "lookup", self.payload.device)):
            found: Tensor = kernel(
                ids, vocabulary, (self.ranges, self.blocks, self.codes, self.payload), self.embedding_dim
            )
            return found
        refuse_outside(ids, vocabulary, self.vocabularies)
        first = self.ranges[:, 0][vocabulary].to(torch.int64)
        rows = (ids + first).flatten()
        at = last_at_or_before(self.blocks[:, 0], rows)
        rare = torch.tensor([isinstance(part.encoding, Rare) for part in self.parts], device=rows.device)
        rows = torch.where(rare[at], first.expand(ids.shape).flatten(), rows)
        at = last_at_or_before(self.blocks[:, 0], rows)
        found = self._decoded(rows, at) if is_eager(rows) else self._decoded_by_all(rows, at)
        return found.unflatten(0, ids.shape) if ids.dim() else found[0]

    def _lookup_by_numba(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        period = vocabulary if vocabulary.dim() < 2 and vocabulary.numel() else vocabulary.expand(ids.shape)
        out = torch.empty(*ids.shape, self.embedding_dim)
        outside = np.zeros(2, np.int64)
        launch_lookup(
            numba_blocks.lookup,
            thread_count(out.numel()),
            flat_rows(ids),
            flat_rows(period),
            *(tensor.numpy() for tensor in (self.ranges, self.blocks, self.codes, self.payload)),
            out.view(-1, self.embedding_dim).numpy(),
            outside,
        )
        if outside[0]:
            raise IndexError(f"id {int(outside[1])} is outside its vocabulary")
        return out

    def _decoded(self, rows: Tensor, at: Tensor) -> Tensor:
        """fp32 [m, D]: every block decodes the rows that are its own."""
        found = torch.empty(rows.shape[0], self.embedding_dim, device=rows.device)
        for block in at.unique().tolist():
            own = at == block
            found[own] = self._of_block(self.parts[block], rows[own])
        return found

    def _decoded_by_all(self, rows: Tensor, at: Tensor) -> Tensor:
        """The same for graphs, in which no shape may follow from values: every block decodes every row."""
        found = torch.zeros(rows.shape[0], self.embedding_dim, device=rows.device)
        for block, part in enumerate(self.parts):
            if not isinstance(part.encoding, Rare):
                inside = rows.clamp(part.first, part.first + part.num_ids - 1)
                found = torch.where((at == block).unsqueeze(1), self._of_block(part, inside), found)
        return found

    def _of_block(self, part: _Part, rows: Tensor) -> Tensor:
        payload = self.payload[part.begin : part.end]
        return decode_ids(payload, part.encoding, rows - part.first, part.num_ids, self.embedding_dim)


def _lowest_bits(begin: int) -> int:
    """As a signed number of 32 bits."""
    return (begin + (1 << 31)) % (1 << 32) - (1 << 31)


def _parts(vocabularies: Sequence[Vocabulary], embedding_dim: int, config: QuantizedConfig) -> list[_Part]:
    """Raises ValueError where blocks are no partition of the vocabularies."""
    borders = list(zip(config.vocabularies, config.first_ids, strict=True))
    starts = [border for border in borders if border[1] == 0]
    if borders != sorted(set(borders)) or starts != [(index, 0) for index in range(len(vocabularies))]:
        raise ValueError("quantized: blocks must be in order of vocabulary and first id, from id 0 of each on")
    rows = list(accumulate([0, *(v.num_embeddings for v in vocabularies)]))
    parts: list[_Part] = []
    for position, (vocabulary, first_id) in enumerate(borders):
        following = borders[position + 1] if position + 1 < len(borders) else (len(vocabularies), 0)
        size = vocabularies[vocabulary].num_embeddings
        last_id = following[1] if following[0] == vocabulary else size
        if not first_id < last_id <= size:
            raise ValueError(
                f"quantized: vocabulary {vocabularies[vocabulary].name!r} has no ids {first_id}..{last_id}"
            )
        encoding, begin = encoding_of(config.encodings[position]), parts[-1].end if parts else 0
        if isinstance(encoding, Rare) and first_id == 0:
            raise ValueError("quantized: the block of id 0 cannot be rare, it is what rare ids read")
        num_ids = last_id - first_id
        end = begin + encoding.bytes(num_ids, embedding_dim)
        parts.append(_Part(vocabulary, rows[vocabulary] + first_id, num_ids, encoding, begin, end))
    return parts


register(
    TableMethod(
        name="quantized.packed",
        summary="blocks of ids in packed bytes",
        config=QuantizedConfig,
        table=QuantizedTable,
    )
)


def encode_table(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: OptionTable,
    allocation: Allocation,
    held: TableOptions | None = None,
    kept: QuantizedTable | None = None,
) -> QuantizedTable:
    """The table of an allocation, fitted to the vectors of the option table.

    Args:
        vocabularies: what the table serves.
        embedding_dim: D.
        options: that the allocation was made of.
        allocation: what every block is held in.
        held: device and what ids outside read.
        kept: a table of the same blocks, whose codebooks to take.
    """
    blocks, encodings = allocation.blocks, allocation.encodings
    config = QuantizedConfig(
        tuple(block.vocabulary for block in blocks),
        tuple(block.first for block in blocks),
        tuple(encoding.name for encoding in encodings),
    )
    table = build_table("quantized.packed", vocabularies, embedding_dim, config, held)
    assert isinstance(table, QuantizedTable)
    payloads = [None] * len(blocks) if kept is None else kept.payloads()
    table.fill([options.fit(*asked) for asked in zip(blocks, encodings, payloads, strict=True)])
    return table
