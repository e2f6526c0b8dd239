"""The module that is exported: flat tensors in, probabilities out, in shapes that depend on no value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rectab.batch import Batch, Jagged
from rectab.models import CTRModel

__all__ = ["InputSpec", "Scoring", "inputs_of"]


@dataclass(frozen=True)
class InputSpec:
    """One input of the graph.

    Attributes:
        name: of the input.
        dtype: ``int64`` or ``float32``.
        shape: a number is fixed; ``batch`` is the number of rows, ``events of NAME`` the sum of their lengths.
        meaning: what it holds.
        columns: names of the features, where the second dimension has one of each.
        vocabularies: of these columns, or of a sequence.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    meaning: str
    columns: tuple[str, ...] = ()
    vocabularies: tuple[str, ...] = ()


def inputs_of(model: CTRModel) -> list[InputSpec]:
    """The inputs of a model's graph, in order: ids, floats if it has any, and the histories that its towers read."""
    schema = model.schema
    features = schema.categorical
    names, dense = tuple(f.name for f in features), tuple(schema.dense)
    vocabularies = tuple(f.vocabulary for f in features)
    specs = [InputSpec("ids", "int64", ("batch", len(names)), "id of every categorical feature", names, vocabularies)]
    if dense:
        specs.append(InputSpec("dense", "float32", ("batch", len(dense)), "transformed floats", dense))
    for behaviour, sequences in schema.behaviours.items() if len(model.behaviours) else ():
        specs.append(InputSpec(f"{behaviour}_lengths", "int64", ("batch",), f"events of {behaviour!r} of every row"))
        meaning = "id of every event: row after row, the oldest first"
        specs += [
            InputSpec(f.name, "int64", (f"events of {behaviour}",), meaning, (), (f.vocabulary,)) for f in sequences
        ]
    return specs


class Scoring(nn.Module):
    """A model on flat tensors, in the order of :func:`inputs_of`; gives probabilities (or ratings) float32 [B].

    A row without meaning is put behind the B rows, with two events in each of its histories, so that a graph traced
    with many rows serves a single one, and rows without any events; what histories have too much goes to it, so that
    cutting them changes no shape.

    Args:
        model: in evaluation mode.
        rating: its outputs are ratings, not logits.
    """

    def __init__(self, model: CTRModel, rating: bool = False) -> None:
        super().__init__()
        self.model = model
        self.rating = rating
        self.names = [spec.name for spec in inputs_of(model)]

    def flat(self, batch: Batch) -> tuple[Tensor, ...]:
        """The inputs that a batch is."""
        given: dict[str, Tensor] = {"ids": batch.ids, "dense": batch.dense}
        for behaviour, sequences in self.model.schema.behaviours.items():
            given[f"{behaviour}_lengths"] = batch.histories[sequences[0].name].lengths()
            given |= {f.name: batch.histories[f.name].values for f in sequences}
        return tuple(given[name] for name in self.names)

    def forward(self, *inputs: Tensor) -> Tensor:
        given = dict(zip(self.names, inputs, strict=True))
        ids = given["ids"]
        dense = given.get("dense", ids.new_zeros((ids.shape[0], 0), dtype=torch.float32))
        outputs = self.model(Batch(_one_more(ids), _one_more(dense), self._histories(given))).float()[:-1]
        return outputs if self.rating else torch.sigmoid(outputs)

    def _histories(self, given: Mapping[str, Tensor]) -> dict[str, Jagged]:
        made: dict[str, Jagged] = {}
        for behaviour, sequences in self.model.schema.behaviours.items() if len(self.model.behaviours) else ():
            lengths, limit = given[f"{behaviour}_lengths"], self.model.config.max_history
            values = [torch.cat([given[f.name], given[f.name].new_zeros(2)]) for f in sequences]
            if limit is not None:
                places = _cut(lengths, values[0].shape[0], limit)
                values = [torch.zeros_like(v).scatter(0, places, v) for v in values]
                lengths = lengths.clamp(max=limit)
            ends = torch.cumsum(lengths, 0)
            offsets = torch.cat([ends.new_zeros(1), ends, ends.new_full((1,), values[0].shape[0])])
            made |= {f.name: Jagged(v, offsets, limit) for f, v in zip(sequences, values, strict=True)}
        return made


def _one_more(rows: Tensor) -> Tensor:
    """[B, *] -> [B + 1, *], zeros last."""
    return torch.cat([rows, rows.new_zeros((1, rows.shape[1]))])


def _cut(lengths: Tensor, events: int, limit: int) -> Tensor:
    """Move what rows have before their ``limit`` last events behind all rows.

    Args:
        lengths: int64 [B].
        events: P, those that belong to no row included.
        limit: most events of a row.

    Returns:
        int64 [P]: where every event goes.
    """
    ends = torch.cat([torch.cumsum(lengths, 0), lengths.new_full((1,), events)])  # the events of no row last
    begun = torch.zeros(events + 1, dtype=torch.int64).scatter_add(0, ends[:-1], torch.ones_like(lengths))
    position, row = torch.arange(events), torch.cumsum(begun, 0)[:events]
    of_rows = torch.cat([torch.ones_like(lengths), lengths.new_zeros(1)])
    is_kept = (position >= ends[row] - limit) & (of_rows[row] > 0)
    kept = torch.cumsum(is_kept.to(torch.int64), 0)
    return torch.where(is_kept, kept - 1, kept[-1] + position - kept)
