"""What Shaver is served as, and which blocks a budget holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.compact import RaggedRows
from rectab.tables.findings import Finding

__all__ = ["CompactShaverConfig", "CompactShaverTable", "kept_within", "limits"]


@dataclass(frozen=True)
class CompactShaverConfig:
    """Attributes:
    columns: the dimensions kept of every vocabulary, ascending.
    """

    columns: tuple[tuple[int, ...], ...]


class CompactShaverTable(EmbeddingTable[CompactShaverConfig]):
    """Every vocabulary in the dimensions it has kept; a mean in the place of each that is gone.

    Memory: sum over vocabularies of num_embeddings * (bytes of a row of its width), a row of D and two integers a
    vocabulary, and D integers a vocabulary if any keeps other than its first dimensions.
    """

    findings: tuple[Finding, ...] = ()

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: CompactShaverConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        has_rows = [bool(kept) for kept in config.columns]
        sizes = [v.num_embeddings * kept for v, kept in zip(vocabularies, has_rows, strict=True)]
        self.rows = RaggedRows(sizes, config.columns, embedding_dim, self.options)
        self.mean = self.options.row_store(len(vocabularies), embedding_dim, init_std=0.0)

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        vocabulary = vocabulary.expand(ids.shape)
        vectors: Tensor = self.rows(vocabulary, ids, self.rows.width[vocabulary] > 0)
        return vectors + self.mean(vocabulary)

    def learned(self) -> tuple[Finding, ...]:
        return self.findings


def _bytes_of(kept: Tensor, vocabularies: Sequence[Vocabulary], options: TableOptions) -> int:
    """Bytes of the table that keeps these blocks, bool [V, D]."""
    dim = kept.shape[1]
    columns = [row.nonzero().squeeze(1).tolist() for row in kept]
    sizes = [v.num_embeddings * bool(c) for v, c in zip(vocabularies, columns, strict=True)]
    means = int(len(vocabularies) * options.row_bytes(dim)) + options.step_bytes(1)
    return RaggedRows.bytes_of(sizes, columns, dim, options) + means


def kept_within(
    values: Tensor, vocabularies: Sequence[Vocabulary], options: TableOptions, budget: int | None
) -> Tensor:
    """bool [V, D]: without the blocks of the least value until the rest fits, and with those again that still fit."""
    kept = torch.ones(values.shape, dtype=torch.bool)
    order = values.reshape(-1).argsort(stable=True).tolist()
    if budget is None or _bytes_of(kept, vocabularies, options) <= budget:
        return kept
    gone = []
    for block in order[:-1]:  # one must stay
        gone.append(block)
        kept.view(-1)[block] = False
        if _bytes_of(kept, vocabularies, options) <= budget:
            break
    for block in reversed(gone):
        kept.view(-1)[block] = True
        if _bytes_of(kept, vocabularies, options) > budget:
            kept.view(-1)[block] = False
    if _bytes_of(kept, vocabularies, options) > budget:  # the most valuable block alone is too large
        kept = _smallest(vocabularies, values.shape[1])
    return kept


def _smallest(vocabularies: Sequence[Vocabulary], embedding_dim: int) -> Tensor:
    """bool [V, D]: one dimension of the smallest vocabulary."""
    kept = torch.zeros(len(vocabularies), embedding_dim, dtype=torch.bool)
    kept[min(range(len(vocabularies)), key=lambda v: vocabularies[v].num_embeddings), 0] = True
    return kept


def limits(vocabularies: Sequence[Vocabulary], embedding_dim: int, options: TableOptions) -> tuple[int, int]:
    """(fewest, most) bytes of a cut table."""
    whole = torch.ones(len(vocabularies), embedding_dim, dtype=torch.bool)
    least = _bytes_of(_smallest(vocabularies, embedding_dim), vocabularies, options)
    # Places take D integers a vocabulary, unless every one keeps its first dimensions.
    return least + embedding_dim * len(vocabularies), _bytes_of(whole, vocabularies, options)
