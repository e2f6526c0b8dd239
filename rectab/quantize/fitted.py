"""An encoding fitted to a block of vectors: few parameters; its payload, its vectors and its error on demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch

from rectab.ops.grids import Grid
from rectab.ops.packing import pack_codes
from rectab.quantize.kmeans import kmeans, nearest_centroids
from rectab.quantize.steps import fit_steps, nearest_codes

__all__ = ["CodebookFit", "Fitted", "Float16Fit", "GridFit", "check_block"]

_FP16_MAX = 65504.0


def check_block(name: str, vectors: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and weights as fp32, weights all 1 if they were all 0. Raises ValueError, naming the row."""
    vectors, weights = np.asarray(vectors, np.float32), np.asarray(weights, np.float32)
    if vectors.ndim != 2 or 0 in vectors.shape or weights.shape != vectors.shape[:1]:
        raise ValueError(
            f"{name}: needs vectors [n, D] and weights [n], n and D at least 1, got {vectors.shape} and {weights.shape}"
        )
    for what, array in (("vector", vectors), ("weight", weights)):
        if not np.isfinite(array.sum(dtype=np.float64)):
            finite = np.isfinite(array).reshape(len(array), -1).all(1)
            if not finite.all():
                raise ValueError(f"{name}: the {what} of row {int(finite.argmin())} is not a finite number")
    if weights.min() < 0:
        raise ValueError(f"{name}: the weight of row {int(weights.argmin())} is negative")
    return vectors, weights if weights.max() > 0 else np.ones_like(weights)


class Fitted(ABC):
    """What :meth:`~rectab.quantize.encodings.Encoding.fit` gives. It refers to the block's vectors."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    @abstractmethod
    def payload(self) -> np.ndarray:
        """uint8 [bytes(n, D)]: the stored form."""

    @abstractmethod
    def decode(self) -> np.ndarray:
        """fp32 [n, D]: exactly what the stored form gives back."""

    def error(self, weights: np.ndarray) -> float:
        """Sum over ids of weight times squared distance to the decoded vector, for fp32 [n] weights."""
        return float((weights[:, None] * np.square(self.decode() - self.vectors, dtype=np.float64)).sum())


class GridFit(Fitted):
    """``steps`` fp32 [1, 1], [1, D] or [n, 1], of a grid."""

    def __init__(self, vectors: np.ndarray, grid: Grid, steps: np.ndarray) -> None:
        super().__init__(vectors)
        self.grid, self.steps = grid, steps

    @classmethod
    def of(
        cls, vectors: np.ndarray, weights: np.ndarray, grid: Grid, per: Literal["block", "dimension", "row"]
    ) -> GridFit:
        if per == "dimension":
            return cls(vectors, grid, fit_steps(grid, vectors, weights)[None])
        if per == "row":
            return cls(vectors, grid, fit_steps(grid, vectors.T, np.ones(vectors.shape[1], np.float32))[:, None])
        return cls(vectors, grid, fit_steps(grid, vectors.reshape(-1, 1), np.repeat(weights, vectors.shape[1]))[None])

    def payload(self) -> np.ndarray:
        codes = torch.from_numpy(nearest_codes(self.grid, self.vectors, self.steps))
        return np.concatenate([_halves(self.steps), self.grid.pack(codes.reshape(-1)).numpy()])

    def decode(self) -> np.ndarray:
        codes = torch.from_numpy(nearest_codes(self.grid, self.vectors, self.steps))
        return self.grid.values(codes, torch.from_numpy(self.steps)).numpy()


class CodebookFit(Fitted):
    """Centroids as they are stored, one array fp32 [K, width] a part, and their scale; None for fp16 centroids."""

    def __init__(self, vectors: np.ndarray, books: list[np.ndarray], scale: float | None) -> None:
        super().__init__(vectors)
        self.books, self.scale = books, scale

    @classmethod
    def of(
        cls, vectors: np.ndarray, weights: np.ndarray, sub_dim: int, num_codes: int, entries: str, seed: int
    ) -> CodebookFit:
        books = [
            kmeans(np.ascontiguousarray(vectors[:, first : first + sub_dim]), weights, num_codes, seed)
            for first in range(0, vectors.shape[1], sub_dim)
        ]
        if entries == "fp16":
            halves = [np.clip(book, -_FP16_MAX, _FP16_MAX).astype(np.float16).astype(np.float32) for book in books]
            return cls(vectors, halves, None)
        largest = max(float(np.abs(book).max()) for book in books)
        scale = float(np.float32(np.float16(min(largest / 127, _FP16_MAX))))
        if scale * 127 < largest:  # rounded down, so the largest entry would be cut
            scale = float(np.float32(np.nextafter(np.float16(scale), np.float16(_FP16_MAX))))
        rounded = [np.clip(np.rint(book / scale if scale else book * 0), -127, 127) for book in books]
        return cls(vectors, [(book * scale).astype(np.float32) for book in rounded], scale)

    def _codes(self) -> Iterator[np.ndarray]:
        first = 0
        for book in self.books:
            yield nearest_centroids(np.ascontiguousarray(self.vectors[:, first : first + book.shape[1]]), book)
            first += book.shape[1]

    def payload(self) -> np.ndarray:
        entries = np.concatenate([book.reshape(-1) for book in self.books])
        if self.scale is None:
            book = _halves(entries)
        else:
            book = np.rint(entries / self.scale if self.scale else entries).astype(np.int8).view(np.uint8)
            book = np.concatenate([_halves(np.array([self.scale])), book])
        bits = (len(self.books[0]) - 1).bit_length()
        if bits == 0:
            return book
        codes = torch.from_numpy(np.stack(list(self._codes()), 1)).reshape(-1)
        return np.concatenate([book, pack_codes(codes, bits).numpy()])

    def decode(self) -> np.ndarray:
        return np.concatenate([book[codes] for book, codes in zip(self.books, self._codes(), strict=True)], 1)


class Float16Fit(Fitted):
    """Nothing is fitted."""

    def payload(self) -> np.ndarray:
        return _halves(np.clip(self.vectors, -_FP16_MAX, _FP16_MAX))

    def decode(self) -> np.ndarray:
        return np.clip(self.vectors, -_FP16_MAX, _FP16_MAX).astype(np.float16).astype(np.float32)


def _halves(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).astype("<f2").reshape(-1).view(np.uint8)
