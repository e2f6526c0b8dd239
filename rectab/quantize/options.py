"""What a block can be held in: encodings with their exact bytes and what each costs the model's output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rectab.quantize.blocks import Block
from rectab.quantize.encodings import Bits, Codebook, Encoding, Float16, Shared, Ternary

__all__ = ["OptionTable", "Options", "candidates"]

_GRIDS: tuple[Encoding, ...] = (Bits(8), Bits(6), Bits(4), Bits(3), Bits(2), Ternary(), Bits(1))


@dataclass(frozen=True)
class Options:
    """The encodings of a block that are worth considering: none takes more bytes and errs more than another one.

    Attributes:
        encodings: k of them.
        bytes: int64 [k], rising.
        errors: float64 [k], falling: mean squared change of the model's output, to first order.
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
    found: list[Encoding] = [Shared(), Float16(), *_GRIDS]
    most = Bits(8).bytes(num_ids, embedding_dim)
    for sub_dim in sorted({s for s in (1, 2, 3, 4, 5, 7, 8, embedding_dim) if s <= embedding_dim}):
        largest = 16 if sub_dim == 1 else 256
        books = (Codebook(sub_dim, 2**bits) for bits in range(1, 9) if 2**bits <= min(largest, num_ids))
        found += [book for book in books if book.bytes(num_ids, embedding_dim) < most]
    return found


class OptionTable:
    """The options of any block, computed when asked for and kept.

    Args:
        vectors: fp32 [n, D] of every vocabulary.
        weights: float64 [n] of every vocabulary: what a squared change of an id's vector costs. Where it is the id's
            lookups a row times the mean squared gradient of the output by an element, errors are mean squared
            changes of the output.
        header_bytes: what a block takes beside its payload.
        seed: of the fits.
    """

    def __init__(
        self,
        vectors: Sequence[np.ndarray],
        weights: Sequence[np.ndarray],
        header_bytes: int,
        seed: int = 0,
    ) -> None:
        self.vectors, self.weights = vectors, [np.asarray(w, np.float32) for w in weights]
        self.header_bytes, self.seed = header_bytes, seed
        self._known: dict[Block, Options] = {}

    def __len__(self) -> int:
        return len(self._known)

    def of(self, block: Block) -> Options:
        """The options of ``block``."""
        if block not in self._known:
            self._known[block] = self._measure(block)
        return self._known[block]

    def _measure(self, block: Block) -> Options:
        vectors = self.vectors[block.vocabulary][block.first : block.last]
        weights = self.weights[block.vocabulary][block.first : block.last]
        size, width = vectors.shape
        rows = []
        for encoding in candidates(size, width):
            error = encoding.fit(vectors, weights, self.seed).error(weights)
            rows.append((encoding.bytes(size, width) + self.header_bytes, error, encoding))
        rows.sort(key=lambda row: row[:2])
        kept = [rows[0]]
        kept += [row for best, row in zip(_least_so_far(rows), rows[1:], strict=False) if row[1] < best]
        return Options(
            tuple(row[2] for row in kept),
            np.array([row[0] for row in kept], np.int64),
            np.array([row[1] for row in kept]),
        )


def _least_so_far(rows: Sequence[tuple[int, float, Encoding]]) -> np.ndarray:
    return np.minimum.accumulate([error for _, error, _ in rows])
