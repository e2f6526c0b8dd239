"""An encoding fitted to a block of vectors: few parameters; its payload, its vectors and its error on demand."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch

from rectab.ops.grids import Grid
from rectab.ops.packing import pack_codes
from rectab.quantize.joint import improve_centroids, improve_levels
from rectab.quantize.kmeans import nearest_centroids
from rectab.quantize.metric import Metric
from rectab.quantize.sampling import pieces_of
from rectab.quantize.steps import nearest_codes, to_fp16

__all__ = [
    "CodebookFit",
    "Fitted",
    "Float16Fit",
    "GridFit",
    "RareFit",
    "check_block",
    "halves",
    "integers",
    "scale_of",
]

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
    """What :meth:`~rectab.quantize.encodings.Encoding.fit` gives. It refers to the block's vectors, fp32 [n, D]."""

    def __init__(self, vectors: np.ndarray, metric: Metric) -> None:
        self.vectors, self.metric = vectors, metric

    @abstractmethod
    def payload(self) -> np.ndarray:
        """uint8 [bytes(n, D)]: the stored form."""

    def decode(self) -> np.ndarray:
        """fp32 [n, D]: exactly what the stored form gives back."""
        return np.concatenate([self._decode(piece) for piece in pieces_of(len(self.vectors))])

    def error(self, weights: np.ndarray) -> float:
        """Sum over ids of weight (fp32 [n]) times ``d' G d`` of the change of their vectors; nothing large is made."""
        return sum(
            float(weights[piece].astype(np.float64) @ self.metric.costs(self._decode(piece) - rows))
            for piece, rows in ((piece, self.vectors[piece]) for piece in pieces_of(len(self.vectors)))
        )

    @abstractmethod
    def _decode(self, piece: slice) -> np.ndarray: ...


class GridFit(Fitted):
    """``steps`` fp32 [1, 1], [1, D] or [n, 1], of a grid."""

    def __init__(self, vectors: np.ndarray, metric: Metric, grid: Grid, steps: np.ndarray) -> None:
        super().__init__(vectors, metric)
        self.grid, self.steps = grid, steps

    def payload(self) -> np.ndarray:
        codes = (self._codes(piece) for piece in pieces_of(len(self.vectors)))
        streams = (self.grid.pack(torch.from_numpy(c.reshape(-1))).numpy() for c in codes)
        return np.concatenate([halves(self.steps), *streams])

    def _decode(self, piece: slice) -> np.ndarray:
        steps = torch.from_numpy(self._steps(piece))
        return self.grid.values(torch.from_numpy(self._codes(piece)), steps).numpy()

    def _codes(self, piece: slice) -> np.ndarray:
        vectors, steps = self.vectors[piece], self._steps(piece)
        codes = nearest_codes(self.grid, vectors, steps)
        improve_levels(self.grid, vectors, steps, self.metric, codes)
        return codes

    def _steps(self, piece: slice) -> np.ndarray:
        return self.steps[piece] if len(self.steps) > 1 else self.steps


class CodebookFit(Fitted):
    """Centroids as they are stored, one array fp32 [K, width] a part, and their scale; None for fp16 centroids."""

    def __init__(self, vectors: np.ndarray, metric: Metric, books: list[np.ndarray], scale: np.float32 | None) -> None:
        super().__init__(vectors, metric)
        self.books, self.scale = books, scale

    @classmethod
    def rounded(cls, vectors: np.ndarray, metric: Metric, books: list[np.ndarray], entries: str) -> CodebookFit:
        """With centroids rounded to ``entries``: ``int8`` with one scale, or ``fp16``."""
        if entries == "fp16":
            return cls(vectors, metric, [to_fp16(book) for book in books], None)
        scale = scale_of(max(float(np.abs(book).max()) for book in books))
        return cls(vectors, metric, [integers(book, scale) * scale for book in books], scale)

    def payload(self) -> np.ndarray:
        entries = np.concatenate([book.reshape(-1) for book in self.books])
        if self.scale is None:
            stored = [halves(entries)]
        else:
            stored = [halves(np.asarray(self.scale)), integers(entries, self.scale).astype(np.int8).view(np.uint8)]
        bits = (len(self.books[0]) - 1).bit_length()
        for piece in pieces_of(len(self.vectors)) if bits else ():
            stored.append(pack_codes(torch.from_numpy(self._codes(piece).reshape(-1)), bits).numpy())
        return np.concatenate(stored)

    def _decode(self, piece: slice) -> np.ndarray:
        return np.concatenate([book[codes] for book, codes in zip(self.books, self._codes(piece).T, strict=True)], 1)

    def _codes(self, piece: slice) -> np.ndarray:
        codes = nearest_centroids(self.vectors[piece], self.books, self.metric)
        improve_centroids(self.vectors[piece], self.books, self.metric, codes)
        return codes


class Float16Fit(Fitted):
    """Nothing is fitted."""

    def payload(self) -> np.ndarray:
        return np.concatenate([halves(self._decode(piece)) for piece in pieces_of(len(self.vectors))])

    def _decode(self, piece: slice) -> np.ndarray:
        return to_fp16(self.vectors[piece])


class RareFit(Fitted):
    """Ids that read ``vector`` fp32 [D], which is stored elsewhere."""

    def __init__(self, vectors: np.ndarray, metric: Metric, vector: np.ndarray) -> None:
        super().__init__(vectors, metric)
        self.vector = np.asarray(vector, np.float32)

    def payload(self) -> np.ndarray:
        return np.zeros(0, np.uint8)

    def _decode(self, piece: slice) -> np.ndarray:
        return np.broadcast_to(self.vector, self.vectors[piece].shape)


def halves(values: np.ndarray) -> np.ndarray:
    """fp32 [*] -> uint8: as fp16, little-endian."""
    return np.ascontiguousarray(values, "<f2").reshape(-1).view(np.uint8)


def scale_of(largest: float) -> np.float32:
    """The least scale in fp16 with which 127 reaches ``largest``; at most 65504."""
    scale = np.float16(min(largest / 127, _FP16_MAX))
    if float(scale) * 127 < largest and scale < _FP16_MAX:
        scale = np.nextafter(scale, np.float16(_FP16_MAX))
    return np.float32(scale)


def integers(entries: np.ndarray, scale: np.float32) -> np.ndarray:
    """fp32 integers in -127..127."""
    return np.clip(np.rint(entries / scale if scale > 0 else np.zeros_like(entries)), -127, 127)
