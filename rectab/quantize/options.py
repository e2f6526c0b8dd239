"""What a block can be held in: encodings with their exact bytes and what each costs the model's output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

    def __len__(self) -> int:
        return len(self._known)

    @property
    def counts_ids(self) -> bool:
        """Whether ids in the map from raw values are part of a block's bytes."""
        return self._id_bits is not None

    def of(self, block: Block) -> Options:
        """The options of ``block``."""
        if block not in self._known:
            self._known[block] = self._measure(block)
        return self._known[block]

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

    def _measure(self, block: Block) -> Options:
        whole, weights = self._rows(block)
        vectors, mass = draw_rows(whole, weights, SAMPLE, np.random.default_rng(self.seed))
        vectors = np.asarray(vectors)
        scale = weights.sum(dtype=np.float64) / mass.sum(dtype=np.float64)
        metric, width = self.metrics[block.vocabulary], vectors.shape[1]

        def error(encoding: Encoding) -> float:
            if isinstance(encoding, Rare):
                return scale * self._fit_rare(block, vectors).error(mass)
            return scale * encoding.fit(vectors, mass, self.seed, metric, QUICK).error(mass)

        found = candidates(len(block), width) + ([Rare()] if self._allow_rare and block.first > 0 else [])
        errors = _errors(found, error)
        rows = [(self.bytes(block, e), errors[e], e) for e in found]
        rows.sort(key=lambda row: row[:2])
        kept = [rows[0]]
        kept += [row for best, row in zip(_least_so_far(rows), rows[1:], strict=False) if row[1] < best]
        return Options(
            tuple(row[2] for row in kept),
            np.array([row[0] for row in kept], np.int64),
            np.array([row[1] for row in kept]),
        )


def _errors(encodings: Sequence[Encoding], measure: Callable[[Encoding], float]) -> dict[Encoding, float]:
    """Errors of all, most codebooks' by those of other sizes: log error falls by log size in a nearly straight line."""
    ladders: dict[int, list[Codebook]] = {}
    for encoding in encodings:
        if isinstance(encoding, Codebook):
            ladders.setdefault(encoding.sub_dim, []).append(encoding)
    found = {encoding: measure(encoding) for encoding in encodings if not isinstance(encoding, Codebook)}
    for books in ladders.values():
        bits = [book.code_bits for book in books]
        taken = [b for b in _MEASURED if b <= bits[-1]] if len(bits) > 2 else bits
        known = [max(measure(books[b - 1]), _LEAST) for b in taken]
        found |= dict(zip(books, np.exp(_on_lines(bits, taken, np.log(known))).tolist(), strict=True))
    return found


def _on_lines(places: Sequence[int], at: Sequence[int], values: np.ndarray) -> np.ndarray:
    """Values at ``places`` on the lines through those known ``at``; the last line goes on."""
    inside = np.interp(places, at, values)
    if len(at) < 2:
        return inside
    slope = (values[-1] - values[-2]) / (at[-1] - at[-2])
    return inside + slope * np.maximum(np.asarray(places) - at[-1], 0)


def _least_so_far(rows: Sequence[tuple[int, float, Encoding]]) -> np.ndarray:
    return np.minimum.accumulate([error for _, error, _ in rows])
