"""What DPQ may be, and which of it a budget holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.family import Family
from rectab.tables.product import CodesConfig, coded_vocabularies, divisors, group_sizes
from rectab.tables.registry import bytes_of

__all__ = ["ConfigT", "DPQConfig", "dpq_family", "rising"]


@dataclass(frozen=True)
class DPQConfig:
    """Attributes:
    parts: P, numbers of an id.
    num_centroids: K, that a number chooses from; a power of two up to 256.
    coded: indices of the vocabularies that are coded; the others, which would not become smaller, are kept whole.
    one_codebook: all vocabularies share a codebook; otherwise each has its own.
    pull: how fast centroids are drawn to the parts that read them, a weight beside the loss.
    normalize: normalise distances.
    """

    parts: int
    num_centroids: int
    coded: tuple[int, ...]
    one_codebook: bool = False
    pull: float = 1.0
    normalize: bool = True

    def __post_init__(self) -> None:
        if self.num_centroids not in (2, 4, 8, 16, 32, 64, 128, 256):
            raise ValueError(f"num_centroids must be a power of two from 2 to 256, got {self.num_centroids}")
        if self.pull < 0:
            raise ValueError(f"pull must be at least 0, got {self.pull}")

    def codes(self, vocabularies: Sequence[Vocabulary]) -> CodesConfig:
        """What it is served as."""
        bits = self.num_centroids.bit_length() - 1
        ids = group_sizes(vocabularies, self.coded, (1.0,))
        return CodesConfig(self.parts, (bits,), ids, self.coded, self.one_codebook)


ConfigT = TypeVar("ConfigT", bound=DPQConfig)


def rising(
    method: str,
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: TableOptions,
    configs: Sequence[ConfigT],
) -> list[ConfigT]:
    """Of these, those that no other one beats by more bits an id in fewer bytes; by bytes."""
    counted = replace(options, device="meta")
    sizes = [bytes_of(method, vocabularies, embedding_dim, config, counted) for config in configs]

    def bits_an_id(config: ConfigT) -> int:
        return config.parts * (config.num_centroids.bit_length() - 1)

    kept: list[ConfigT] = []
    for _, config in sorted(zip(sizes, configs, strict=True), key=lambda pair: (pair[0], -bits_an_id(pair[1]))):
        if not kept or bits_an_id(config) > bits_an_id(kept[-1]):
            kept.append(config)
    return kept


def dpq_family(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: TableOptions,
    *,
    parts: int | None = None,
    num_centroids: int | None = None,
    one_codebook: bool = False,
    pull: float = 1.0,
    normalize: bool = True,
) -> Family[DPQConfig]:
    """By parts and centroids, as far as these are not given; 8 parts (or what divides D) and 32 centroids, as in the
    VLDB benchmark, without a budget."""

    def config_of(count: int, centroids: int) -> DPQConfig:
        bits = centroids.bit_length() - 1
        coded = coded_vocabularies(vocabularies, embedding_dim, options, count * bits, centroids, one_codebook)
        return DPQConfig(count, centroids, coded, one_codebook, pull, normalize)

    counts = divisors(embedding_dim) if parts is None else [parts]
    books = [2**bits for bits in range(1, 9)] if num_centroids is None else [num_centroids]
    every = [config_of(count, centroids) for count in counts for centroids in books]
    members = rising("dpq", vocabularies, embedding_dim, options, every)
    own = config_of(parts or max(n for n in counts if n <= 8), num_centroids or 32)
    return Family(members.__getitem__, low=0, high=len(members) - 1, own=lambda: own, smallest="the fewest bits an id")
