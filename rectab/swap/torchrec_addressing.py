"""Which torchrec table and row an id is looked up in: the hash in front of sharded rows.

This module needs torchrec; only :mod:`rectab.swap.torchrec` imports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from rectab.ops import address_rows
from rectab.schema import Vocabulary
from rectab.tables import Plan
from rectab.tables.addressing import Address
from rectab.tables.unseen import place_unseen, refuse_outside

__all__ = ["Layout", "RowAddressing", "layout_of", "table_names"]


@dataclass(frozen=True)
class Layout:
    """How lookups map to torchrec tables.

    Attributes:
        ranges: the distinct ranges of rows, one torchrec table each, in row order.
        table_of: by (vocabulary, chunk), index into ``ranges``.
        salts: by (vocabulary, chunk).
        num_chunks: lookups an id.
    """

    ranges: tuple[Address, ...]
    table_of: dict[tuple[int, int], int]
    salts: dict[tuple[int, int], int]
    num_chunks: int


def layout_of(planned: Plan) -> Layout:
    """Raises ValueError for a method whose storage is not plain rows."""
    table = planned.on_meta
    if not table.is_plain_rows:
        raise ValueError(f"{planned.method} cannot be sharded by torchrec: its vectors are not plain rows")
    found = table.addresses()
    starts = sorted({(entry.store, entry.first_row) for entry in found})
    return Layout(
        ranges=tuple(next(entry for entry in found if (entry.store, entry.first_row) == start) for start in starts),
        table_of={(entry.vocabulary, entry.chunk): starts.index((entry.store, entry.first_row)) for entry in found},
        salts={(entry.vocabulary, entry.chunk): entry.salt or 0 for entry in found},
        num_chunks=1 + max(entry.chunk for entry in found),
    )


class RowAddressing(nn.Module):
    """Ids of features -> rows of torchrec tables.

    Args:
        planned: the table.
        features: vocabulary read by each feature.
    """

    salt: Tensor
    num_rows: Tensor

    def __init__(self, planned: Plan, features: Mapping[str, str], device: torch.device | str | None = None) -> None:
        super().__init__()
        if planned.options.unseen == "zero":
            raise ValueError("unseen='zero' needs a mask after the lookup; use 'hash', 'shared', 'error' or None")
        layout = layout_of(planned)
        names = [vocabulary.name for vocabulary in planned.vocabularies]
        unknown = sorted(set(features.values()) - set(names))
        if unknown:
            raise ValueError(f"features read vocabularies {unknown}, but the table has {names}")
        self.features = tuple(features)
        self.vocabularies = planned.vocabularies
        self.unseen = planned.options.unseen
        self.num_chunks = layout.num_chunks
        indices = [names.index(features[feature]) for feature in self.features]
        self.vocabulary_indices = indices
        chunks = range(layout.num_chunks)
        salts = [[layout.salts[index, chunk] for chunk in chunks] for index in indices]
        rows = [
            [_signed_rows(layout.ranges[layout.table_of[i, c]], planned.vocabularies[i]) for c in chunks]
            for i in indices
        ]
        # Not in the state_dict: both follow from the plan, and torchrec's checkpoints hold tables only.
        self.register_buffer("salt", torch.tensor(salts, dtype=torch.int64, device=device), persistent=False)
        self.register_buffer("num_rows", torch.tensor(rows, dtype=torch.int64, device=device), persistent=False)

    def key(self, feature: str, chunk: int) -> str:
        """Name of the torchrec feature that looks up ``chunk`` of ``feature``."""
        return feature if self.num_chunks == 1 else f"{feature}#{chunk}"

    def forward(self, ids: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """Ids under the features' names (others are dropped) -> rows under :meth:`key`, chunk after chunk.

        Raises:
            IndexError: an id outside a vocabulary that is kept whole, unless ``unseen`` says otherwise.
        """
        keys = ids.keys()
        if tuple(keys) != self.features:
            ids = ids.permute([keys.index(feature) for feature in self.features])
        values = ids.values().to(torch.int64)
        counts = torch.tensor(ids.length_per_key(), device=values.device)
        feature = torch.repeat_interleave(torch.arange(counts.numel(), device=values.device), counts)
        if self.unseen is not None:
            vocabulary = torch.tensor(self.vocabulary_indices, device=values.device)[feature]
            if self.unseen == "error":
                refuse_outside(values, vocabulary, self.vocabularies)
            else:
                values, _ = place_unseen(values, vocabulary, self.vocabularies, self.unseen)
        rows = address_rows(
            values.unsqueeze(1), self.salt[feature], torch.zeros_like(counts[:1]), self.num_rows[feature]
        )
        weights = ids.weights_or_none()
        return KeyedJaggedTensor(
            keys=[self.key(feature, chunk) for chunk in range(self.num_chunks) for feature in self.features],
            values=rows.t().reshape(-1),
            lengths=ids.lengths().repeat(self.num_chunks),
            weights=None if weights is None else weights.repeat(self.num_chunks),
        )


def _signed_rows(rows: Address, vocabulary: Vocabulary) -> int:
    """As :func:`rectab.ops.address_rows` wants it: negative for a vocabulary that is kept whole."""
    return rows.rows if rows.by == "hash" else -vocabulary.num_embeddings


def table_names(layout: Layout) -> list[str]:
    """Names of the torchrec tables, one a range of rows: ``rows``, or ``rows_0``, ``rows_1``, ..."""
    return ["rows"] if len(layout.ranges) == 1 else [f"rows_{index}" for index in range(len(layout.ranges))]
