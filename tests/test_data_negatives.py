"""Negatives drawn anew in every epoch: what changes with the item changes, all else and all other splits stay."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import prepared, recipe, values_of, write_lines

from rectab.batch import Batch
from rectab.data import DataError, PreparedDataset, RecipeError, batches, load_recipe, prepare, render_summary
from rectab.data.candidates import Candidates
from rectab.data.negatives import draw_negatives
from rectab.data.split import Split

USERS, ITEMS, WATCHED = 6, 30, 7
SEEN = [{"name": "seen_item", "column": "item", "target": "item"}]
RECIPE: dict[str, Any] = {
    "label": None,
    "split": {"by": "last_per_group", "valid": 1, "test": 2},
    "tables": [{"path": "items.csv", "on": "item", "columns": ["brand", "cost"]}],
    "derived": [{"name": "maker", "sql": "CONCAT('m', brand)"}],
    "features": [
        {"name": "user"},
        {"name": "item"},
        {"name": "brand", "hashed": True},
        {"name": "maker"},
        {"name": "band", "column": "cost", "bins": "bucketize", "edges": [10, 20]},
        {"name": "age"},
        {"name": "cost", "type": "dense"},
        {"name": "price", "type": "dense"},
    ],
    "histories": [{"behaviour": "seen", "by": "position", "sequences": SEEN}],
}


def write(folder: Path) -> Path:
    """Each of 6 users watches 7 different ones of 30 items; brand and cost are the item's, age and price the row's."""
    raw, generator = folder / "raw", np.random.default_rng(3)
    raw.mkdir(exist_ok=True)
    rows = [
        ["1", f"u{user}", f"i{item}", str(position), str(position), str(20 + user)]
        for user in range(USERS)
        for position, item in enumerate(generator.permutation(ITEMS)[:WATCHED])
    ]
    write_lines(raw / "rows.csv", rows)
    write_lines(raw / "items.csv", [[f"i{i}", f"b{i}", str(i)] for i in range(ITEMS)], ["item", "brand", "cost"])
    return raw


def made(folder: Path, name: str = "out", **negatives: Any) -> PreparedDataset:
    write(folder)
    return prepared(folder, name=name, **{**RECIPE, "negatives": {"item": "item", "ratio": 2, "seed": 7, **negatives}})


def epoch(split: Split, seed: int = 0, number: int = 0, size: int = 10_000) -> Batch:
    """A whole epoch as one batch, its rows in stored order."""
    order = np.random.default_rng([seed, number]).permutation(len(split))
    parts = list(batches(split, size, shuffle_seed=seed, epoch=number, prefetch=0))
    back = np.argsort(order)
    ids = np.concatenate([part.ids.numpy() for part in parts])[back]
    dense = np.concatenate([part.dense.numpy() for part in parts])[back]
    stored = split.batch(np.arange(len(split)))
    labels = np.concatenate([part.labels.numpy() for part in parts if part.labels is not None])[back]
    assert stored.labels is not None
    assert (labels == stored.labels.numpy()).all()
    return Batch(ids, dense, stored.histories, stored.labels, stored.groups)  # type: ignore[arg-type]


def items_of(dataset: PreparedDataset, batch: Batch) -> np.ndarray:
    """[n]: the raw numbers of a batch's items; minus one for id 0."""
    names = values_of(dataset, "item")
    return np.array([int(str(names[i])[1:]) if i else -1 for i in np.asarray(batch.ids)[:, 1].tolist()])


def test_a_negative_is_new_to_its_group_and_brings_its_items_columns(tmp_path: Path) -> None:
    dataset = made(tmp_path)
    owned: dict[int, set[int]] = defaultdict(set)
    for split in (dataset.train, dataset.valid, dataset.test):
        stored = split.batch(np.arange(len(split)))
        for user, item, label in zip(stored.ids[:, 0].tolist(), items_of(dataset, stored), split.labels, strict=True):
            if label:
                owned[user].add(item)
    makers, stored = values_of(dataset, "maker"), dataset.train.batch(np.arange(len(dataset.train)))
    brands = dict(zip(items_of(dataset, stored).tolist(), stored.ids[:, 2].tolist(), strict=True))
    for number in range(4):
        drawn = epoch(dataset.train, number=number)
        items = items_of(dataset, drawn)
        for i, item in enumerate(items.tolist()):
            user, _, brand, maker, band, age = np.asarray(drawn.ids)[i].tolist()
            assert (item in owned[user]) == (i % 3 == 0)
            assert makers[maker] == f"mb{item}"
            assert brands.setdefault(item, brand) == brand
            assert str(values_of(dataset, "band").get(band)) in {str((item >= 10) + (item >= 20)), "None"}
            assert np.asarray(drawn.dense)[i, 0] == item
            assert age == int(stored.ids[i, 5])
            assert np.asarray(drawn.dense)[i, 1] == stored.dense[i, 1]


def test_positives_stay_and_negatives_are_others_in_every_epoch(tmp_path: Path) -> None:
    dataset = made(tmp_path)
    train = dataset.train
    stored = train.batch(slice(None)).ids.numpy()
    first, second, other = (np.asarray(epoch(train, *at).ids) for at in ((0, 0), (0, 1), (1, 0)))
    positive = train.labels == 1
    for drawn in (first, second, other):
        assert (drawn[positive] == stored[positive]).all()
    for one, two in ((stored, first), (first, second), (first, other)):
        assert (one[~positive, 1] != two[~positive, 1]).mean() > 0.7
    assert (train.batch(slice(None)).ids.numpy() == stored).all()  # reading an epoch wrote nothing


@pytest.mark.parametrize("draw", ["uniform", "popularity"])
def test_an_epoch_is_a_function_of_seed_and_epoch(tmp_path: Path, draw: str) -> None:
    train = made(tmp_path, draw=draw).train
    whole = np.asarray(epoch(train, 5, 3).ids)
    assert (np.asarray(epoch(train, 5, 3, size=7).ids) == whole).all()
    assert (np.asarray(epoch(made(tmp_path, "again", draw=draw).train, 5, 3).ids) == whole).all()
    some = train.restrict(np.array([4, 1, 8]))
    assert (np.sort(np.asarray(epoch(some, 5, 3).ids)[:, 0]) == np.sort(whole[[4, 1, 8], 0])).all()


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_epoch_resumed_in_the_middle_draws_the_same(tmp_path: Path, prefetch: int) -> None:
    train = made(tmp_path).train
    whole = [batch.ids for batch in batches(train, 10, shuffle_seed=2, epoch=1, prefetch=prefetch)]
    for start in range(len(whole)):
        rest = [batch.ids for batch in batches(train, 10, shuffle_seed=2, epoch=1, start=start, prefetch=prefetch)]
        assert all((a == b).all() for a, b in zip(rest, whole[start:], strict=True))


def same_items(anew: PreparedDataset, fixed: PreparedDataset, name: str) -> bool:
    """The stored items of a split, but those that only redrawn training has an id for."""
    one, two = (items_of(d, getattr(d, name).batch(slice(None))) for d in (anew, fixed))
    return bool((one >= two).all() and (one == two)[two >= 0].all() and (two >= 0).mean() > 0.5)


@pytest.mark.parametrize("draw", ["uniform", "popularity"])
def test_validation_test_and_what_is_stored_of_training_are_those_of_a_set_that_stays(
    tmp_path: Path, draw: str
) -> None:
    anew, fixed = made(tmp_path, "anew", draw=draw), made(tmp_path, "fixed", draw=draw, redraw="never")
    for name in ("valid", "test"):
        for part in ("labels", "groups", "history_0", "dense"):
            arrays = [np.load(d.path / name / f"{part}.npy") for d in (anew, fixed)]
            assert (arrays[0] == arrays[1]).all()
        split = getattr(anew, name)
        assert same_items(anew, fixed, name)
        ids = [np.concatenate([b.ids for b in batches(split, 5, shuffle_seed=0, epoch=e)]) for e in (0, 1)]
        assert (np.sort(ids[0], axis=0) == np.sort(ids[1], axis=0)).all()
    assert same_items(anew, fixed, "train")
    ids = fixed.train.batch(slice(None)).ids.numpy()
    assert (np.asarray(epoch(fixed.train, 0, 1).ids) == ids).all()
    assert anew.fingerprint() != fixed.fingerprint()


def test_every_item_that_may_be_drawn_has_an_id_of_its_own(tmp_path: Path) -> None:
    dataset = made(tmp_path)
    numbers = set(values_of(dataset, "item").values())
    occurring = {line.split(",")[2] for line in (tmp_path / "raw/rows.csv").read_text().splitlines()[1:]}
    assert numbers == occurring
    item = dataset.schema.vocabularies[dataset.schema.vocabulary_index("item")]
    assert item.counts is not None
    assert item.counts[0] == 0
    assert item.counts[1:].min() >= 1
    read = {int(i) for number in range(20) for i in np.asarray(epoch(dataset.train, number=number).ids)[:, 1]}
    assert read == set(range(1, item.num_embeddings))


def test_popular_items_are_drawn_in_proportion_to_their_training_rows(tmp_path: Path) -> None:
    counts, rows = [12, 6, 3, 0], []
    for item, count in enumerate(counts):  # every row a user of its own, so that nearly all items are free
        rows += [["1", f"u{len(rows) + k}", f"i{item}", "1", "1", "20"] for k in range(count)]
    rows += [["1", f"v{k}", f"i{k}", "2", "1", "20"] for k in (0, 3, 0, 3)]
    common: dict[str, Any] = {
        "label": None,
        "features": [{"name": "user"}, {"name": "item"}],
        "split": {"by": "row_order", "valid": 2, "test": 2},
    }
    dataset = prepared(tmp_path, rows, negatives={"item": "item", "draw": "popularity"}, **common)
    items = values_of(dataset, "item")
    drawn: dict[tuple[str, str], int] = defaultdict(int)
    for number in range(400):
        ids = np.asarray(epoch(dataset.train, number=number).ids)[:, 1]
        for positive, negative in zip(ids[::2].tolist(), ids[1::2].tolist(), strict=True):
            drawn[str(items[positive]), str(items[negative])] += 1
    assert "i3" not in {negative for _, negative in drawn}  # it has no training row
    assert drawn["i0", "i1"] / drawn["i0", "i2"] == pytest.approx(2, rel=0.1)
    assert drawn["i1", "i0"] / drawn["i1", "i2"] == pytest.approx(4, rel=0.1)
    for split in (dataset.valid, dataset.test):
        assert (split.column("item")[split.labels == 0] > 0).all()


def test_the_only_item_left_is_drawn_every_time(tmp_path: Path) -> None:
    rows = [
        ["1", f"u{user}", f"i{item}", str(item), "1", "20"] for user in range(3) for item in range(6) if item != user
    ]
    dataset = prepared(
        tmp_path,
        rows,
        label=None,
        features=[{"name": "user"}, {"name": "item"}],
        split={"by": "last_per_group", "valid": 1, "test": 1},
        negatives={"item": "item", "ratio": 3},
    )
    items, users = values_of(dataset, "item"), values_of(dataset, "user")
    for number in range(3):
        for i, (user, item) in enumerate(np.asarray(epoch(dataset.train, number=number).ids).tolist()):
            if i % 4:
                assert str(items[item])[1:] == str(users[user])[1:]


@pytest.mark.parametrize(("draw", "message"), [("uniform", "item, so"), ("popularity", "item that occurs in training")])
def test_a_group_without_a_candidate_is_refused_by_name(tmp_path: Path, draw: str, message: str) -> None:
    rows = [["1", "all", f"i{i}", str(i), "1", "20"] for i in range(6)]
    rows += [["1", "some", f"i{i}", str(i), "1", "20"] for i in range(5)]
    if draw == "popularity":
        rows += [["1", "some", "i6", "9", "1", "20"]]  # test only, so nothing is left for "all" that occurs in training
    with pytest.raises(DataError, match=f"group 'all' has every {message}"):
        prepared(
            tmp_path,
            rows,
            label=None,
            split={"by": "last_per_group", "valid": 1, "test": 1},
            negatives={"item": "item", "draw": draw},
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"derived": [{"name": "age", "sql": 'CONCAT(item, "user")'}]}, "feature 'age'.*derived from the item"),
        (
            {"derived": [{"name": "x", "sql": 'CONCAT(item, "user")'}, {"name": "age", "sql": "UPPER(x)"}]},
            "feature 'age'.*derived from the item",
        ),
        (
            {
                "histories": [
                    {
                        "behaviour": "tags",
                        "source": "list",
                        "separator": " ",
                        "sequences": [{"name": "tag", "column": "brand", "vocabulary": "tag"}],
                    }
                ]
            },
            "'tags'.*belongs to the item",
        ),
    ],
)
def test_inputs_that_would_tell_the_label_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**{**RECIPE, "negatives": {"item": "item"}, **changes})


def test_a_misspelt_item_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="brnd"):
        made(tmp_path, item_columns=["brnd"])


def test_folders_of_before_are_read_as_they_were_drawn(tmp_path: Path) -> None:
    """A folder written before there was a choice says nothing of it: its negatives stay."""
    fixed = made(tmp_path, redraw="never")
    assert "negatives" not in fixed.description
    assert not (fixed.path / "negatives").exists()
    text = (fixed.path / "schema.json").read_text()
    (fixed.path / "schema.json").write_text(
        text.replace(',\n   "redraw": "never"', "").replace('"redraw": "never",\n', "")
    )
    again = PreparedDataset.open(fixed.path)
    assert "redraw" not in again.description["recipe"]["negatives"]
    assert (np.asarray(epoch(again.train, 0, 1).ids) == again.train.batch(slice(None)).ids.numpy()).all()


def test_the_summary_says_how_negatives_are_drawn(tmp_path: Path) -> None:
    from rich.console import Console

    shown = Console(width=200, record=True, file=None)
    with shown.capture() as capture:
        shown.print(render_summary(made(tmp_path)), render_summary(made(tmp_path, "fixed", redraw="never")))
    assert "negatives: 2 a positive, uniform; training gets others in every epoch" in capture.get()
    assert "training has the same in every epoch" in capture.get()


def test_changes_take_the_place_of_a_recipes_keys(tmp_path: Path) -> None:
    changed = load_recipe("movielens_1m_loo", {"negatives": {"redraw": "never"}, "name": "other"})
    plain = load_recipe("movielens_1m_loo")
    assert plain.negatives is not None
    assert changed.negatives == plain.negatives.model_copy(update={"redraw": "never"})
    assert changed.name == "other"
    assert changed.split == plain.split
    with pytest.raises(RecipeError, match=r"negatives\.redrawn: unknown"):
        load_recipe("movielens_1m_loo", {"negatives": {"redrawn": "never"}})


def brute_force(group: int, owned: set[tuple[int, int]], weights: np.ndarray) -> np.ndarray:
    free = np.array([0.0 if (group, item) in owned else float(w) for item, w in enumerate(weights)])
    return free / free.sum()


@pytest.mark.parametrize("weighted", [False, True])
def test_a_draw_has_the_distribution_it_promises(weighted: bool) -> None:
    """Against probabilities worked out item by item; weights of zero, at both ends too, are never drawn."""
    generator, size = np.random.default_rng(1), 12
    weights = np.array([0, 5, 1, 0, 0, 2, 9, 1, 1, 3, 4, 0]) if weighted else np.ones(size, int)
    group = np.repeat(np.arange(5), 6)
    item = generator.integers(0, size, len(group))
    item[:6] = np.arange(6)  # the first items
    item[6:12] = np.arange(6, 12)  # the last ones
    candidates = Candidates.of(group, item, size, weights if weighted else None)
    owned = set(zip(group.tolist(), item.tolist(), strict=True))
    grid = (np.arange(60_000) + 0.5) / 60_000
    edges = np.array([0.0, np.nextafter(1.0, 0.0)])
    for g in range(5):
        expected = brute_force(g, owned, weights)
        drawn = candidates.draw(np.full(len(grid), g), grid)
        assert np.bincount(drawn, minlength=size) / len(grid) == pytest.approx(expected, abs=1e-4)
        assert (expected[candidates.draw(np.full(2, g), edges)] > 0).all()
        assert candidates.free()[g] == sum(w for i, w in enumerate(weights) if (g, i) not in owned)


def test_stored_draws_end_where_almost_everything_is_owned() -> None:
    """One item of a hundred thousand is free: drawing and rejecting would take as many rounds."""
    size = 100_000
    item = np.delete(np.arange(size), 777)
    candidates = Candidates.of(np.zeros(len(item), np.int64), item, size)
    assert (draw_negatives(candidates, np.zeros(4, np.int64), 2, seed=0) == 777).all()


def test_stored_uniform_draws_are_those_they_always_were() -> None:
    """The rows that docs/results.md was measured on: draws of numpy's generator, again where the group has the item."""
    group, item = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 2, 2, 3, 4])
    candidates = Candidates.of(group, item, 5)
    generator, asked = np.random.default_rng(9), np.repeat(group, 3)
    drawn = generator.integers(0, 5, len(asked))
    owned = set(zip(group.tolist(), item.tolist(), strict=True))
    while again := [i for i in range(len(asked)) if (int(asked[i]), int(drawn[i])) in owned]:
        drawn[again] = generator.integers(0, 5, len(again))
    assert (draw_negatives(candidates, group, 3, seed=9).ravel() == drawn).all()


def test_prepare_accepts_a_recipe_without_features_of_the_item(tmp_path: Path) -> None:
    """The item may reach the model through its side columns alone."""
    write(tmp_path)
    changed = {**RECIPE, "features": [{"name": "user"}, {"name": "brand"}], "histories": [], "derived": []}
    dataset = prepare(recipe(**{**changed, "negatives": {"item": "item"}}), tmp_path / "raw", tmp_path / "out")
    one, two = (np.asarray(epoch(dataset.train, number=n).ids) for n in (0, 1))
    assert (one[:, 0] == two[:, 0]).all()
    assert (one[1::2, 1] != two[1::2, 1]).any()
