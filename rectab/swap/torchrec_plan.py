"""What rectab makes of the tables of a torchrec collection: a plan, and which vocabulary every feature reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torchrec import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_configs import DataType

from rectab.ops.formats import get_format
from rectab.schema import Vocabulary
from rectab.swap.starting import own_rows
from rectab.swap.torchrec_start import shared_std
from rectab.tables import Plan, TableOptions, plan
from rectab.tables.budget import resolve_budget

__all__ = ["DATA_TYPES", "plan_collection"]

DATA_TYPES = {"fp32": DataType.FP32, "fp16": DataType.FP16, "bf16": DataType.BF16}
"""Of torchrec, by the name of the row format."""


def plan_collection(
    configs: Sequence[EmbeddingBagConfig | EmbeddingConfig],
    method: str = "unified",
    budget: str | int | None = "25%",
    **options: Any,
) -> tuple[Plan, dict[str, str]]:
    """(the rectab plan, vocabulary of every feature) for the tables of a torchrec collection.

    Args:
        configs: as ``embedding_bag_configs()`` or ``embedding_configs()`` gives them.
        method, **options: as :func:`rectab.tables.plan` takes them. Rows are held in the data type of the tables and
            start at their scale, unless ``options`` (:class:`rectab.tables.TableOptions`) are given.
        budget: as :func:`rectab.tables.plan` takes it; a share is of the tables' own bytes.

    Raises:
        ValueError: tables of different width or data type (plan them apart), or a feature that reads two tables.
    """
    widths = sorted({config.embedding_dim for config in configs})
    if len(widths) != 1:
        raise ValueError(f"tables of widths {widths} cannot share rows; give each width a collection of its own")
    features: dict[str, str] = {}
    for config in configs:
        for feature in config.feature_names:
            if feature in features:
                raise ValueError(f"feature {feature!r} reads tables {features[feature]!r} and {config.name!r}")
            features[feature] = config.name
    rows = _rows_format(configs)
    before = sum(config.num_embeddings for config in configs) * int(get_format(rows).row_bytes(widths[0]))
    size = resolve_budget(None if budget is None else str(budget), before)
    vocabularies = [Vocabulary(config.name, config.num_embeddings) for config in configs]
    if "options" in options:
        return plan(method, vocabularies, widths[0], size, **options), features
    planned = plan(method, vocabularies, widths[0], size, options=TableOptions(rows=rows), **options)
    if not own_rows(planned.on_meta):
        held = replace(planned.options, init_std=shared_std(configs))
        planned = plan(method, vocabularies, widths[0], size, options=held, **options)
    return planned, features


def _rows_format(configs: Sequence[EmbeddingBagConfig | EmbeddingConfig]) -> str:
    types = sorted({config.data_type.value for config in configs})
    names = {kind.value: name for name, kind in DATA_TYPES.items()}
    if len(types) != 1 or types[0] not in names:
        raise ValueError(f"tables of data types {types}: give each of {', '.join(names)} a collection of its own")
    return names[types[0]]
