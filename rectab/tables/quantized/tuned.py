"""A packed table whose numbers are trained further: steps, centroids and shared vectors, and on demand the codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from rectab.quantize.encodings import Bits, Codebook, Encoding, Ternary
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.quantized.contents import Contents, payload_of, read_payload
from rectab.tables.quantized.table import QuantizedConfig, QuantizedTable
from rectab.tables.registry import TableMethod, build_table, register

__all__ = ["Codes", "TunedTable"]

Codes = Literal["frozen", "straight-through", "moving"]

_UNIT = 10.0
_NEIGHBOURS = 4


class TunedTable(EmbeddingTable[QuantizedConfig]):
    """What a :class:`QuantizedTable` holds, as parameters; :meth:`serving` packs it again, into as many bytes.

    Parameters are in units of their block: values are small under a penalty (a standard deviation of .0035 on Frappe),
    so a rate of 1e-3 would be a third of one a step. Steps are trained by their logarithm, vectors and centroids in
    units of ten standard deviations of the block's vectors.

    What happens to the codes:

    * ``frozen``: nothing;
    * ``straight-through``: a vector an id is trained behind them, beginning with what was encoded; every lookup reads
      the nearest that its block can hold;
    * ``moving``: the same, beginning with what the table holds, and a code moves to a neighbour (one level, or one of
      the nearest centroids) when training has brought the vector nearer to that.

    Memory: all vectors are decoded for every batch.
    """

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: QuantizedConfig,
        options: TableOptions | None = None,
        codes: Codes = "frozen",
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        if codes not in get_args(Codes):
            raise ValueError(f"codes must be one of {', '.join(get_args(Codes))}, got {codes!r}")
        self.codes = codes
        packed = build_table("quantized.packed", vocabularies, embedding_dim, config, self.options)
        assert isinstance(packed, QuantizedTable)
        self.parts = packed.parts
        sizes = torch.tensor([0, *accumulate(v.num_embeddings for v in vocabularies)])
        self.register_buffer("first_row", sizes[:-1].to(self.options.device))
        self.blocks = nn.ModuleList(
            _Block(part.encoding, content, embedding_dim, self.options.device)
            for part, content in zip(self.parts, _contents(packed), strict=True)
        )
        if codes != "frozen":
            shape = int(sizes[-1]), embedding_dim
            self.latent = nn.Parameter(torch.zeros(shape, device=self.options.device))

    first_row: Tensor

    @classmethod
    def of(cls, table: QuantizedTable, codes: Codes = "frozen", vectors: Sequence[np.ndarray] = ()) -> TunedTable:
        """The vectors of ``table``.

        Args:
            table: packed.
            codes: what happens to them.
            vectors: fp32 [n, D] of every vocabulary: what was encoded, for ``straight-through``.
        """
        made = cls(table.vocabularies, table.embedding_dim, table.config, table.options, codes)
        for block, content in zip(made._blocks(), _contents(table), strict=True):
            block.fill(content)
        if codes == "straight-through":
            made._fill_latent(torch.from_numpy(np.concatenate(list(vectors))))
        elif codes == "moving":
            made._fill_latent(cls.of(table).vectors().detach())
        return made

    def _blocks(self) -> Iterator[_Block]:
        for block in self.blocks:
            assert isinstance(block, _Block)
            yield block

    @torch.no_grad()
    def _fill_latent(self, vectors: Tensor) -> None:
        for block, part in zip(self._blocks(), self.parts, strict=True):
            rows = slice(part.first, part.first + part.num_ids)
            self.latent[rows] = vectors[rows].to(self.latent) / block.unit

    def vectors(self) -> Tensor:
        """fp32 [N, D] of all ids, in schema order, with gradients."""
        decoded: list[Tensor] = []
        shared_by_rare: dict[int, Tensor] = {}
        for block, part in zip(self._blocks(), self.parts, strict=True):
            if not block.values:  # rare: what the vocabulary's id 0 reads
                decoded.append(shared_by_rare[part.vocabulary].expand(part.num_ids, -1))
                continue
            latent = None
            if self.codes != "frozen":
                latent = self.latent[part.first : part.first + part.num_ids] * block.unit
                block.move(latent.detach(), self.codes, self.training)
            decoded.append(block(part.num_ids, latent))
            shared_by_rare.setdefault(part.vocabulary, decoded[-1][:1])
        return torch.cat(decoded)

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        return nn.functional.embedding(ids + self.first_row[vocabulary], self.vectors())

    @torch.no_grad()
    def serving(self) -> EmbeddingTable:
        """Packed again."""
        packed = build_table("quantized.packed", self.vocabularies, self.embedding_dim, self.config, self.options)
        assert isinstance(packed, QuantizedTable)
        if packed.payload.device.type != "meta":
            was_training = self.training
            self.eval().vectors()  # codes of the vectors as they are now
            self.train(was_training)
            payloads = [
                payload_of(part.encoding, block.contents(), self.embedding_dim)
                for block, part in zip(self._blocks(), self.parts, strict=True)
            ]
            packed.payload.copy_(torch.from_numpy(np.concatenate(payloads)))
        return packed


class _Block(nn.Module):
    """The numbers of one block as parameters."""

    unit: Tensor
    scale: Tensor
    codes: Tensor

    def __init__(self, encoding: Encoding, shaped_as: Contents, width: int, device: Any) -> None:
        super().__init__()
        self.encoding, self.width = encoding, width
        self.on_grid = isinstance(encoding, (Bits, Ternary))
        self.values = nn.ParameterList([nn.Parameter(torch.zeros(v.shape, device=device)) for v in shaped_as.values])
        self.register_buffer("unit", torch.ones((), device=device))
        self.register_buffer("scale", torch.zeros((), device=device))
        if shaped_as.codes is not None:
            self.register_buffer("codes", torch.zeros(shaped_as.codes.shape, dtype=torch.int32, device=device))

    @torch.no_grad()
    def fill(self, contents: Contents) -> None:
        given = [torch.from_numpy(v) for v in contents.values]
        self.scale.fill_(contents.scale)
        if contents.codes is not None:
            self.codes.copy_(torch.from_numpy(contents.codes))
        if not given:
            return
        spread = torch.cat([v.reshape(-1) for v in given]).square().mean().sqrt()
        self.unit.fill_(max(_UNIT * float(spread), 1e-12))
        for parameter, value in zip(self.values, given, strict=True):
            parameter.copy_(value.clamp(min=2.0**-24).log() if self.on_grid else value / self.unit)

    def _held(self) -> list[Tensor]:
        return [value.exp() if self.on_grid else value * self.unit for value in self.values]

    def forward(self, num_ids: int, latent: Tensor | None) -> Tensor:
        """fp32 [n, D]; gradients pass on to ``latent`` where there is one."""
        held = self._held()
        if self.on_grid:
            decoded = self.encoding.grid.values(self.codes, held[0])  # type: ignore[attr-defined]
        elif isinstance(self.encoding, Codebook):
            decoded = torch.cat([book[self.codes[:, part].long()] for part, book in enumerate(held)], 1)
        else:
            decoded = held[0].expand(num_ids, self.width)
        return decoded if latent is None or not hasattr(self, "codes") else decoded + (latent - latent.detach())

    @torch.no_grad()
    def move(self, latent: Tensor, how: Codes, training: bool) -> None:
        """Choose codes anew for latent vectors fp32 [n, D]."""
        if not hasattr(self, "codes") or (how == "moving" and not training):
            return
        held = self._held()
        if self.on_grid:
            nearest = self.encoding.grid.nearest(latent, held[0])  # type: ignore[attr-defined]
            self.codes.copy_(nearest if how != "moving" else nearest.clamp(self.codes - 1, self.codes + 1))
            return
        first = 0
        for part, book in enumerate(held):
            piece = latent[:, first : first + book.shape[1]]
            first += book.shape[1]
            self.codes[:, part] = _nearest(piece, book) if how != "moving" else _step(piece, book, self.codes[:, part])

    def contents(self) -> Contents:
        held = tuple(value.detach().cpu().numpy() for value in self._held())
        codes = self.codes.cpu().numpy() if hasattr(self, "codes") else None
        return Contents(held, codes, float(self.scale))


def _nearest(vectors: Tensor, book: Tensor) -> Tensor:
    """fp32 [n, w], [K, w] -> int32 [n]."""
    costs = book.square().sum(1) - 2 * vectors @ book.T
    return costs.argmin(1).to(torch.int32)


def _step(vectors: Tensor, book: Tensor, codes: Tensor) -> Tensor:
    """int32 [n]: the nearest of the centroid that each has now and that one's neighbours."""
    count = min(_NEIGHBOURS + 1, len(book))
    near = torch.cdist(book, book).topk(count, largest=False).indices  # its own first
    candidates = near[codes.long()]
    costs = (book[candidates] - vectors.unsqueeze(1)).square().sum(2)
    return candidates.gather(1, costs.argmin(1, keepdim=True)).squeeze(1).to(torch.int32)


def _contents(table: QuantizedTable) -> list[Contents]:
    width, meta = table.embedding_dim, table.payload.device.type == "meta"
    payloads = [np.zeros(p.end - p.begin, np.uint8) for p in table.parts] if meta else table.payloads()
    return [
        read_payload(payload, part.encoding, part.num_ids, width)
        for payload, part in zip(payloads, table.parts, strict=True)
    ]


register(
    TableMethod(
        name="quantized.tuned",
        summary="blocks of ids whose steps and codebooks are trained further",
        config=QuantizedConfig,
        table=TunedTable,
    )
)
