"""Synthetic impressions with a known click probability: a test bed for tables, towers and interactions.

Everything about an id (its bias, its latent factors, its category, when it first appears) is a hash of the id, and
everything about an impression a hash of its number. So 10^8 ids cost no memory, the rows do not depend on how they are
cut into chunks, and a seed names one data set for ever.

The logit of an impression is the sum of

* a bias per id (what a linear model learns),
* products of latent factors of pairs of ids (what interactions learn),
* how many of the user's visible past events are of the target item's category, saturating: with many categories a
  pooled history forgets which ones it holds, so attention beats mean pooling, and mean pooling beats no history,
* the float columns.

Ids follow Zipf's law; some items appear only after training ended. The click is drawn from the probability, which is
stored: its AUC is the best any model can reach.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from rectab.data.keyed_random import mix, uniform_of
from rectab.data.recipe import Recipe
from rectab.data.recipe_files import SourceFile
from rectab.data.recipe_parts import (
    FeatureRecipe,
    HistoryRecipe,
    LabelRecipe,
    SequenceRecipe,
    SplitRecipe,
)
from rectab.data.synthetic_options import SyntheticOptions

__all__ = ["World", "generate", "recipe_for"]

_EVENTS_FILE = "events.parquet"
_INTERESTS = 6  # categories a user cares about
_CALIBRATION_ROWS = 20_000
_SALTS = {"user": 1, "item": 2, "row": 3, "event": 4, "click": 5}  # what is hashed for; fields follow from 16 on


def recipe_for(recipe: Recipe) -> Recipe:
    """The recipe of the generated files: ``recipe`` with everything its ``[synthetic]`` options imply filled in."""
    options = recipe.synthetic
    assert options is not None
    ids = ["user", "item", "category", *options.fields]
    features = [FeatureRecipe.model_validate({"name": name, "hashed": options.hashed}) for name in ids]
    features += [
        FeatureRecipe.model_validate({"name": f"amount_{j}", "type": "dense", "transform": "log_standardize"})
        for j in range(options.dense)
    ]
    history = HistoryRecipe(
        behaviour="visit",
        source="events",
        path=_EVENTS_FILE,
        max_length=options.max_history,
        sequences=tuple(SequenceRecipe(name=f"visit_{n}", column=n, target=n) for n in ("item", "category")),
    )
    return recipe.model_copy(
        update={
            "synthetic": None,
            "files": tuple(SourceFile(path=name) for name in _part_names(options)),
            "label": LabelRecipe(column="click"),
            "group": "user",
            "time": "time",
            "features": tuple(features),
            "histories": (history,),
            "split": SplitRecipe(by="row_order", valid=options.valid, test=options.test),
            "slice_by": "item",
            "probability": "probability",
        }
    )


def generate(options: SyntheticOptions, folder: Path) -> None:
    """Write the impressions (parquet parts, in time order) and the users' events into ``folder``."""
    world = World(options)
    users: list[np.ndarray] = []
    for name, (first, last) in zip(_part_names(options), _chunks(options.rows, options.chunk_rows), strict=True):
        rows = world.impressions(np.arange(first, last, dtype=np.int64))
        users.append(np.unique(rows["user"]))
        pl.DataFrame(rows).with_columns(
            [pl.Series(name, world.raw_ids(name, rows[name])) for name in world.sizes]
        ).write_parquet(folder / name)
    _write_events(world, np.unique(np.concatenate(users)), folder)


def _write_events(world: World, users: np.ndarray, folder: Path) -> None:
    made = folder / "event_parts"
    made.mkdir()
    parts = []
    size = max(1, world.options.chunk_rows // 64)
    for first, last in _chunks(len(users), size):
        events = world.events(users[first:last])
        visible = events.exists
        owner = np.broadcast_to(users[first:last, None], visible.shape)[visible]
        parts.append(made / f"{first:012d}.parquet")
        pl.DataFrame(
            {
                "user": world.raw_ids("user", owner),
                "time": events.time[visible],
                "item": world.raw_ids("item", events.item[visible]),
                "category": world.raw_ids("category", events.item[visible] % world.options.categories),
            }
        ).write_parquet(parts[-1])
    pl.scan_parquet(parts, glob=False).sink_parquet(folder / _EVENTS_FILE)


@dataclass
class _Events:
    """Up to M events of U users, oldest first: item int64 [U, M], time float64 [U, M], exists bool [U, M]."""

    item: np.ndarray
    time: np.ndarray
    exists: np.ndarray


class World:
    """The hidden truth that impressions are drawn from."""

    def __init__(self, options: SyntheticOptions) -> None:
        self.options = options
        self.sizes = {"user": options.users, "item": options.items, "category": options.categories, **options.fields}
        self.salts = {name: _SALTS.get(name, 16 + i) for i, name in enumerate(self.sizes)}
        self.pairs = _pairs(list(options.fields))
        self.train_end = 1.0 - options.valid - options.test
        self.event_limit = math.ceil(4 * options.history_length)
        self.history_mean, self.history_std = 0.0, 1.0
        sample = np.linspace(0, options.rows - 1, min(options.rows, _CALIBRATION_ROWS)).astype(np.int64)
        relevance = self._relevance(*self._who(sample))
        self.history_mean, self.history_std = float(relevance.mean()), float(relevance.std()) or 1.0

    def raw_ids(self, name: str, ids: np.ndarray) -> np.ndarray:
        """int64: ids as the raw files show them, so that their order says nothing about their frequency."""
        return (mix(ids, self._salt(name, 9)) >> np.uint64(1)).astype(np.int64)

    def impressions(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Columns of the impressions with these numbers (int64 [n])."""
        ids, time = self.ids(rows)
        amounts = [_normal(rows, self._salt("row", 200 + j)) for j in range(self.options.dense)]
        probability = 1 / (1 + np.exp(-self.logit(ids, time, amounts)))
        click = uniform_of(rows, self._salt("click", 0)) < probability
        columns: dict[str, np.ndarray] = {"time": time, **ids}
        columns |= {f"amount_{j}": np.round(np.exp(a) * 100) for j, a in enumerate(amounts)}
        return {**columns, "click": click.astype(np.int8), "probability": probability.astype(np.float32)}

    def ids(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Ids (int64 [n]) of the impressions by column, and their times (float64 [n])."""
        user, item, time = self._who(rows)
        ids = {"user": user, "item": item, "category": item % self.options.categories}
        for name, size in self.options.fields.items():
            ids[name] = _zipf(self._row_uniform(rows, self.salts[name]), size, self.options.zipf)
        return ids, time

    def events(self, users: np.ndarray) -> _Events:
        """What users did elsewhere; part of it from before the first impression."""
        options, width = self.options, self.event_limit
        count = -np.log1p(-uniform_of(users, self._salt("event", 0))) * options.history_length
        key = users[:, None] * width + np.arange(width)
        time = np.sort(uniform_of(key, self._salt("event", 1)) * 1.5 - 0.5, axis=1)
        category = self._category_of_interest(users[:, None], key, "event")
        item = self._item(uniform_of(key, self._salt("event", 4)), category, time)
        return _Events(item, time, np.arange(width) < count[:, None])

    def _who(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(user, item, time) of impressions: half of the time the item is of a category the user cares about."""
        time = rows / self.options.rows
        user = _zipf(self._row_uniform(rows, _SALTS["user"]), self.options.users, 0.5)
        category = self._category_of_interest(user, rows, "row")
        return user, self._item(self._row_uniform(rows, _SALTS["item"]), category, time), time

    def _category_of_interest(self, user: np.ndarray, key: np.ndarray, purpose: str) -> np.ndarray:
        care = 0.85 if purpose == "event" else 0.5
        slot = (uniform_of(key, self._salt(purpose, 2)) * _INTERESTS).astype(np.int64)
        cared_for = mix(user * _INTERESTS + slot, self._salt("user", 7)) % np.uint64(self.options.categories)
        anything = mix(key, self._salt(purpose, 3)) % np.uint64(self.options.categories)
        cares = uniform_of(key, self._salt(purpose, 5)) < care
        return np.where(cares, cared_for, anything).astype(np.int64)

    def _item(self, uniform: np.ndarray, category: np.ndarray, time: np.ndarray) -> np.ndarray:
        """An item of the category by Zipf's law; one not yet out is replaced by the next more frequent one."""
        options = self.options
        per_category = max(options.items // options.categories, 1)
        rank = _zipf(uniform, per_category, options.zipf)
        if options.late_share > 0:
            period = max(round(1 / options.late_share), 2)
            is_late = rank % period == period - 1
            out_from = self.train_end + (1 - self.train_end) * uniform_of(
                rank * options.categories + category, self._salt("item", 8)
            )
            rank = np.where(is_late & (time < out_from), rank - 1, rank)
        return np.minimum(rank * options.categories + category % options.items, options.items - 1)

    def _relevance(self, user: np.ndarray, item: np.ndarray, time: np.ndarray) -> np.ndarray:
        """float64 [n]: saturating count of the visible events of the target's category."""
        distinct, owner = np.unique(user, return_inverse=True)
        relevance = np.empty(len(user))
        events = self.events(distinct)
        for first, last in _chunks(len(user), 1 << 16):
            at = owner[first:last]
            before = events.exists[at] & (events.time[at] < time[first:last, None])
            recent = before & (before[:, ::-1].cumsum(axis=1)[:, ::-1] <= self.options.max_history)
            same = events.item[at] % self.options.categories == (item[first:last] % self.options.categories)[:, None]
            relevance[first:last] = 1 - np.exp(-(recent & same).sum(axis=1) / 2)
        return relevance

    def logit(self, ids: dict[str, np.ndarray], time: np.ndarray, amounts: list[np.ndarray]) -> np.ndarray:
        """float64 [n]: of impressions with these ids by column (int64 [n]), times and float columns."""
        options = self.options
        logit = np.full(len(time), options.intercept)
        for name, values in ids.items():
            logit += options.bias_scale / math.sqrt(len(ids)) * self.of_id(name, values, 0)
        for left, right in self.pairs:
            product = sum(
                self.of_id(left, ids[left], 20 + k) * self.of_id(right, ids[right], 20 + k)
                for k in range(options.factor_dim)
            )
            logit += options.pair_scale / math.sqrt(len(self.pairs) * options.factor_dim) * product
        relevance = self._relevance(ids["user"], ids["item"], time)
        logit += options.history_scale * (relevance - self.history_mean) / self.history_std
        for j, amount in enumerate(amounts):
            logit += 0.2 * (1 if j % 2 == 0 else -1) * amount
        return logit

    def of_id(self, name: str, ids: np.ndarray, purpose: int) -> np.ndarray:
        """What a column's ids contribute (float64, standard normal): bias (purpose 0) and factors (20 and on)."""
        return _normal(ids, self._salt(name, purpose))

    def _salt(self, name: str, purpose: int) -> int:
        number = self.salts.get(name, _SALTS.get(name, 0))
        return (self.options.seed << 24) + (number << 12) + purpose

    def _row_uniform(self, rows: np.ndarray, column: int) -> np.ndarray:
        return uniform_of(rows, self._salt("row", 1000 + column))


def _pairs(fields: list[str]) -> list[tuple[str, str]]:
    """Pairs of columns that interact: neighbours in this order. Which they are, a model must find out."""
    ordered = ["user", "category", *fields, "item"]
    return list(pairwise(ordered))


def _part_names(options: SyntheticOptions) -> list[str]:
    return [f"impressions-{i:05d}.parquet" for i in range(math.ceil(options.rows / options.chunk_rows))]


def _chunks(total: int, size: int) -> Iterator[tuple[int, int]]:
    for first in range(0, total, size):
        yield first, min(first + size, total)


def _normal(keys: np.ndarray, salt: int) -> np.ndarray:
    """float64, standard normal (Box and Muller)."""
    radius = np.sqrt(-2 * np.log1p(-uniform_of(keys, salt)))
    return radius * np.cos(2 * math.pi * uniform_of(keys, salt + (1 << 40)))


def _zipf(uniform: np.ndarray, size: int, exponent: float) -> np.ndarray:
    """int64 in [0, size): rank r with probability about (r + 1) ** -exponent (inverse of the continuous law)."""
    if abs(exponent - 1) < 1e-9:
        value = np.exp(uniform * math.log(size + 1))
    else:
        power = 1 - exponent
        value = (uniform * ((size + 1) ** power - 1) + 1) ** (1 / power)
    return np.clip(value.astype(np.int64) - 1, 0, size - 1)
