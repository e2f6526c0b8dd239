"""What a block can be held in: encodings with their exact bytes and what each costs the model's output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rectab.id_bytes import RANGE_BYTES
from rectab.ops.packing import packed_bytes
from rectab.quantize.blocks import Block
from rectab.quantize.encodings import Bits, Codebook, Encoding, Float16, Rare, Shared, Ternary
from rectab.quantize.fitted import Fitted
from rectab.quantize.kmeans import QUICK
from rectab.quantize.metric import Metric
from rectab.quantize.sampling import draw_rows

__all__ = ["OptionTable", "Options", "candidates"]

SAMPLE = 4096
"""Vectors of a block that its options are measured on, at most, drawn by weight."""

_MEASURED = (1, 2, 4, 6)  # bits of the codebooks that are fitted
_LEAST = 1e-30  # error, so that it has a logarithm
_SLACK = 0.95  # fits are not the best ones, so two of them may err a little more than one

_GRIDS: tuple[Encoding, ...] = (Bits(8), Bits(6), Bits(4), Bits(3), Bits(2), Ternary(), Bits(1))


@dataclass(frozen=True)
class Options:
    """The encodings of a block that are worth considering: none takes more bytes and errs more than another one.

    Attributes:
        encodings: k of them.
        bytes: int64 [k], rising.
        errors: float64 [k], falling: mean squared change of the model's output, to first order. They are estimates,
            measured on a sample of the ids.
    """

    encodings: tuple[Encoding, ...]
    bytes: np.ndarray
    errors: np.ndarray

    def best(self, price: float) -> int:
        """The option with the least error plus ``price`` times bytes."""
        return int(np.argmin(self.errors + price * self.bytes))

    def cost(self, price: float) -> float:
        """Of the best option: error plus ``price`` times bytes."""
        return float((self.errors + price * self.bytes).min())


def candidates(num_ids: int, embedding_dim: int) -> list[Encoding]:
    """Encodings to try on a block: grids with a step a dimension, codebooks of one to D dimensions, halves.

    Codebooks that take as many bytes as int8 are left out.
    """
    most = Bits(8).bytes(num_ids, embedding_dim)
    books = [
        Codebook(sub_dim, 2**bits)
        for sub_dim in _sub_dims(embedding_dim)
        for bits in range(1, min(4 if sub_dim == 1 else 8, num_ids.bit_length() - 1) + 1)
    ]
    return [Shared(), Float16(), *_GRIDS, *(book for book in books if book.bytes(num_ids, embedding_dim) < most)]


def _sub_dims(embedding_dim: int) -> list[int]:
    """Few are enough: with all of 1..D the errors at a budget are the same to 1 %."""
    narrow = (1, 2, 4, 8) if embedding_dim > 12 else (1, 2, 3, 5)
    return sorted({sub_dim for sub_dim in (*narrow, embedding_dim) if sub_dim <= embedding_dim})


class OptionTable:
    """The options of any block, computed when asked for and kept.

    Args:
        vectors: fp32 [n, D] of every vocabulary; or what gives such rows by ranges and row numbers, and is an array
            to numpy, so that a large table need not be copied to be sorted.
        weights: float64 [n] of every vocabulary: lookups of an id in a row.
        sensitivity: fp64 [V, D, D], see :func:`rectab.quantize.sensitivity.table_sensitivity`: errors are then mean
            squared changes of the output. None: squared changes of the vectors.
        header_bytes: what a block takes beside its payload.
        seed: of the fits.
        rare: fp32 [D] of every vocabulary, in place of the vector of its id 0 (:mod:`rectab.quantize.rare`). None: as
            it is.
        id_bits: of every vocabulary, the bits that an id takes in the map from raw values to ids; they are then part of
            a block's bytes, unless the block is ``rare``: its ids need not be in the map. None: the map is not counted.
        allow_rare: whether blocks may read the vector of id 0.
    """

    def __init__(
        self,
        vectors: Sequence[np.ndarray],
        weights: Sequence[np.ndarray],
        sensitivity: np.ndarray | Sequence[np.ndarray] | None,
        header_bytes: int,
        seed: int = 0,
        rare: Sequence[np.ndarray] | None = None,
        id_bits: Sequence[int] | None = None,
        allow_rare: bool = True,
    ) -> None:
        self._allow_rare = allow_rare
        self._rare, self._id_bits = rare, id_bits
        self.vectors, self.weights = vectors, [np.asarray(w, np.float32) for w in weights]
        self.metrics = (
            [Metric.plain(v.shape[1]) for v in vectors]
            if sensitivity is None
            else [Metric(matrix) for matrix in sensitivity]
        )
        self.header_bytes, self.seed = header_bytes, seed
        self._known: dict[Block, Options] = {}
        self._tried: dict[Block, dict[Encoding, float]] = {}  # errors; of some blocks not of all encodings
        self._least: dict[Block, dict[Encoding, float]] = {}  # of joined blocks: errors of their parts, added up

    def __len__(self) -> int:
        return len(self._known)

    @property
    def counts_ids(self) -> bool:
        """Whether ids in the map from raw values are part of a block's bytes."""
        return self._id_bits is not None

    def of(self, block: Block) -> Options:
        """The options of ``block``."""
        if block not in self._known:
            self._measure(block, _groups(self._encodings(block)))
            self._known[block] = self._worth_considering(block)
        return self._known[block]

    def least_cost_of_two(self, block: Block, other: Block, price: float) -> float:
        """What one block of two neighbours costs at least, error and ``price`` times bytes.

        An encoding fitted to both errs no less than where it is fitted to each.
        """
        return min(self._costs(block, other, price).values())

    def cost_of_two(self, block: Block, other: Block, price: float, most: float) -> float:
        """What one block of two neighbours costs, if that is less than ``most``; else any number from ``most`` on.

        Only encodings that may cost less are measured.
        """
        joined, least = block.joined(other), self._costs(block, other, price)
        self._measure(joined, [group for group in _groups(least) if min(least[e] for e in group) < most])
        tried = self._tried[joined]
        return min((error + price * self.bytes(joined, e) for e, error in tried.items()), default=most)

    def _costs(self, block: Block, other: Block, price: float) -> dict[Encoding, float]:
        """Of one block of two neighbours in every encoding, as measured, or at least."""
        joined = block.joined(other)
        if joined not in self._least:
            one, two = self._floors(block), self._floors(other)
            self._least[joined] = {e: _SLACK * (one.get(e, 0.0) + two.get(e, 0.0)) for e in self._encodings(joined)}
        return {e: error + price * self.bytes(joined, e) for e, error in self._floors(joined).items()}

    def _floors(self, block: Block) -> dict[Encoding, float]:
        """Least errors of all encodings: what was measured, or else what its parts err at least."""
        if block not in self._least:
            self.of(block)
        return self._least.get(block, {}) | self._tried.get(block, {})

    def fit(self, block: Block, encoding: Encoding, kept: np.ndarray | None = None) -> Fitted:
        """An encoding fitted to all vectors of a block; with the codebooks of another payload (uint8) if it has any."""
        vectors, weights = self._rows(block)
        if isinstance(encoding, Rare):
            return self._fit_rare(block, vectors)
        if isinstance(encoding, Codebook) and kept is not None:
            return encoding.with_books(kept, vectors, self.metrics[block.vocabulary])
        return encoding.fit(np.asarray(vectors), weights, self.seed, self.metrics[block.vocabulary])

    def error(self, block: Block, encoding: Encoding, fitted: Fitted | None = None) -> float:
        """Mean squared change of the model's output, to first order, over all vectors of a block."""
        return (fitted or self.fit(block, encoding)).error(self._rows(block)[1])

    def _rows(self, block: Block) -> tuple[np.ndarray, np.ndarray]:
        """(vectors, weights) of a block; copied only where id 0 gets another vector."""
        at = slice(block.first, block.last)
        vectors, weights = self.vectors[block.vocabulary][at], self.weights[block.vocabulary][at]
        if self._rare is not None and block.first == 0:
            vectors = vectors.copy()
            vectors[0] = self._rare[block.vocabulary]
        return vectors, weights

    def _fit_rare(self, block: Block, vectors: np.ndarray) -> Fitted:
        held = self.vectors[block.vocabulary][0] if self._rare is None else self._rare[block.vocabulary]
        return Rare().fit_to(vectors, self.metrics[block.vocabulary], held)

    def bytes(self, block: Block, encoding: Encoding) -> int:
        """What a block takes: its payload, its header and, if the map is counted, its ids there."""
        size = encoding.bytes(len(block), self.vectors[block.vocabulary].shape[1]) + self.header_bytes
        bits = 0 if self._id_bits is None else self._id_bits[block.vocabulary]
        if not bits:
            return size
        if isinstance(encoding, Rare):
            return size + RANGE_BYTES
        return size + packed_bytes(len(block) - (block.first == 0), bits)

    def _encodings(self, block: Block) -> list[Encoding]:
        width = self.vectors[block.vocabulary].shape[1]
        return candidates(len(block), width) + ([Rare()] if self._allow_rare and block.first > 0 else [])

    def _measure(self, block: Block, groups: Sequence[Sequence[Encoding]]) -> None:
        """Try the encodings of these groups, see :func:`_groups`, on a sample of a block's vectors."""
        tried = self._tried.setdefault(block, {})
        groups = [group for group in groups if group[0] not in tried]
        if not groups:
            return
        whole, weights = self._rows(block)
        vectors, mass = draw_rows(whole, weights, SAMPLE, np.random.default_rng(self.seed))
        vectors = np.asarray(vectors)
        scale = weights.sum(dtype=np.float64) / mass.sum(dtype=np.float64)
        metric = self.metrics[block.vocabulary]

        def error(encoding: Encoding) -> float:
            if isinstance(encoding, Rare):
                return scale * self._fit_rare(block, vectors).error(mass)
            return scale * encoding.fit(vectors, mass, self.seed, metric, QUICK).error(mass)

        for group in groups:
            tried |= _errors(group, error)

    def _worth_considering(self, block: Block) -> Options:
        rows = [(self.bytes(block, e), error, e) for e, error in self._tried[block].items()]
        rows.sort(key=lambda row: row[:2])
        kept = [rows[0]]
        kept += [row for best, row in zip(_least_so_far(rows), rows[1:], strict=False) if row[1] < best]
        return Options(
            tuple(row[2] for row in kept),
            np.array([row[0] for row in kept], np.int64),
            np.array([row[1] for row in kept]),
        )


def _groups(encodings: Iterable[Encoding]) -> list[list[Encoding]]:
    """Encodings that are measured together: codebooks of sub-vectors of one width, and every other one by itself."""
    ladders: dict[int, list[Encoding]] = {}
    groups: list[list[Encoding]] = []
    for encoding in encodings:
        if isinstance(encoding, Codebook):
            ladders.setdefault(encoding.sub_dim, []).append(encoding)
        else:
            groups.append([encoding])
    return groups + list(ladders.values())


def _errors(group: Sequence[Encoding], measure: Callable[[Encoding], float]) -> dict[Encoding, float]:
    """Errors of a group, most codebooks' by those of other sizes: log error falls by log size in a nearly straight
    line."""
    books = [encoding for encoding in group if isinstance(encoding, Codebook)]
    if not books:
        return {encoding: measure(encoding) for encoding in group}
    bits = [book.code_bits for book in books]
    taken = [b for b in _MEASURED if b <= bits[-1]] if len(bits) > 2 else bits
    known = [max(measure(books[b - 1]), _LEAST) for b in taken]
    return dict(zip(books, np.exp(_on_lines(bits, taken, np.log(known))).tolist(), strict=True))


def _on_lines(places: Sequence[int], at: Sequence[int], values: np.ndarray) -> np.ndarray:
    """Values at ``places`` on the lines through those known ``at``; the last line goes on."""
    inside = np.interp(places, at, values)
    if len(at) < 2:
        return inside
    slope = (values[-1] - values[-2]) / (at[-1] - at[-2])
    return inside + slope * np.maximum(np.asarray(places) - at[-1], 0)


def _least_so_far(rows: Sequence[tuple[int, float, Encoding]]) -> np.ndarray:
    return np.minimum.accumulate([error for _, error, _ in rows])
