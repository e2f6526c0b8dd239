"""The arms of a comparison: which table, how raw ids become its ids, and what happens between two periods."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rectab.schema import Schema
from rectab.stream.config import StreamConfig, StreamSpec
from rectab.stream.learner import Learner
from rectab.stream.slices import Seen
from rectab.stream.source import Source, Universe, schema_of
from rectab.stream.vocabularies import Fitted, fit_most_seen, whole
from rectab.tables import TableOptions, full_table_bytes, parse_budget, plan
from rectab.tables.addressing import rows_of
from rectab.tables.base import EmbeddingTable
from rectab.tables.remapping import remap

__all__ = ["Arm", "MappedArm", "OpenArm", "make_arm"]


class Arm:
    """An arm of one run.

    Attributes:
        schema: of the model.
        table: before the first period; later the learner has it.
        bytes: of table and id map together, against the same budget for all.
        map_bytes: those of the map.
    """

    schema: Schema
    table: EmbeddingTable
    bytes: int
    map_bytes: int = 0

    def ids(self, raw: np.ndarray) -> np.ndarray:
        """int64 [n, F] raw ids -> int64 [n, F] ids of the table."""
        return raw

    def before_period(self, raw: np.ndarray, seen: Seen, learner: Learner | None) -> None:
        """Called with the rows of every period before it is trained on; ``learner`` is None before the first."""

    def shared(self, raw: np.ndarray, table: EmbeddingTable) -> float:
        """Share of lookups of rows int64 [n, F] that read a row which another id of theirs reads as well."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Be what :meth:`state_dict` was; called before the learner is made."""


class OpenArm(Arm):
    """A table that takes any id."""

    def __init__(self, spec: StreamSpec, config: StreamConfig, source: Source, universe: Universe, budget: int) -> None:
        self.schema = schema_of(source, universe.sizes, mapped=False)
        options = TableOptions(seed=spec.seed, rows=spec.arm.rows)
        planned = plan(
            spec.arm.method, self.schema.vocabularies, config.embedding_dim, budget, options=options, **spec.arm.options
        )
        self.table, self.bytes = planned.build(), planned.serving.bytes

    def shared(self, raw: np.ndarray, table: EmbeddingTable) -> float:
        met, lookups = 0, raw.size
        holds = getattr(table, "holds", None)
        for vocabulary in range(raw.shape[1]):
            ids, times = np.unique(raw[:, vocabulary], return_counts=True)
            if holds is not None:
                met += int(times[~holds(torch.from_numpy(ids), vocabulary).numpy()].sum())
                continue
            size = table.vocabularies[vocabulary].num_embeddings
            alone = np.ones(len(ids), bool)
            for address in (a for a in table.addresses() if a.vocabulary == vocabulary):
                rows = rows_of(address, torch.from_numpy(ids), size).numpy()
                _, place, readers = np.unique(rows, return_inverse=True, return_counts=True)
                alone &= readers[place] == 1
            met += int(times[~alone].sum())
        return met / max(lookups, 1)


class MappedArm(Arm):
    """A full table over vocabularies: all of them, those of the first period, or fitted again before every period."""

    def __init__(
        self, spec: StreamSpec, config: StreamConfig, source: Source, universe: Universe, budget: int | None
    ) -> None:
        self._spec, self._config, self._source, self._universe = spec, config, source, universe
        self._budget = budget
        self._options = TableOptions(seed=spec.seed, rows=spec.arm.rows)
        self._window: list[list[np.ndarray]] = []
        if budget is None:
            self._become(whole(source, universe))
            self.table = self._new_table()

    def _become(self, fitted: Fitted) -> None:
        self.fitted = fitted
        self.schema = fitted.schema(self._source)

    def _new_table(self) -> EmbeddingTable:
        planned = plan("full", self.schema.vocabularies, self._config.embedding_dim, options=self._options)
        self.bytes = planned.serving.bytes + self.map_bytes
        return planned.build()

    def ids(self, raw: np.ndarray) -> np.ndarray:
        return self.fitted.ids(raw)

    def before_period(self, raw: np.ndarray, seen: Seen, learner: Learner | None) -> None:
        if self._budget is None or (learner is not None and self._spec.arm.ids == "fixed"):
            return
        self._window = [*self._window, seen.count(raw)][-self._spec.arm.window :]
        counts = [np.sum(held, axis=0) for held in zip(*self._window, strict=True)]
        before = self.fitted if learner is not None else None
        found, size, self.map_bytes = fit_most_seen(
            self._source, self._universe, counts, self._config.embedding_dim, self._budget, self._options
        )
        self._become(found)
        if before is None or learner is None:
            self.table = self._new_table()
            return
        table, kept = remap(learner.table, before.values, found.values)
        learner.replace_table(self.schema, table, kept)
        self.bytes = size + self.map_bytes

    def shared(self, raw: np.ndarray, table: EmbeddingTable) -> float:
        ids, closed = self.fitted.ids(raw), self.fitted.closed
        return sum(float((ids[:, f] == 0).mean()) for f in range(raw.shape[1]) if not closed[f]) / raw.shape[1]

    def state_dict(self) -> dict[str, Any]:
        window = [[torch.from_numpy(counts) for counts in held] for held in self._window]
        values = [torch.from_numpy(values) for values in self.fitted.values]
        return {"values": values, "window": window, "bytes": self.bytes, "map_bytes": self.map_bytes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        values = tuple(values.numpy() for values in state["values"])
        closed = tuple(name in self._source.closed for name in self._source.features)
        self._window = [[counts.numpy() for counts in held] for held in state["window"]]
        self.map_bytes = state["map_bytes"]
        self._become(Fitted(values, closed))
        self.table = self._new_table()
        self.bytes = state["bytes"]


def make_arm(spec: StreamSpec, config: StreamConfig, source: Source, universe: Universe) -> Arm:
    """The arm of a run. Raises InfeasibleBudget or ValueError where a budget holds nothing."""
    sizes = schema_of(source, universe.sizes, mapped=True).vocabularies
    budget = None if spec.budget is None else parse_budget(spec.budget, full_table_bytes(sizes, config.embedding_dim))
    if spec.arm.ids == "open":
        assert budget is not None
        return OpenArm(spec, config, source, universe, budget)
    return MappedArm(spec, config, source, universe, budget)
