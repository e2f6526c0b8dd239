"""The CTR model: an embedding table, a history tower for every behaviour, an interaction."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rectab.batch import Batch
from rectab.models.config import ModelConfig
from rectab.models.history import HistoryTower
from rectab.models.jagged import Segments, most_recent
from rectab.models.registry import get_interaction, get_tower
from rectab.schema import Feature, Schema
from rectab.tables.base import EmbeddingTable

__all__ = ["CTRModel", "with_table"]


class CTRModel(nn.Module):
    """Any table under any tower under any interaction.

    Fields are the table's vectors of the categorical features, followed by one interest vector for each sequence
    feature. The model keeps nothing by id outside the table: first-order parts read the same embeddings (see
    :class:`rectab.models.layers.FirstOrder`).

    Args:
        schema: the columns of the data.
        table: serves all vocabularies of the schema, in its order.
        config: interaction and tower.

    Raises:
        ValueError: the table serves other vocabularies, or the tower cannot read the schema's sequences.
    """

    field_vocabularies: Tensor

    def __init__(self, schema: Schema, table: EmbeddingTable, config: ModelConfig) -> None:
        super().__init__()
        expected, given = [v.name for v in schema.vocabularies], [v.name for v in table.vocabularies]
        if expected != given:
            raise ValueError(f"the table serves the vocabularies {given}, the schema has {expected}")
        self.schema = schema
        self.config = config
        self.table = table
        indices = [schema.vocabulary_index(f.vocabulary) for f in schema.categorical]
        self.register_buffer("field_vocabularies", torch.tensor(indices, dtype=torch.int64), persistent=False)
        tower = get_tower(config.history).module
        behaviours = {} if tower is None else schema.behaviours
        if tower is not None and not behaviours:
            raise ValueError(f"history {config.history!r}: the data set has no sequence features; use history 'none'")
        self.behaviours = nn.ModuleDict(
            {
                str(index): _Behaviour(schema, features, tower(features, table.embedding_dim, config.history_config))
                for index, features in enumerate(behaviours.values())
                if tower is not None
            }
        )
        num_fields = len(indices) + sum(len(features) for features in behaviours.values())
        self.interaction = get_interaction(config.interaction).module(
            num_fields, table.embedding_dim, len(schema.dense), config.interaction_config
        )

    def fields(self, batch: Batch) -> Tensor:
        """float [B, F + S, D]: the vectors of F categorical and S sequence features."""
        embedded = self.table(batch.ids, self.field_vocabularies)
        interests = [behaviour(batch, self.table, embedded) for behaviour in self.behaviours.values()]
        return torch.cat([embedded, *interests], dim=1) if interests else embedded

    def forward(self, batch: Batch) -> Tensor:
        """Logits float [B]."""
        return self.interaction(self.fields(batch), batch.dense)

    def dense_parameters(self) -> list[nn.Parameter]:
        """The parameters outside the table."""
        inside = {id(p) for p in self.table.parameters()}
        return [p for p in self.parameters() if id(p) not in inside]

    def attention(self, batch: Batch, behaviour: str) -> tuple[Tensor, Segments]:
        """The weight of every event of a behaviour for its row's target, and the row of every event.

        Raises:
            KeyError: the schema has no such behaviour.
            ValueError: the tower has no attention.
        """
        names = list(self.schema.behaviours)
        if behaviour not in names:
            raise KeyError(f"no behaviour {behaviour!r}; the schema has {names}")
        part = self.behaviours[str(names.index(behaviour))] if len(self.behaviours) else None
        if not isinstance(part, _Behaviour):
            raise ValueError(f"history {self.config.history!r} has no attention weights; use 'din'")
        embedded = self.table(batch.ids, self.field_vocabularies)
        events, segments, targets = part.inputs(batch, self.table, embedded)
        return part.tower.weights(events, segments, targets), segments


def with_table(model: CTRModel, table: EmbeddingTable) -> CTRModel:
    """A model in evaluation mode with another table; the tensors outside it are the same ones."""
    made = CTRModel(model.schema, table, model.config).eval()
    outside = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("table.")}
    made.load_state_dict(outside, strict=False, assign=True)
    return made.to(table.device)


class _Behaviour(nn.Module):
    """A tower and where its inputs come from."""

    vocabularies: Tensor
    target_fields: Tensor

    def __init__(self, schema: Schema, features: tuple[Feature, ...], tower: HistoryTower) -> None:
        super().__init__()
        self.names = [feature.name for feature in features]
        self.tower = tower
        vocabularies = [schema.vocabulary_index(feature.vocabulary) for feature in features]
        targets = [schema.categorical_index(f.target) for f in features if f.target is not None]
        self.register_buffer("vocabularies", torch.tensor(vocabularies, dtype=torch.int64), persistent=False)
        self.register_buffer("target_fields", torch.tensor(targets, dtype=torch.int64), persistent=False)

    def inputs(self, batch: Batch, table: EmbeddingTable, embedded: Tensor) -> tuple[Tensor, Segments, Tensor]:
        """(events [P, K, D], segments, targets [B, T, D]) of :meth:`HistoryTower.forward`."""
        histories = [most_recent(batch.histories[name], self.tower.config.max_history) for name in self.names]
        ids = torch.stack([history.values for history in histories], dim=1)
        return table(ids, self.vocabularies), Segments(histories[0]), embedded.index_select(1, self.target_fields)

    def forward(self, batch: Batch, table: EmbeddingTable, embedded: Tensor) -> Tensor:
        """float [B, K, D]."""
        return self.tower(*self.inputs(batch, table, embedded))
