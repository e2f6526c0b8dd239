"""How a block of vectors can be held in few bytes, and how well: a shared vector, uniform grids, codebooks, fp16.

A block is n ids of one vocabulary, fp32 [n, D]. An encoding turns it into a *payload*, ``bytes(n, D)`` bytes exactly,
bit-packed (:mod:`rectab.ops.packing`) and byte-aligned at its end only:

======================  ============================================================================================
``rare``                nothing: ids read the vector of their vocabulary's id 0, as values outside it do
``shared``              one vector: scale fp16, D int8
``int4/dimension``      a grid (:mod:`rectab.ops.grids`): steps fp16 [D] (``block``: [1], ``row``: [n]); n * D codes
``codebook/4x64/int8``  64 centroids for each part of 4 dimensions: scale fp16, int8 [64 * D] part by part; n * parts
                        codes
``codebook/4x64/fp16``  the same with fp16 centroids and no scale
``fp16``                n * D values
======================  ============================================================================================

Every fit minimises the weighted squared error, that of codebooks in the metric of the model's output
(:mod:`rectab.quantize.metric`). Weights are the ids' traffic; those of weight 0 are encoded too.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from rectab.ops.grids import GRIDS, Grid
from rectab.ops.packing import packed_bytes
from rectab.quantize.fitted import CodebookFit, Fitted, Float16Fit, GridFit, RareFit, check_block
from rectab.quantize.kmeans import THOROUGH, Effort, fit_codebooks
from rectab.quantize.metric import Metric
from rectab.quantize.sampling import weighted_mean
from rectab.quantize.steps import Steps, fit_steps

__all__ = ["MAX_CODES", "Bits", "Codebook", "Encoding", "Float16", "Rare", "Shared", "Ternary", "encoding_of"]

Entries = Literal["int8", "fp16"]

MAX_CODES = 4096


class Encoding(ABC):
    """A way to hold a block."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Text that :func:`encoding_of` reads."""

    @abstractmethod
    def bytes(self, num_ids: int, embedding_dim: int) -> int:
        """Bytes of the payload of ``num_ids`` vectors. Raises ValueError for a width that cannot be held so."""

    def fit(
        self,
        vectors: np.ndarray,
        weights: np.ndarray,
        seed: int = 0,
        metric: Metric | None = None,
        effort: Effort = THOROUGH,
    ) -> Fitted:
        """The encoding's parameters for a block.

        Args:
            vectors: fp32 [n, D], n at least 1. They are kept by reference and not copied.
            weights: fp32 [n], traffic of the ids, not negative. If all are 0, all ids count the same.
            seed: of random starts; the same seed gives the same bytes.
            metric: what a change of a vector costs; codes are the nearest in it. None: its squared length.
            effort: how hard codebooks are fitted.

        Raises:
            ValueError: shapes do not fit, or a vector or weight is not a finite number.
        """
        vectors, weights = check_block(self.name, vectors, weights)
        return self._fit(vectors, weights, seed, metric or Metric.plain(vectors.shape[1]), effort)

    @abstractmethod
    def _fit(self, vectors: np.ndarray, weights: np.ndarray, seed: int, metric: Metric, effort: Effort) -> Fitted: ...


@dataclass(frozen=True)
class Shared(Encoding):
    """All ids read one vector, their weighted mean."""

    @property
    def name(self) -> str:
        return "shared"

    def bytes(self, num_ids: int, embedding_dim: int) -> int:
        return 2 + embedding_dim

    def _fit(self, vectors: np.ndarray, weights: np.ndarray, seed: int, metric: Metric, effort: Effort) -> Fitted:
        mean = weighted_mean(vectors, weights).astype(np.float32)
        return CodebookFit.rounded(vectors, metric, [mean[None]], "int8")


@dataclass(frozen=True)
class Rare(Encoding):
    """All ids read the vector of their vocabulary's id 0, as values outside it do; nothing is stored for them."""

    @property
    def name(self) -> str:
        return "rare"

    def bytes(self, num_ids: int, embedding_dim: int) -> int:
        return 0

    def fit_to(self, vectors: np.ndarray, metric: Metric, rare_vector: np.ndarray) -> Fitted:
        """The encoding of a block fp32 [n, D] whose vocabulary reads ``rare_vector`` fp32 [D] for id 0."""
        return RareFit(vectors, metric, rare_vector)

    def _fit(self, vectors: np.ndarray, weights: np.ndarray, seed: int, metric: Metric, effort: Effort) -> Fitted:
        raise ValueError("rare: its vector is that of id 0, which is no part of the block; use fit_to")


class _OnGrid(Encoding):
    steps: Steps

    @property
    def grid(self) -> Grid:
        raise NotImplementedError

    @property
    def name(self) -> str:
        return f"{self.grid.name}/{self.steps}"

    def bytes(self, num_ids: int, embedding_dim: int) -> int:
        steps = {"block": 1, "dimension": embedding_dim, "row": num_ids}[self.steps]
        return 2 * steps + self.grid.bytes(num_ids * embedding_dim)

    def _fit(self, vectors: np.ndarray, weights: np.ndarray, seed: int, metric: Metric, effort: Effort) -> Fitted:
        return GridFit(vectors, metric, self.grid, fit_steps(self.grid, vectors, weights, self.steps, seed))


@dataclass(frozen=True)
class Bits(_OnGrid):
    """Integers of ``bits`` bits with an fp16 step a block, a dimension of the block, or a row."""

    bits: int
    steps: Steps = "dimension"

    def __post_init__(self) -> None:
        if f"int{self.bits}" not in GRIDS:
            raise ValueError(f"bits must be one of {[g.bits for g in GRIDS.values() if g.bits]}, got {self.bits}")
        _check_choice("steps", self.steps, Steps)

    @property
    def grid(self) -> Grid:
        return GRIDS[f"int{self.bits}"]


@dataclass(frozen=True)
class Ternary(_OnGrid):
    """-1, 0 or 1 times an fp16 step a block, a dimension of the block, or a row; 1.6 bits an element."""

    steps: Steps = "dimension"

    def __post_init__(self) -> None:
        _check_choice("steps", self.steps, Steps)

    @property
    def grid(self) -> Grid:
        return GRIDS["ternary"]


@dataclass(frozen=True)
class Codebook(Encoding):
    """Product quantisation: every part of ``sub_dim`` dimensions is one of ``num_codes`` centroids of its own codebook.

    Where ``sub_dim`` does not divide D, the last part is narrower. Jégou, Douze and Schmid 2011.
    """

    sub_dim: int
    num_codes: int
    entries: Entries = "int8"

    def __post_init__(self) -> None:
        if self.sub_dim < 1:
            raise ValueError(f"sub_dim must be at least 1, got {self.sub_dim}")
        if not 2 <= self.num_codes <= MAX_CODES:
            raise ValueError(f"num_codes must be in 2..{MAX_CODES}, got {self.num_codes}")
        _check_choice("entries", self.entries, Entries)

    @property
    def name(self) -> str:
        return f"codebook/{self.sub_dim}x{self.num_codes}/{self.entries}"

    @property
    def code_bits(self) -> int:
        """Bits of a code."""
        return (self.num_codes - 1).bit_length()

    def parts(self, embedding_dim: int) -> int:
        """How many codes a vector takes."""
        return -(-embedding_dim // self.sub_dim)

    def bytes(self, num_ids: int, embedding_dim: int) -> int:
        self._check_width(embedding_dim)
        entries = self.num_codes * embedding_dim
        book = 2 + entries if self.entries == "int8" else 2 * entries
        return book + packed_bytes(num_ids * self.parts(embedding_dim), self.code_bits)

    def _fit(self, vectors: np.ndarray, weights: np.ndarray, seed: int, metric: Metric, effort: Effort) -> Fitted:
        self._check_width(vectors.shape[1])
        books = fit_codebooks(vectors, weights, self.sub_dim, self.num_codes, seed, metric, effort)
        return CodebookFit.rounded(vectors, metric, books, self.entries)

    def with_books(self, payload: np.ndarray, vectors: np.ndarray, metric: Metric) -> Fitted:
        """Vectors fp32 [n, D] in the codebooks of a payload (uint8); only codes are chosen."""
        count, embedding_dim = self.num_codes, vectors.shape[1]
        self._check_width(embedding_dim)
        scale = None
        if self.entries == "int8":
            scale = np.float32(payload[:2].view("<f2")[0])
            entries = payload[2 : 2 + count * embedding_dim].view(np.int8).astype(np.float32) * scale
        else:
            entries = payload[: 2 * count * embedding_dim].view("<f2").astype(np.float32)
        widths = [min(self.sub_dim, embedding_dim - first) for first in range(0, embedding_dim, self.sub_dim)]
        ends = np.cumsum([count * width for width in widths])
        books = [part.reshape(count, -1) for part in np.split(entries, ends[:-1])]
        return CodebookFit(np.asarray(vectors, np.float32), metric, books, scale)

    def _check_width(self, embedding_dim: int) -> None:
        if self.sub_dim > embedding_dim:
            raise ValueError(f"{self.name}: parts of {self.sub_dim} dimensions are wider than D = {embedding_dim}")


@dataclass(frozen=True)
class Float16(Encoding):
    """Halves; values beyond 65504 become that."""

    @property
    def name(self) -> str:
        return "fp16"

    def bytes(self, num_ids: int, embedding_dim: int) -> int:
        return 2 * num_ids * embedding_dim

    def _fit(self, vectors: np.ndarray, weights: np.ndarray, seed: int, metric: Metric, effort: Effort) -> Fitted:
        return Float16Fit(vectors, metric)


_GRID_NAME = re.compile(rf"({'|'.join(GRIDS)})/({'|'.join(get_args(Steps))})")
_CODEBOOK_NAME = re.compile(rf"codebook/(\d+)x(\d+)/({'|'.join(get_args(Entries))})")
_PLAIN: dict[str, Encoding] = {e.name: e for e in (Rare(), Shared(), Float16())}


def encoding_of(name: str) -> Encoding:
    """The encoding of a name. Raises ValueError that says how names are written."""
    if name in _PLAIN:
        return _PLAIN[name]
    if match := _CODEBOOK_NAME.fullmatch(name):
        return Codebook(int(match[1]), int(match[2]), match[3])  # type: ignore[arg-type]
    if match := _GRID_NAME.fullmatch(name):
        steps: Any = match[2]
        return Ternary(steps) if match[1] == "ternary" else Bits(int(match[1][3:]), steps)
    raise ValueError(
        f"there is no encoding {name!r}: it is 'rare', 'shared', 'fp16', '<grid>/<steps>' (grids {', '.join(GRIDS)}; "
        f"steps {', '.join(get_args(Steps))}) or 'codebook/<sub_dim>x<num_codes>/<int8 or fp16>'"
    )


def _check_choice(option: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{option} must be one of {', '.join(get_args(choices))}, got {value!r}")
