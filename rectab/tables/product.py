"""Product-quantised rows: an id is a few small numbers, each of which picks one part of its vector from a codebook.

What the methods DPQ and MGQE are served as, and the codebooks that they train.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from rectab.ops.packing import pack_codes, packed_bytes
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.compact import gather_present, index_dtype
from rectab.tables.partition import IdPartition
from rectab.tables.registry import TableMethod, register

__all__ = ["CodeStream", "CodesConfig", "CodesTable", "coded_vocabularies", "divisors", "group_sizes"]


@dataclass(frozen=True)
class CodesConfig:
    """Attributes:
    parts: P, numbers of an id.
    bits: of a number, for every group of ids, the most frequent first; a group of b bits chooses from the first 2^b
        centroids of its codebook.
    group_ids: ids of every group, of all vocabularies that are coded.
    coded: indices of these vocabularies; the others keep a row an id.
    one_codebook: all vocabularies share a codebook; otherwise each has its own.
    """

    parts: int
    bits: tuple[int, ...]
    group_ids: tuple[int, ...]
    coded: tuple[int, ...]
    one_codebook: bool = False

    @property
    def books(self) -> int:
        """Codebooks there are."""
        return min(len(self.coded), 1) if self.one_codebook else len(self.coded)


class CodeStream(nn.Module):
    """``count`` numbers of ``bits`` bits in a row, at any place of a byte."""

    packed: Tensor

    def __init__(self, count: int, bits: int, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.count, self.bits = count, bits
        # One byte more: a number of up to 8 bits is read from the two bytes that it may touch.
        self.register_buffer("packed", torch.zeros(packed_bytes(count, bits) + 1, dtype=torch.uint8, device=device))

    def fill(self, codes: Tensor) -> None:
        """int [count]."""
        self.packed[:-1] = pack_codes(codes.reshape(1, -1), self.bits)[0].to(self.packed.device)

    def forward(self, places: Tensor) -> Tensor:
        """int64 [*] -> int64 [*]."""
        first = places * self.bits
        byte, shift = first >> 3, first & 7
        word = self.packed[byte].to(torch.int64) + (self.packed[byte + 1].to(torch.int64) << 8)
        return torch.bitwise_right_shift(word, shift) & ((1 << self.bits) - 1)


class CodesTable(EmbeddingTable[CodesConfig]):
    """Numbers and codebooks; vocabularies that would not become smaller keep a row an id.

    Memory: P * bits bits an id, 2^bits * D floats a codebook, which group an id is in (1 bit an id and less) where
    there are several, the rows of vocabularies that are kept whole, and two integers a vocabulary.
    """

    first_id: Tensor
    book: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: CodesConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        if embedding_dim % config.parts:
            raise ValueError(f"{self.method}: parts {config.parts} does not divide embedding_dim {embedding_dim}")
        if not all(1 <= b <= 8 for b in config.bits) or len(config.bits) != len(config.group_ids):
            raise ValueError(f"{self.method}: every group needs 1..8 bits, got {config.bits}")
        device, sizes = self.options.device, [v.num_embeddings for v in self.vocabularies]
        num_coded = sum(sizes[index] for index in config.coded)
        if sum(config.group_ids) != num_coded:
            raise ValueError(f"{self.method}: groups of {config.group_ids} ids do not hold {num_coded}")
        first, book = self._layout()
        self.register_buffer("first_id", first.to(device))
        self.register_buffer("book", book.to(device))
        if sum(sizes) > num_coded:
            self.rows = self.options.row_store(sum(sizes) - num_coded, embedding_dim, init_std=0.0)
        if config.coded:
            self.groups = IdPartition(num_coded, config.group_ids, device=device)
            streams = [
                CodeStream(n * config.parts, b, device) for n, b in zip(config.group_ids, config.bits, strict=True)
            ]
            self.streams = nn.ModuleList(streams)
            shape = (config.books, config.parts, 1 << max(config.bits), embedding_dim // config.parts)
            self.codebook = nn.Parameter(torch.zeros(shape, device=device), requires_grad=False)

    def _layout(self) -> tuple[Tensor, Tensor]:
        """First number and codebook (-1 for none) of every vocabulary. Coded and whole ones are numbered apart."""
        sizes, coded = [v.num_embeddings for v in self.vocabularies], self.config.coded
        counts = [[size if (i in coded) == kind else 0 for i, size in enumerate(sizes)] for kind in (False, True)]
        whole, inside = (list(accumulate(part, initial=0)) for part in counts)
        first = [inside[i] if i in coded else whole[i] for i in range(len(sizes))]
        book = [-1] * len(sizes)
        for place, index in enumerate(coded):
            book[index] = 0 if self.config.one_codebook else place
        return torch.tensor(first).to(index_dtype(sum(sizes))), torch.tensor(book).to(index_dtype(len(sizes)))

    def check_contents(self) -> None:
        """Refuse numbers, from a file, that are not those of the vocabularies. Raises ValueError."""
        first, book = self._layout()
        if not (torch.equal(self.first_id.cpu(), first) and torch.equal(self.book.cpu(), book)):
            raise ValueError("first_id and book do not number the ids of the vocabularies")

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        number, book = ids + self.first_id[vocabulary], self.book[vocabulary].to(torch.int64).expand(ids.shape)
        vectors = None
        if hasattr(self, "streams"):
            vectors = self._decoded(number.where(book >= 0, 0), book.clamp(min=0))
        if not hasattr(self, "rows"):
            assert vectors is not None
            return vectors
        whole = gather_present(self.rows, number, book < 0)
        return whole if vectors is None else whole.where((book < 0).unsqueeze(-1), vectors.to(whole.dtype))

    def _decoded(self, number: Tensor, book: Tensor) -> Tensor:
        """int64 [*] numbers among the coded ids, int64 [*] codebooks -> [*, D]."""
        group, position = self.groups(number)
        parts = torch.arange(self.config.parts, device=number.device)
        codes = torch.zeros(*number.shape, self.config.parts, dtype=torch.int64, device=number.device)
        for index, stream in enumerate(self.streams):
            here = group == index
            if stream.count:
                place = position.where(here, 0).unsqueeze(-1) * self.config.parts + parts
                codes = stream(place).where(here.unsqueeze(-1), codes)
        _, _, centroids, width = self.codebook.shape
        row = (book.unsqueeze(-1) * self.config.parts + parts) * centroids + codes
        return nn.functional.embedding(row, self.codebook.view(-1, width)).flatten(-2)

    @torch.no_grad()
    def fill(self, groups: Tensor, codes: Tensor, codebook: Tensor) -> None:
        """Take what training made of the coded ids.

        Args:
            groups: int [n], the group of every one of them.
            codes: int [n, P].
            codebook: of the shape of :attr:`codebook`.
        """
        self.groups.fill(groups)
        for index, stream in enumerate(self.streams):
            assert isinstance(stream, CodeStream)
            if stream.count:
                stream.fill(codes[groups == index])
        self.codebook.copy_(codebook)


def group_sizes(vocabularies: Sequence[Vocabulary], coded: Sequence[int], shares: Sequence[float]) -> tuple[int, ...]:
    """Ids of every group, over all coded vocabularies, each of which is cut by ``shares``."""
    if any(not 0 <= index < len(vocabularies) for index in coded):
        raise ValueError(f"coded names vocabularies {tuple(coded)}, and there are {len(vocabularies)}")
    totals = [0] * len(shares)
    for index in coded:
        size = vocabularies[index].num_embeddings
        ends = [round(end * size) for end in accumulate(shares)]
        ends[-1] = size
        for group, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            totals[group] += end - start
    return tuple(totals)


def coded_vocabularies(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: TableOptions,
    bits_an_id: float,
    centroids: int,
    one_codebook: bool,
) -> tuple[int, ...]:
    """Indices of the vocabularies that are smaller as codes, their codebook among them, than as rows."""
    book = 0 if one_codebook else 4 * centroids * embedding_dim
    row = options.row_bytes(embedding_dim)
    sizes = [v.num_embeddings for v in vocabularies]
    return tuple(index for index, size in enumerate(sizes) if size * bits_an_id / 8 + book < size * row)


def divisors(number: int) -> list[int]:
    """1 .. number."""
    return [d for d in range(1, number + 1) if number % d == 0]


register(TableMethod("dpq.codes", "numbers that pick parts from codebooks", CodesConfig, CodesTable))
