"""A data set without some of its features: the other columns as they were, its own fingerprint, clear refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from training_helpers import tiny_dataset

from rectab.data import PreparedDataset, prepare, without_features
from rectab.training import TrainConfig, train_once

RECIPE = """
name = "clicks"
label = { column = "click" }
group = "user"
features = [{ name = "user" }, { name = "item" }, { name = "genre" }, { name = "price", type = "dense" }]
[[files]]
path = "rows.csv"
[split]
by = "random"
valid = 0.2
test = 0.2
[negatives]
ratio = 1
item = "item"
item_columns = ["genre"]
"""


def test_the_columns_that_stay_are_as_they_were() -> None:
    full = tiny_dataset(300)
    part = without_features(full, ["genre", "clicked_genre", "price"])
    assert [f.name for f in part.schema.features] == ["user", "item", "clicked_item"]
    assert [v.name for v in part.schema.vocabularies] == ["user", "item"]
    assert part.schema.dense == ()
    rows = np.array([5, 0, 17])
    for split in ("train", "valid", "test"):
        whole, cut = getattr(full, split).batch(rows), getattr(part, split).batch(rows)
        assert torch.equal(cut.ids, whole.ids[:, :2])
        assert cut.dense.shape == (3, 0)
        assert torch.equal(cut.labels, whole.labels)
        assert list(cut.histories) == ["clicked_item"]
        assert torch.equal(cut.histories["clicked_item"].values, whole.histories["clicked_item"].values)
        assert np.array_equal(getattr(part, split).column("item"), getattr(full, split).column("item"))
    assert part.train.occurrences()["item"].tolist() == full.train.occurrences()["item"].tolist()
    first = without_features(full, ["user"])
    assert torch.equal(first.train.batch(rows).ids, full.train.batch(rows).ids[:, 1:])
    assert np.array_equal(first.train.restrict(rows).column("genre"), full.train.restrict(rows).column("genre"))


def test_a_behaviour_goes_as_a_whole() -> None:
    full = tiny_dataset(100)
    assert without_features(full, ["click"]).schema.behaviours == {}
    assert without_features(full, ["clicked_item", "clicked_genre"]).train.batch(slice(0, 4)).histories == {}
    assert without_features(full, ["item", "genre", "click"]).schema.slice_by is None


def test_the_fingerprint_says_what_is_left_out() -> None:
    full = tiny_dataset(100)
    assert without_features(full, []).fingerprint() == full.fingerprint()
    prints = {without_features(full, names).fingerprint() for names in (["price"], ["click"], ["price", "click"])}
    assert len(prints | {full.fingerprint()}) == 4
    assert (
        without_features(full, ["click", "price"]).fingerprint()
        == without_features(full, ["price", "click"]).fingerprint()
    )


def test_what_cannot_be_left_out_is_refused_by_name() -> None:
    full = tiny_dataset(100)
    with pytest.raises(ValueError, match=r"no feature 'prize' to leave out.*price"):
        without_features(full, ["prize"])
    with pytest.raises(ValueError, match="'clicked_item' is compared with 'item'"):
        without_features(full, ["item"])
    with pytest.raises(ValueError, match="no categorical feature would be left"):
        without_features(full, ["user", "item", "genre", "click"])


def test_negatives_drawn_anew_fill_the_columns_that_stay(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    items = random.integers(0, 30, 200)
    lines = [f"{u},{i},{i % 4},{i / 10}" for u, i in zip(random.integers(0, 20, 200), items, strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join(["user,item,genre,price", *lines]) + "\n")
    recipe = RECIPE.replace('label = { column = "click" }\n', "")
    (tmp_path / "recipe.toml").write_text(recipe)
    full = prepare(tmp_path / "recipe.toml", tmp_path, tmp_path / "data")
    part = without_features(PreparedDataset.open(tmp_path / "data"), ["user"])
    rows = np.arange(20)
    whole, cut = full.train.batch(rows, salt=7), part.train.batch(rows, salt=7)
    assert torch.equal(cut.ids, whole.ids[:, 1:])
    assert not torch.equal(cut.ids, part.train.batch(rows, salt=8).ids)


def test_a_run_without_a_feature_is_another_run(tmp_path: Path) -> None:
    full = tiny_dataset(300)
    config = TrainConfig(max_epochs=1, batch_size=128)
    settings = {"method": "full", "embedding_dim": 4, "model": "mlp", "model_options": {"hidden": [4]}}
    whole = train_once(full, train_config=config, **settings)  # type: ignore[arg-type]
    part = train_once(without_features(full, ["genre", "click"]), train_config=config, **settings)  # type: ignore[arg-type]
    assert part.serving_bytes < whole.serving_bytes
    assert part.fingerprint != whole.fingerprint
