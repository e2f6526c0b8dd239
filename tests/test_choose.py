"""Choosing a table: candidates by rule, an answer that is trained, taken up after a kill, and said truly."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report_page import browser  # noqa: F401  a fixture
from training_helpers import counted, tiny_dataset, watch_trainings

from rectab.choosing import candidates as candidates_module
from rectab.choosing import choose
from rectab.choosing.answer import Answer
from rectab.choosing.asked import Asked
from rectab.choosing.candidates import propose
from rectab.choosing.choose import worth_training
from rectab.choosing.fewest import fewest_for
from rectab.choosing.record import Record
from rectab.choosing.runs import Runs
from rectab.choosing.verdict import Finalist, compare, winner_of
from rectab.data.dataset import PreparedDataset
from rectab.tables import get_method
from rectab.tables.budget import full_table_bytes
from rectab.training import load_model
from rectab.training.evaluation import evaluate
from rectab.training.finished import load_result

SETTINGS: dict[str, Any] = {"batch_size": 200, "max_epochs": 2, "precision": "fp32", "lr": 0.01}
DIM = 8
NAMES = ("full", "narrow", "hashed", "unified", "quantized", "dnis")


@pytest.fixture(scope="module")
def dataset() -> PreparedDataset:
    return counted(tiny_dataset(rows=1200))


@pytest.fixture(autouse=True)
def few_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates_module, "methods", lambda: tuple(map(get_method, NAMES)))


def asked(budget: str | None = "30%", **given: Any) -> Asked:
    return Asked(
        budget, **{"model": "lr", "embedding_dim": DIM, "training": SETTINGS, "seeds": 2, "minutes": 1e4} | given
    )


@pytest.fixture(scope="module")
def chosen(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Answer, Path]:
    folder = tmp_path_factory.mktemp("choose") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates_module, "methods", lambda: tuple(map(get_method, NAMES)))
        return choose(dataset, asked(), folder), folder


def test_both_budgets_rule_candidates_in_and_out(dataset: PreparedDataset) -> None:
    field = propose(dataset, DIM, "30%")
    assert [c.embedding_dim for c in field.encoded] == [8, 6, 4, 2]
    assert {c.method for c in field.small} == {"narrow", "hashed", "unified"}
    assert {c.rows for c in field.small if c.method == "narrow"} == {"fp32", "int8"}
    assert {c.rows for c in field.small if c.method == "unified"} == {"lsq4", "fp32", "int8"}
    assert all(c.serving_bytes <= field.full_bytes * 0.3 for c in (*field.encoded, *field.small))
    reasons = {ruled.label: ruled.reason for ruled in field.ruled_out}
    assert "full table while it trains" in reasons["dnis"]
    assert "infeasible" in reasons["full"]
    tight = propose(dataset, DIM, "30%", train_memory="150%")
    assert [c.embedding_dim for c in tight.encoded] == [2], "a narrower full table fits"
    assert tight.full is None
    assert {c.method for c in tight.small} == {"narrow", "hashed", "unified"}
    assert not any(c.rows == "lsq4" for c in tight.small), "the floats that it trains do not fit"
    assert all(c.training_bytes <= 1.5 * field.full_bytes for c in (*tight.small, *tight.encoded))


@pytest.mark.parametrize("name", ["valid", "test"])
def test_a_split_of_one_class_is_refused_before_anything_is_trained(
    dataset: PreparedDataset, tmp_path: Path, name: str
) -> None:
    split = copy.copy(getattr(dataset, name))
    object.__setattr__(split, "labels", np.ones_like(split.labels))
    one_class = replace(dataset, **{name: split})
    with pytest.raises(ValueError, match=rf"its {name}\w* split has {len(split)} positive and 0 negative rows"):
        choose(one_class, asked(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("optimizer", "widest"), [("sgd", 8), ("adam", 4)])
def test_the_fewest_bytes_are_searched_on_what_the_optimizer_asked_for_lets_train(
    dataset: PreparedDataset, tmp_path: Path, optimizer: str, widest: int
) -> None:
    question = asked(None, loss=0.5, train_memory="250%", training={**SETTINGS, "optimizer": optimizer})
    said: list[str] = []
    runs = Runs(dataset, question, tmp_path, Record.open(tmp_path, question.identity()))
    fewest_for(runs, said.append)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [f"full-fp32-{widest}-own-seed0"]


def test_what_is_predicted_to_be_lost_says_which_widths_are_trained(dataset: PreparedDataset) -> None:
    encoded = propose(dataset, DIM, "30%").encoded

    def widths(lost: float) -> list[int]:
        return [c.embedding_dim for c in worth_training(encoded, lost)]

    assert widths(0.0001) == [8, 6]
    assert widths(0.001) == [8, 6, 4, 2]
    assert widths(0.03) == [8, 2, 4, 6]


def test_hashed_vocabularies_leave_tables_that_serve_any_id(dataset: PreparedDataset) -> None:
    schema = dataset.schema
    ids = np.arange(schema.vocabularies[0].num_embeddings)
    hashed = replace(schema.vocabularies[0], hashed=True, ids=ids, counts=np.ones(len(ids), np.int64))
    changed = replace(dataset, schema=replace(schema, vocabularies=(hashed, *schema.vocabularies[1:])))
    field = propose(changed, DIM, "30%")
    assert field.full is None
    assert field.encoded == ()
    assert {c.method for c in field.small} == {"hashed", "unified"}


def test_the_answer_is_trained_measured_and_within_the_budget(
    chosen: tuple[Answer, Path], dataset: PreparedDataset
) -> None:
    answer, folder = chosen
    result = load_result(folder / "model")
    assert result is not None
    assert result.method == answer.winner.method
    assert result.serving_bytes <= 0.3 * full_table_bytes(dataset.schema.vocabularies, DIM)
    measured = evaluate(load_model(folder / "model" / "model.safetensors"), dataset.valid)
    assert measured["auc"] == pytest.approx(result.valid["auc"], abs=1e-6)
    assert answer.seeds == (0, 1)
    assert answer.against_full is not None
    assert answer.runner_up is not None
    kept = json.loads((folder / "choice.json").read_text())
    assert kept["answer"]["line"] == answer.line()
    by_candidate: dict[str, list[float]] = {}
    for one in kept["measured"]:
        if one["part"] == "all":
            by_candidate.setdefault(one["candidate"], []).append(one["auc"])
    final = {key: np.mean(aucs) for key, aucs in by_candidate.items() if len(aucs) == 2}
    best = max(final, key=lambda key: final[key])
    assert answer.winner.key == best or answer.cheaper


def test_one_line_says_method_bytes_auc_full_and_runner_up(chosen: tuple[Answer, Path]) -> None:
    answer, _ = chosen
    line = answer.line()
    assert "\n" not in line
    assert answer.runner_up is not None
    assert answer.against_full is not None
    for part in (answer.winner.label, f"{answer.test.mean:.4f}", "against full", answer.runner_up.label, "2 seeds"):
        assert part in line
    assert any("fewer than three seeds" in remark for remark in answer.remarks())


def test_the_report_is_small_and_folds_all_but_the_answer(chosen: tuple[Answer, Path]) -> None:
    answer, folder = chosen
    page = (folder / "report.html").read_text()
    assert len(page.encode()) < 1_500_000
    shown = page[page.index('id="answer"') : page.index("<details>")]
    assert answer.winner.label in shown
    assert f"{answer.test.mean:.4f}" in shown
    assert answer.command in page


@pytest.mark.browser
def test_the_answer_and_its_picture_fit_one_screen_of_a_phone(
    browser: Any,  # noqa: F811
    chosen: tuple[Answer, Path],
) -> None:
    page = browser.new_context(viewport={"width": 390, "height": 844}, offline=True).new_page()
    page.set_default_timeout(120_000)
    page.goto((chosen[1] / "report.html").as_uri())
    page.wait_for_selector("#choice .main-svg")
    chart = page.locator("#choice").bounding_box()
    assert chart["y"] + chart["height"] <= 844
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_second_call_trains_nothing_and_says_the_same(
    chosen: tuple[Answer, Path], dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, folder = chosen
    trainings = watch_trainings(monkeypatch, lambda table: table.method)
    again = choose(dataset, asked(minutes=0.001), folder)
    assert trainings == []
    assert again.line() == answer.line()


def test_a_killed_choice_goes_on_and_ends_the_same(
    chosen: tuple[Answer, Path], dataset: PreparedDataset, tmp_path: Path
) -> None:
    kills = 0
    while True:
        said: list[str] = []

        def kill(line: str, said: list[str] = said, patience: int = 2 * kills + 2) -> None:
            said.append(line)  # every process comes further than the one before it
            if len(said) == patience:
                raise KeyboardInterrupt

        try:
            answer = choose(dataset, asked(), tmp_path / "out", say=kill)
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills >= 3
    assert answer.line() == chosen[0].line()


def test_a_short_time_still_gives_a_trained_answer(dataset: PreparedDataset, tmp_path: Path) -> None:
    answer = choose(dataset, asked(minutes=1e-4), tmp_path / "out")
    assert answer.ended == "time"
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()


def test_fewest_bytes_within_a_loss(dataset: PreparedDataset, tmp_path: Path) -> None:
    answer = choose(dataset, asked(None, loss=0.01, seeds=1, minutes=0.05), tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "choice.json").read_text())["measured"]
    encoded = next(m for m in kept if m["full_auc"] is not None and m["candidate"].startswith(f"quantized-fp32-{DIM}-"))
    assert encoded["full_auc"] - encoded["auc"] <= 0.01
    assert answer.serving_bytes < 0.3 * answer.full_bytes


def test_another_question_in_the_same_folder_is_refused(chosen: tuple[Answer, Path], dataset: PreparedDataset) -> None:
    with pytest.raises(ValueError, match=r"holds another choice.*budget"):
        choose(dataset, asked("20%"), chosen[1])


def test_a_budget_that_nothing_fits_says_why(dataset: PreparedDataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no table fits the budget"):
        choose(dataset, asked("8B"), tmp_path / "out")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"budget": None}, "--budget"),
        ({"loss": 1.5}, "--loss"),
        ({"minutes": 0}, "--minutes"),
        ({"seeds": 0}, "--seeds"),
        ({"training": {"seed": 3}}, "train.seed"),
        ({"training": {"objective": "mse"}}, "objective"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Asked(**{"budget": "10%", **given})


def _scores(quality: float, seeds: int, rng: np.random.Generator, labels: np.ndarray) -> dict[int, np.ndarray]:
    return {seed: quality * labels + rng.normal(size=len(labels)) for seed in range(seeds)}


def test_what_cannot_be_told_apart_goes_to_the_cheaper() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(3000) < 0.4).astype(np.float32)
    best = Finalist("best", 1000, _scores(1.0, 3, rng, labels))
    close = Finalist("close", 500, {seed: s + 0.05 * rng.normal(size=3000) for seed, s in best.scores.items()})
    worse = Finalist("worse", 100, _scores(0.3, 3, rng, labels))
    assert not compare(labels, best, close).decided
    assert compare(labels, best, worse).decided
    chosen, level_with = winner_of(labels, [best, close, worse])
    assert (chosen.key, level_with) == ("close", ["close"])
    same_size = replace(close, serving_bytes=990)
    assert winner_of(labels, [best, same_size, worse])[0].key == "best"
