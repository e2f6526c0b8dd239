"""The part of a model that is no table: vectors in, probabilities out."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from rectab.batch import Batch
from rectab.models import CTRModel, with_table
from rectab.tables.base import EmbeddingTable
from rectab.training.exporting.scoring import InputSpec, Scoring, inputs_of

__all__ = ["DensePart"]


class _Given(nn.Module):
    """Stands in for a table: its ids are places in a matrix that :meth:`hold` was given."""

    def __init__(self, table: EmbeddingTable) -> None:
        super().__init__()
        self.vocabularies, self.embedding_dim, self.device = table.vocabularies, table.embedding_dim, table.device
        self._held: list[Tensor] = []  # not an attribute of its own: torch.export takes those for state

    def hold(self, *vectors: Tensor) -> None:
        self._held[:] = vectors

    def forward(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self._held[0])


class DensePart(nn.Module):
    """A model without its table; in place of every id it takes the vector of it.

    Args:
        model: in evaluation mode.
        rating: its outputs are ratings, not logits.
    """

    def __init__(self, model: CTRModel, rating: bool = False) -> None:
        super().__init__()
        given = _Given(model.table)
        self.scoring = Scoring(with_table(model, cast("EmbeddingTable", given)), rating)
        self._given = given
        self.specs = [_of_vectors(spec, model.table.embedding_dim) for spec in inputs_of(model)]
        self.names = [spec.name for spec in self.specs]

    def flat(self, batch: Batch, vectors: Tensor, sequences: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """The inputs that a batch is, of which ``vectors`` [B, F, D] and those of every sequence [P, D] are known."""
        found = dict(zip(self.scoring.names, self.scoring.flat(batch), strict=True))
        return tuple((found | {"ids": vectors} | sequences).values())

    def forward(self, *inputs: Tensor) -> Tensor:
        """Probabilities (or ratings) float32 [B]."""
        rows = [inputs[0].new_zeros(1, inputs[0].shape[-1])]  # place 0: of the rows that Scoring adds
        count, places = 1, []
        for spec, given in zip(self.specs, inputs, strict=True):
            if not spec.vocabularies:
                places.append(given)
                continue
            flat = given.reshape(-1, given.shape[-1])
            place = torch.arange(flat.shape[0], device=flat.device) + count
            places.append(place.reshape(given.shape[:-1]))
            rows.append(flat)
            count = count + flat.shape[0]
        self._given.hold(torch.cat(rows))
        outputs: Tensor = self.scoring(*places)
        self._given.hold()
        return outputs


def _of_vectors(spec: InputSpec, embedding_dim: int) -> InputSpec:
    """The input that takes the place of one of ids."""
    if not spec.vocabularies:
        return spec
    name = "vectors" if spec.name == "ids" else spec.name
    meaning = "vector of " + spec.meaning.removeprefix("id of ")
    return InputSpec(name, "float32", (*spec.shape, embedding_dim), meaning, spec.columns, spec.vocabularies)
