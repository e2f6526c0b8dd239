"""The method ``quantized``: the full table is trained, and what is served is its encoded form.

All that depends on a budget happens after training, so runs that differ in it share one training, also with a run of
the full table (:mod:`rectab.training.one_run`). Several widths may be trained: below about 4 % of the bytes a narrow
model that is encoded less beats a wide one that is encoded more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from rectab.quantize.blocks import finest_blocks
from rectab.quantize.encodings import Encoding, Float16, Shared
from rectab.quantize.options import OptionTable
from rectab.quantize.rare import rare_vector
from rectab.quantize.rivals import INT8, SMALLEST, Shape, allocate_shape
from rectab.quantize.sensitivity import ROWS, table_sensitivity
from rectab.quantize.traffic import expected_lookups
from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.family import Family
from rectab.tables.ledger import Ledger, bound
from rectab.tables.quantized import FIXED_BYTES, HEADER_BYTES, QuantizedTable, encode_table
from rectab.tables.ranges import RangeTable
from rectab.tables.registry import TableMethod, register

if TYPE_CHECKING:
    from rectab.tables.base import EmbeddingTable
    from rectab.tables.staged import StageRunner

Finetune = Literal["none", "frozen", "straight-through", "moving"]

__all__ = ["FullToQuantize", "QuantizeConfig", "uniform_bytes"]


@dataclass(frozen=True)
class QuantizeConfig:
    """Attributes:
    budget_bytes: most bytes of the encoded table.
    widths: of the models that are trained, of which validation chooses one; none: one model, of the table's own width.
        A budget's share is of the full table at the table's own width, whichever is chosen.
    shape: ``best``: the encodings that err least. To compare with: ``int8`` for every id; ``threshold``: ids seen k
        times and more in int8, the rest one shared row a vocabulary, k by the budget.
    finetune: what happens to the codes while what is encoded trains further with the model around it: ``frozen``,
        ``straight-through`` or ``moving`` (:class:`rectab.tables.quantized.tuned.TunedTable`); ``none``: it does not.
        It is kept where validation says that it won. For runs (:mod:`rectab.training.one_run`), not a trainer alone.
    finetune_epochs: most epochs of it.
    distill: weight of the full model's predictions as labels in it.
    """

    budget_bytes: int = field(metadata={"planned": True})
    widths: tuple[int, ...] = ()
    shape: Shape = "best"
    finetune: Finetune = field(default="none", metadata={"later": True})
    finetune_epochs: int = field(default=10, metadata={"later": True})
    distill: float = field(default=0.0, metadata={"later": True})

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise ValueError(f"quantized: shape must be one of {', '.join(get_args(Shape))}, got {self.shape!r}")
        if self.finetune not in get_args(Finetune):
            raise ValueError(f"quantized: finetune must be one of {', '.join(get_args(Finetune))}: {self.finetune!r}")
        if self.finetune_epochs < 1 or not 0 <= self.distill <= 1:
            raise ValueError("quantized: finetune_epochs must be at least 1 and distill in 0..1")
        if len(set(self.widths)) < len(self.widths) or min(self.widths, default=1) < 1:
            raise ValueError(f"quantized: widths must be different numbers of at least 1, got {list(self.widths)}")


class FullToQuantize(RangeTable[QuantizeConfig]):
    """The full table while it is trained; :meth:`serving` is its encoded form.

    Memory while training: that of the full table.
    """

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: QuantizeConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options, [v.num_embeddings for v in vocabularies], seed=0)
        _check_widths(config.widths, embedding_dim)

    def planned_serving(self) -> Ledger:
        """The most that it may be encoded to: the budget, or halves."""
        config = self.config
        return bound(config.budget_bytes, *_limits(self.vocabularies, self.embedding_dim, config.widths, config.shape))

    def serving(self) -> EmbeddingTable:
        """Encoded by its vectors and training counts alone; with a model around it :meth:`train_with` does better."""
        return self.encoded(None)

    def train_with(self, trainer: StageRunner) -> EmbeddingTable:
        """Train, and go on with the encoded table. Only the table's own width is trained here."""
        trainer.run("train")
        rows, batches = 0, []
        for batch in trainer.train_batches(0):
            batches.append(batch)
            rows += len(batch)
            if rows >= ROWS:
                break
        model = trainer.model
        sensitivity = table_sensitivity(model, trainer.table, len(self.vocabularies), batches)
        trainer.restart(self.encoded(sensitivity), model.state_dict())
        return trainer.table

    def encoded(self, sensitivity: np.ndarray | None) -> QuantizedTable:
        """The table encoded to the budget; ``sensitivity`` fp64 [V, D, D] as for :class:`OptionTable`."""
        counts = [np.ones(v.num_embeddings) if v.counts is None else v.counts for v in self.vocabularies]
        traffic = [expected_lookups(times, unseen_id=0) for times in counts]
        rows = self.store.read(slice(None)).float().cpu().numpy()
        borders = np.cumsum([0, *self.range_sizes])
        vectors = [rows[a:b] for a, b in pairwise(borders)]
        rare = [rare_vector(*held) for held in zip(vectors, counts, traffic, strict=True)]
        table = OptionTable(vectors, traffic, sensitivity, HEADER_BYTES, self.options.seed, rare)
        blocks = [finest_blocks(index, lookups) for index, lookups in enumerate(traffic)]
        budget = self.planned_serving().bytes - FIXED_BYTES * len(blocks)
        made = allocate_shape(self.config.shape, table, blocks, counts, budget)
        assert made is not None
        return encode_table(self.vocabularies, self.embedding_dim, table, made, self.options)


def uniform_bytes(vocabularies: Sequence[Vocabulary], width: int, encoding: Encoding) -> int:
    """Bytes of a table of which every vocabulary is one block of one encoding."""
    fixed = (FIXED_BYTES + HEADER_BYTES) * len(vocabularies)
    return fixed + sum(encoding.bytes(v.num_embeddings, width) for v in vocabularies)


def _limits(
    vocabularies: Sequence[Vocabulary], embedding_dim: int, widths: Sequence[int], shape: Shape
) -> tuple[int, int]:
    """(smallest, largest) bytes of an encoded table."""
    narrow, wide = min(widths, default=embedding_dim), max(widths, default=embedding_dim)
    if shape == "best":
        return uniform_bytes(vocabularies, narrow, Shared()), uniform_bytes(vocabularies, wide, Float16())
    low, high = (uniform_bytes(vocabularies, width, INT8) for width in (narrow, wide))
    return low if shape == "int8" else _one_row_and_the_rest(vocabularies, narrow), high


def _one_row_and_the_rest(vocabularies: Sequence[Vocabulary], width: int) -> int:
    rest = HEADER_BYTES + Shared().bytes(1, width)
    sizes = [INT8.bytes(1, width) + (rest if v.num_embeddings > 1 else 0) for v in vocabularies]
    return sum(sizes) + (FIXED_BYTES + HEADER_BYTES) * len(sizes)


def _check_widths(widths: Sequence[int], embedding_dim: int) -> None:
    if max(widths, default=1) > embedding_dim:
        raise ValueError(
            f"quantized: widths {list(widths)} go beyond embedding_dim {embedding_dim}, which shares of a budget are of"
        )


def quantized_family(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: TableOptions,
    *,
    widths: tuple[int, ...] = (),
    shape: Shape = "best",
    finetune: Finetune = "none",
    finetune_epochs: int = 10,
    distill: float = 0.0,
) -> Family[QuantizeConfig]:
    """By bytes; without a budget those of int8."""
    _check_widths(widths, embedding_dim)
    low, high = _limits(vocabularies, embedding_dim, widths, shape)
    int8 = uniform_bytes(vocabularies, max(widths, default=embedding_dim), INT8)

    def config_of(size: int) -> QuantizeConfig:
        return QuantizeConfig(size, widths, shape, finetune, finetune_epochs, distill)

    return Family(
        config_of,
        low=low,
        high=high,
        own=lambda: config_of(max(int8, low)),
        smallest=SMALLEST.get(shape, ""),
    )


register(
    TableMethod(
        name="quantized",
        summary="the full table, encoded after training: the bits that each block of ids is worth",
        group="quantisation",
        config=QuantizeConfig,
        table=FullToQuantize,
        family=quantized_family,
        fills="steps",  # in halves where they fit: there is nothing between these and int8
        size_after_training=True,
        needs_own_trainer=True,
        needs_full_table=True,
        trained_as="full",
    )
)
