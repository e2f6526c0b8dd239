"""Positions and time gaps of events, checked against a plain loop, and several behaviours from recipe to attention."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from data_helpers import prepared, raw_lines, recipe, values_of, write_lines

from rectab.data import PreparedDataset
from rectab.models import CTRModel
from rectab.models.din import DINTower
from rectab.schema import Feature, Schema
from rectab.tables import plan
from rectab.training import TrainConfig, explain_checkpoint, train_once
from rectab.training.run import model_config

POSITION_EDGES, GAP_EDGES = [2, 3, 5], [1.5, 4, 9]
SEEN: dict[str, Any] = {
    "behaviour": "seen",
    "sequences": [{"name": "seen_item", "column": "item", "target": "item"}],
    "context": [
        {"name": "back", "of": "position", "edges": POSITION_EDGES},
        {"name": "ago", "of": "time_gap", "edges": GAP_EDGES},
    ],
}
CLICKED: dict[str, Any] = {
    "behaviour": "clicked",
    "where": "click = '1'",
    "sequences": [{"name": "clicked_item", "column": "item", "target": "item"}],
    "context": [{"name": "clicked_ago", "of": "time_gap", "edges": [3]}],
}


def bucket(value: float, edges: list[float]) -> int:
    return 1 + sum(value >= edge for edge in edges)


def read(dataset: PreparedDataset, feature: str, max_history: int | None = None) -> list[list[int]]:
    """The ids of every row's history, in raw row order (the split is by row order)."""
    rows = []
    for split in (dataset.train, dataset.valid, dataset.test):
        jagged = split.batch(slice(None), max_history).histories[feature]
        rows += [jagged.values[a:b].tolist() for a, b in pairwise(jagged.offsets.tolist())]
    return rows


def expected_of(
    rows: list[list[str]], by: str, longest: int, clicked: bool = False
) -> tuple[list[list[int]], list[list[int]]]:
    """(positions, gaps) by a plain loop; u0 has two prior events without a time."""
    positions, gaps = [], []
    edges = [3.0] if clicked else GAP_EDGES
    for i, row in enumerate(rows):
        times: list[float] = [float("nan")] * 2 if row[1] == "u0" and not clicked else []
        for j, other in enumerate(rows):
            before = j < i if by == "position" else int(other[3]) < int(row[3])
            if other[1] == row[1] and before and (not clicked or other[0] == "1"):
                times.append(float(other[3]))
        times = times[-longest:]
        positions.append([bucket(len(times) - k, POSITION_EDGES) for k in range(len(times))])
        gaps.append([0 if t != t else bucket(float(row[3]) - t, edges) for t in times])
    return positions, gaps


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    pl.DataFrame({"user": ["u0", "u1"], "items": [["i7", "i8"], []]}).write_parquet(folder / "prior.parquet")
    return folder


PRIOR = {"prior": {"path": "prior.parquet", "lists": {"item": "items"}}}


@pytest.mark.parametrize("longest", [1000, 4])
@pytest.mark.parametrize("by", ["time", "position"])
def test_positions_and_gaps_are_those_of_a_plain_loop(tmp_path: Path, raw: Path, by: str, longest: int) -> None:
    rows = raw_lines()
    dataset = prepared(tmp_path, rows, histories=[SEEN | PRIOR | {"by": by, "max_length": longest}, CLICKED])
    positions, gaps = expected_of(rows, by, longest)
    assert read(dataset, "back") == positions
    assert read(dataset, "ago") == gaps
    assert read(dataset, "clicked_ago") == expected_of(rows, "time", 1000, clicked=True)[1]
    assert {id_ for row in gaps for id_ in row} == {0, 1, 2, 3, 4} or longest == 4
    assert read(dataset, "back", max_history=2) == [row[-2:] for row in positions]
    assert read(dataset, "ago", max_history=2) == [row[-2:] for row in gaps]
    some = dataset.train.restrict(np.array([20, 3, 11])).batch(slice(None)).histories["ago"]
    assert some.values.tolist() == gaps[20] + gaps[3] + gaps[11]


def test_events_of_another_file_have_gaps_too(tmp_path: Path, raw: Path) -> None:
    rows = raw_lines()
    write_lines(raw / "events.csv", [["u1", "95", "i1"], ["u1", "99", "i2"]], ["user", "time", "item"])
    dataset = prepared(tmp_path, rows, histories=[SEEN | {"source": "events", "path": "events.csv"}])
    expected = [
        [bucket(int(r[3]) - 95, GAP_EDGES), bucket(int(r[3]) - 99, GAP_EDGES)] if r[1] == "u1" else [] for r in rows
    ]
    assert read(dataset, "ago") == expected


def test_buckets_are_a_vocabulary_with_names_and_training_counts(tmp_path: Path, raw: Path) -> None:
    rows = raw_lines()
    dataset = prepared(tmp_path, rows, histories=[SEEN | PRIOR, CLICKED])
    assert values_of(dataset, "back") == {1: "below 2", 2: "2 to below 3", 3: "3 to below 5", 4: "5 and more"}
    _, gaps = expected_of(rows, "time", 1000)
    counts = dataset.schema.vocabularies[dataset.schema.vocabulary_index("ago")].counts
    assert counts is not None
    assert counts.tolist() == np.bincount([id_ for row in gaps[:24] for id_ in row], minlength=5).tolist()
    assert dataset.train.occurrences()["ago"].tolist() == counts.tolist()
    cut = dataset.train.occurrences(2)["ago"]
    assert cut.tolist() == np.bincount([id_ for row in gaps[:24] for id_ in row[-2:]], minlength=5).tolist()
    assert Schema.from_json(dataset.schema.to_json()) == dataset.schema
    assert PreparedDataset.open(dataset.path).schema == dataset.schema


def test_a_schema_without_context_is_written_as_before() -> None:
    plain = Feature("past", "item", "sequence", "click", None)
    assert set(Schema((), ()).to_json()) == {"vocabularies", "features", "dense", "label", "group", "slice_by"}
    with pytest.raises(ValueError, match="a context is a sequence with edges"):
        Feature("past", "item", "sequence", "click", None, "position")
    assert plain.edges == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": [{"name": "back", "of": "position", "edges": [3, 2]}]}, "edges must be ascending"),
        ({"context": [{"name": "back", "of": "position", "edges": []}]}, "edges"),
        ({"context": [{"name": "item", "of": "position", "edges": [2]}]}, "names must be unique"),
        ({"source": "list", "context": [{"name": "ago", "of": "time_gap", "edges": [2]}]}, "lists have no times"),
    ],
)
def test_bad_contexts_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(histories=[SEEN | change])
    with pytest.raises(ValueError, match="a vocabulary has that name"):
        recipe(
            features=[{"name": "user"}, {"name": "item", "vocabulary": "thing"}],
            histories=[SEEN | {"context": [{"name": "thing", "of": "position", "edges": [2]}]}],
        )


def test_two_behaviours_with_context_are_towers_of_their_own(tmp_path: Path, raw: Path) -> None:
    dataset = prepared(tmp_path, raw_lines(), histories=[SEEN | PRIOR, CLICKED])
    table = plan("unified", dataset.schema.vocabularies, 4, "50%").build()
    model = CTRModel(dataset.schema, table, model_config("mlp", "din", {"hidden": [6], "history": {"hidden": [5]}}))
    towers = [m for m in model.modules() if isinstance(m, DINTower)]
    assert [[f.name for f in tower.features] for tower in towers] == [
        ["seen_item", "back", "ago"],
        ["clicked_item", "clicked_ago"],
    ]
    assert not set(map(id, towers[0].parameters())) & set(map(id, towers[1].parameters()))
    model.eval()
    batch = dataset.test.batch(slice(None))
    with torch.no_grad():
        before = [model.attention(batch, name)[0].clone() for name in ("seen", "clicked")]
        towers[0].unit.first.weight[:, 16:] *= 3.0  # the context's columns come after [q, k, q - k, q * k]
        after = [model.attention(batch, name)[0] for name in ("seen", "clicked")]
    assert not torch.allclose(before[0], after[0])  # the context informs the score of its own behaviour only
    assert torch.equal(before[1], after[1])


def test_training_and_explaining_with_context(tmp_path: Path, raw: Path) -> None:
    dataset = prepared(tmp_path, raw_lines(), histories=[SEEN | PRIOR, CLICKED])
    config = TrainConfig(max_epochs=1, batch_size=8, embedding_l2=0.1, embedding_l2_mode="minibatch")
    options = {"hidden": [6], "history": {"hidden": [5], "weights": "softmax"}}
    train_once(
        dataset,
        method="full",
        model="mlp",
        history="din",
        model_options=options,
        embedding_dim=4,
        train_config=config,
        out_dir=tmp_path / "run",
        progress="off",
    )
    explanation = explain_checkpoint(dataset, tmp_path / "run", "test", 7)
    seen = explanation.behaviours[0]
    assert seen.events[-1].values["back"] == "below 2"
    assert seen.targets.keys() == {"seen_item"}
    assert seen.total == pytest.approx(1.0, abs=1e-5)
