"""A small data set in memory with something to learn: clicks depend on ids, on a pair of ids and on the history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rectab.data.dataset import PreparedDataset
from rectab.data.history_store import HistoryStore
from rectab.data.split import Split
from rectab.schema import Feature, Schema, Vocabulary
from rectab.tables.base import EmbeddingTable
from rectab.training import Trainer
from rectab.training.checkpoint import Checkpoints
from rectab.training.result import RunResult

USERS, ITEMS, GENRES = 60, 90, 6


def tiny_schema(counts: np.ndarray | None = None) -> Schema:
    """User, item and genre; clicked items and their genres, compared with item and genre; one dense column."""
    return Schema(
        vocabularies=(
            Vocabulary("user", USERS),
            Vocabulary("item", ITEMS, counts=counts),
            Vocabulary("genre", GENRES),
        ),
        features=(
            Feature("user", "user"),
            Feature("item", "item"),
            Feature("genre", "genre"),
            Feature("clicked_item", "item", "sequence", "click", "item"),
            Feature("clicked_genre", "genre", "sequence", "click", "genre"),
        ),
        dense=("price",),
        label="click",
        group="user",
        slice_by="item",
    )


def tiny_dataset(rows: int = 3000, seed: int = 0) -> PreparedDataset:
    """``rows`` training rows, a third as many for validation and test. A few histories are empty."""
    rng = np.random.default_rng(seed)
    genre_of = 1 + np.arange(ITEMS) % (GENRES - 1)
    taste = rng.normal(size=(USERS, GENRES))
    quality = rng.normal(size=ITEMS)
    schema = tiny_schema()

    def split(name: str, n: int) -> Split:
        user, item = rng.integers(1, USERS, n), 1 + (rng.zipf(1.4, n) - 1) % (ITEMS - 1)
        lengths = rng.integers(0, 9, n)
        starts = np.cumsum(lengths) - lengths
        events = rng.integers(1, ITEMS, int(lengths.sum()))
        price = rng.normal(size=n).astype(np.float32)
        owner = np.repeat(np.arange(n), lengths)
        matches = np.bincount(owner, genre_of[events] == genre_of[item][owner], n)
        logit = taste[user, genre_of[item]] + 0.7 * quality[item] + 0.8 * matches - 1.2 + 0.5 * price
        labels = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.float32)
        store = HistoryStore(
            features=schema.behaviours["click"],
            ranges=np.stack([starts, lengths], 1).astype(np.int64),
            values=(events.astype(np.int64), genre_of[events].astype(np.int64)),
        )
        ids = np.stack([user, item, genre_of[item]], 1).astype(np.int64)
        return Split(name, schema, ids, price[:, None], labels, user.astype(np.int64), None, (store,))

    splits = {"train": split("train", rows), "valid": split("valid", rows // 3), "test": split("test", rows // 3)}
    return PreparedDataset(Path("tiny"), "tiny", schema, **splits, summary={}, description={"name": f"tiny-{seed}"})


def counted(dataset: PreparedDataset) -> PreparedDataset:
    """The same data, vocabularies with how often each id occurs in the training rows."""
    counts = dataset.train.occurrences(max_history=0)
    vocabularies = tuple(replace(v, counts=counts[v.name]) for v in dataset.schema.vocabularies)
    return replace(dataset, schema=replace(dataset.schema, vocabularies=vocabularies))


class _Killed(Exception):
    pass


def watch_trainings(monkeypatch: pytest.MonkeyPatch, tell: Callable[[EmbeddingTable], Any]) -> list[Any]:
    """What ``tell`` says of every table that is trained from now on."""
    trained: list[Any] = []
    fit = Trainer.fit

    def watched(trainer: Trainer) -> Any:
        trained.append(tell(trainer.table))
        return fit(trainer)

    monkeypatch.setattr(Trainer, "fit", watched)
    return trained


def run_with_kills(monkeypatch: pytest.MonkeyPatch, every: int, run: Callable[[], RunResult]) -> tuple[RunResult, int]:
    """``run`` stopped after every so many checkpoints and started again until it ends: (its result, checkpoints)."""
    original, calls = Checkpoints.save_current, 0

    def save_and_stop(self: Checkpoints, *arguments: Any) -> None:
        nonlocal calls
        original(self, *arguments)
        calls += 1
        if calls % every == 0:
            raise _Killed

    monkeypatch.setattr(Checkpoints, "save_current", save_and_stop)
    for _ in range(50):
        try:
            return run(), calls
        except _Killed:
            continue
    raise AssertionError("the run did not end")
