"""The synthetic generator: reproducible, independent of chunking, any size, and with the signal it claims to have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torchmetrics.functional.classification import binary_auroc

from rectab.data import PreparedDataset, Recipe, load_recipe, prepare
from rectab.data.synthetic import generate
from rectab.data.synthetic_options import SyntheticOptions

SMALL = {"rows": 6000, "users": 300, "items": 600, "fields": {"page": 200, "hour": 24}, "categories": 12}


def make(tmp_path: Path, name: str = "out", **options: Any) -> PreparedDataset:
    recipe = Recipe.model_validate({"name": "synthetic", "synthetic": {**SMALL, **options}})
    return prepare(recipe, None, tmp_path / name)


def rows_of(tmp_path: Path, name: str, **options: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    folder = tmp_path / name
    folder.mkdir()
    generate(SyntheticOptions.model_validate({**SMALL, **options}), folder)
    return pl.read_parquet(folder / "impressions-*.parquet"), pl.read_parquet(folder / "events.parquet")


def test_same_seed_same_rows_however_chunked(tmp_path: Path) -> None:
    rows, events = rows_of(tmp_path, "whole")
    chunked_rows, chunked_events = rows_of(tmp_path, "chunked", chunk_rows=1234)
    assert rows.equals(chunked_rows)
    assert events.equals(chunked_events)
    other, _ = rows_of(tmp_path, "other", seed=1)
    assert not rows.equals(other)


def test_prepared_twice_is_equal(tmp_path: Path) -> None:
    assert make(tmp_path, "a").fingerprint() == make(tmp_path, "b").fingerprint()


def test_clicks_follow_the_stored_probability(tmp_path: Path) -> None:
    rows, _ = rows_of(tmp_path, "rows", rows=40_000)
    probability, click = rows["probability"].to_numpy(), rows["click"].to_numpy()
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        inside = (probability >= low) & (probability < low + 0.2)
        error = np.sqrt(0.25 / inside.sum())
        assert abs(click[inside].mean() - probability[inside].mean()) < 4 * error


def test_best_possible_auc_is_that_of_the_probability(tmp_path: Path) -> None:
    dataset = make(tmp_path)
    test = dataset.test
    assert test.probability is not None
    best = float(
        binary_auroc(torch.from_numpy(np.array(test.probability)), torch.from_numpy(np.array(test.labels)).long())
    )
    assert dataset.summary["splits"]["test"]["best_auc"] == pytest.approx(best)
    assert 0.7 < best < 0.95


def test_ids_have_a_head_and_a_tail_and_some_appear_only_late(tmp_path: Path) -> None:
    dataset = make(tmp_path, late_share=0.2)
    counts = np.sort(dataset.schema.vocabularies[dataset.schema.vocabulary_index("item")].counts)[::-1]
    assert counts[:30].sum() > 0.3 * counts.sum()
    unseen = {column["name"]: column["unseen"] for column in dataset.summary["columns"]}
    assert unseen["item"]["test"] > 0.01
    assert (dataset.test.column("item") == 0).mean() == pytest.approx(unseen["item"]["test"])


def test_history_of_the_targets_category_raises_the_probability(tmp_path: Path) -> None:
    test = make(tmp_path, rows=20_000).test
    batch = test.batch(slice(None))
    history = batch.histories["visit_category"]
    target = batch.ids[:, test.schema.categorical_index("category")][history.segment_ids()]
    same = torch.zeros(len(test)).index_add(0, history.segment_ids(), (history.values == target).float())
    assert test.probability is not None
    probability = torch.from_numpy(np.array(test.probability))
    assert probability[same >= 2].mean() > probability[same == 0].mean() + 0.1


def test_history_does_not_reach_into_the_future(tmp_path: Path) -> None:
    rows, events = rows_of(tmp_path, "rows")
    dataset = make(tmp_path)
    lengths = dataset.test.batch(slice(0, 50)).histories["visit_item"].lengths().tolist()
    first = 6000 - len(dataset.test)
    for i, length in enumerate(lengths):
        row = rows.row(first + i, named=True)
        seen = events.filter((pl.col("user") == row["user"]) & (pl.col("time") < row["time"]))
        assert length == min(len(seen), 50)


def test_a_hundred_million_ids_cost_no_memory(tmp_path: Path) -> None:
    dataset = make(tmp_path, users=10**8, items=10**8, fields={"cookie": 10**8}, zipf=0.5, hashed=True)
    vocabulary = dataset.schema.vocabularies[dataset.schema.vocabulary_index("cookie")]
    assert vocabulary.hashed
    assert vocabulary.num_embeddings > 3000
    assert dataset.summary["columns"][0]["unseen"]["test"] > 0.5


def test_bundled_recipe_is_the_demo(tmp_path: Path) -> None:
    recipe = load_recipe("synthetic")
    assert recipe.synthetic is not None
    assert recipe.synthetic.rows <= 120_000
