"""Rankings of all items against a plain reference, sampled negatives, whole runs of the objective ``topk``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_helpers import counted, run_with_kills, tiny_dataset

from rectab.batch import Jagged
from rectab.data.dataset import PreparedDataset
from rectab.data.split import Split
from rectab.models import CTRModel, ModelConfig
from rectab.ranking import rank_users
from rectab.schema import Feature, Schema, Vocabulary
from rectab.tables import plan
from rectab.training import RunResult, TrainConfig, train_once
from rectab.training.topk.evaluation import evaluate_topk, score_items
from rectab.training.topk.interactions import Interactions, positives
from rectab.training.topk.losses import bpr, sampled_logloss
from rectab.training.topk.negatives import Negatives, with_negatives

USERS, ITEMS = 40, 60


def interactions_of(rows: int = 900, seed: int = 0, negatives: bool = False) -> PreparedDataset:
    """Users like items of their own group; a test item or two is unknown (id 0); no pair comes twice in a split."""
    rng = np.random.default_rng(seed)
    vocabularies = (Vocabulary("user", USERS), Vocabulary("item", ITEMS))

    features = (Feature("user", "user"), Feature("item", "item"))
    schema = Schema(vocabularies, features, group="user", slice_by="item")

    def split(name: str, n: int) -> Split:
        user = rng.integers(1, USERS, 3 * n)
        item = rng.integers(1, ITEMS, 3 * n)
        liked = (user % 4 == item % 4) | (rng.random(3 * n) < 0.1)
        pairs = np.unique(np.stack([user, item], 1)[liked], axis=0)
        ids = rng.permutation(pairs)[:n].astype(np.int64)
        if name == "test":
            ids[:2, 1] = 0
        labels = np.ones(len(ids), np.float32)
        if negatives:
            labels[::3] = 0
        return Split(name, schema, ids, np.empty((len(ids), 0), np.float32), labels, ids[:, 0], None, ())

    splits = {name: split(name, n) for name, n in (("train", rows), ("valid", 200), ("test", 200))}
    description = {"name": f"liked-{seed}-{rows}-{negatives}"}
    return PreparedDataset(Path("liked"), "liked", schema, **splits, summary={}, description=description)


def plain(scores: np.ndarray, relevant: list[set[int]], excluded: list[set[int]], k: int, missing: list[int]) -> Any:
    """(recall, ndcg, auc) of every user, one item after another."""
    found = []
    for row, wanted, gone, absent in zip(scores, relevant, excluded, missing, strict=True):
        ranked = sorted((i for i in range(len(row)) if i not in gone), key=lambda i: (-row[i], i))
        gains = [1 / math.log2(rank + 2) for rank, item in enumerate(ranked[:k]) if item in wanted]
        count = len(wanted) + absent
        best = sum(1 / math.log2(rank + 2) for rank in range(min(k, count)))
        pairs = [(row[p] > row[n]) + (row[p] == row[n]) / 2 for p in wanted for n in ranked if n not in wanted]
        area = sum(map(float, pairs)) / len(pairs) if pairs else math.nan
        found.append((len(gains) / count, sum(gains) / best, area))
    return np.array(found)


def jagged(lists: list[set[int]]) -> Jagged:
    values = [item for one in lists for item in sorted(one)]
    offsets = np.cumsum([0, *map(len, lists)])
    return Jagged(torch.tensor(values, dtype=torch.int64), torch.tensor(offsets, dtype=torch.int64))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("levels", [2, 5, 10**9])
def test_metrics_are_those_of_a_plain_reference(seed: int, levels: int) -> None:
    """Few levels make ties, also at the border of the list."""
    rng = np.random.default_rng(seed)
    users, items = 17, int(rng.integers(3, 40))
    scores = rng.integers(0, levels, (users, items)).astype(np.float32)
    kinds = rng.choice(3, (users, items), p=[0.6, 0.2, 0.2])
    kinds[np.arange(users), rng.integers(0, items, users)] = 1  # one relevant item at least
    if seed % 3 == 0:
        kinds[0] = 1  # no candidate that is not relevant
    relevant = [set(np.flatnonzero(row == 1).tolist()) for row in kinds]
    excluded = [set(np.flatnonzero(row == 2).tolist()) for row in kinds]
    missing = rng.integers(0, 2, users).tolist()
    ks = (1, 5, 50)
    got = rank_users(torch.from_numpy(scores), jagged(relevant), jagged(excluded), ks, torch.tensor(missing))
    for k in ks:
        expected = plain(scores, relevant, excluded, k, missing)
        np.testing.assert_allclose(got.recall[k].numpy(), expected[:, 0], rtol=1e-12)
        np.testing.assert_allclose(got.ndcg[k].numpy(), expected[:, 1], rtol=1e-12)
        np.testing.assert_allclose(got.auc.numpy(), expected[:, 2], rtol=1e-9)


def test_by_hand() -> None:
    """Items 0 to 4 ranked 3, 1, 4, 0 with 2 left out; 1 and 0 are wanted."""
    scores = torch.tensor([[0.1, 0.8, 9.0, 0.9, 0.5]])
    got = rank_users(scores, jagged([{0, 1}]), jagged([{2}]), (1, 2))
    assert float(got.recall[1]) == 0
    assert float(got.recall[2]) == 0.5
    assert float(got.ndcg[2]) == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))
    assert float(got.auc) == pytest.approx(1 / 4)  # 1 beats 4; 1 loses to 3; 0 loses to both


def model_of(data: PreparedDataset, name: str = "mf") -> CTRModel:
    torch.manual_seed(0)
    options = {} if name == "mf" else {"hidden": (6,)}
    table = plan("full", data.schema.vocabularies, 6).build()
    model = CTRModel(data.schema, table, ModelConfig.from_options(name, "none", options))
    for parameter in model.table.parameters():
        parameter.data.normal_()
    return model


@pytest.mark.parametrize("name", ["mf", "deepfm"])
def test_evaluation_is_a_loop_over_users(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = interactions_of(negatives=True)
    interactions, model = Interactions.of(data), model_of(data, name)
    known = interactions.keys(data.train, data.valid)
    monkeypatch.setattr("rectab.training.topk.evaluation._SCORES", 7 * ITEMS)  # seven users a chunk
    got = evaluate_topk(model, interactions, data.test, known, (5, 20))
    assert model.training
    model.eval()
    held: dict[int, set[int]] = {}
    wanted: dict[int, set[int]] = {}
    for split, lists in ((data.train, held), (data.valid, held), (data.test, wanted)):
        for user, item in zip(*(split.column(n)[split.labels > 0.5] for n in ("user", "item")), strict=True):
            lists.setdefault(int(user), set()).add(int(item))
    found = {5: [], 20: []}
    for user, items in sorted(wanted.items()):
        gone = held.get(user, set())
        left = items - gone
        if left:
            with torch.no_grad():
                scores = score_items(model, interactions, torch.tensor([user]))[0].numpy()
            row = np.concatenate([[0.0], scores])
            for k in found:
                one = plain(row[None], [left - {0}], [gone | {0}], k, [int(0 in left)])
                found[k].append(one[0])
    for k in found:
        means = np.nanmean(np.array(found[k]), axis=0)
        assert got[f"recall@{k}"] == pytest.approx(means[0], abs=1e-9)
        assert got[f"ndcg@{k}"] == pytest.approx(means[1], abs=1e-9)
        assert got["auc"] == pytest.approx(means[2], abs=1e-6)


def test_all_pairs_at_once_are_the_rows_one_by_one() -> None:
    data = interactions_of()
    interactions, model = Interactions.of(data), model_of(data).eval()
    users = torch.tensor([3, 7, 1])
    at_once = score_items(model, interactions, users)
    model.interaction.scores_of_pairs = lambda first, second: None  # type: ignore[method-assign]
    torch.testing.assert_close(at_once, score_items(model, interactions, users))
    assert at_once.shape == (3, ITEMS - 1)


def test_negatives_are_uniform_over_what_the_user_has_not() -> None:
    data = interactions_of(300)
    interactions = Interactions.of(data)
    torch.manual_seed(0)
    users = torch.from_numpy(np.repeat(np.arange(1, USERS), 3000))
    drawn = Negatives(interactions, torch.device("cpu")).draw(users)
    keys = set(interactions.known.tolist())
    assert int(drawn.min()) >= 1
    assert not keys & set((users * ITEMS + drawn).tolist())
    for user in (1, 20):
        free = [i for i in range(1, ITEMS) if user * ITEMS + i not in keys]
        counts = np.bincount(drawn[users == user].numpy(), minlength=ITEMS)[free]
        expected = 3000 / len(free)
        assert float(((counts - expected) ** 2 / expected).sum()) < len(free) + 6 * math.sqrt(
            2 * len(free)
        )  # chi square
    torch.manual_seed(0)
    assert torch.equal(drawn, Negatives(interactions, torch.device("cpu")).draw(users))


def test_a_user_with_every_item_does_not_hang() -> None:
    data = interactions_of(60)
    ids = np.stack([np.full(ITEMS - 1, 5), np.arange(1, ITEMS)], 1)
    dense, labels = np.empty((len(ids), 0), np.float32), np.ones(len(ids), np.float32)
    every = Split("train", data.schema, ids, dense, labels, ids[:, 0], None, ())
    full = PreparedDataset(data.path, data.name, data.schema, every, data.valid, data.test, {}, {"name": "every"})
    drawn = Negatives(Interactions.of(full), torch.device("cpu")).draw(torch.full((50,), 5))
    assert drawn.shape == (50,)


def test_losses_by_hand() -> None:
    scores = torch.tensor([2.0, -1.0, 0.0, 0.5, 1.0, -1.0])  # two positives, two negatives of each
    pairs = [(2.0, 0.0), (-1.0, 0.5), (2.0, 1.0), (-1.0, -1.0)]
    expected = sum(math.log1p(math.exp(n - p)) for p, n in pairs) / 4
    assert float(bpr(scores, 2)) == pytest.approx(expected)
    losses = [math.log1p(math.exp(-s)) for s in (2.0, -1.0)] + [math.log1p(math.exp(s)) for s in (0.0, 0.5, 1.0, -1.0)]
    assert float(sampled_logloss(scores, 2)) == pytest.approx(sum(losses) / 6)


def test_rows_of_negative_label_are_not_read() -> None:
    data = interactions_of(negatives=True)
    split = positives(data.train)
    assert (split.labels == 1).all()
    assert len(split) == int((data.train.labels > 0.5).sum())
    sampled = with_negatives(data.valid, Interactions.of(data), 0)
    assert len(sampled) == 2 * int((data.valid.labels > 0.5).sum())
    assert sampled.labels.mean() == 0.5


SMALL: dict[str, Any] = {"model": "mf", "embedding_dim": 8, "progress": "off"}


def settings(**changes: Any) -> TrainConfig:
    given = {"objective": "topk", "max_epochs": 15, "batch_size": 64, "lr": 0.02, "topk": (5, 20), "precision": "fp32"}
    return TrainConfig(**(given | changes))


@pytest.mark.parametrize("loss", ["bpr", "logloss"])
def test_training_ranks_better_than_chance_and_repeats(loss: str) -> None:
    data = interactions_of()
    runs = [train_once(data, method="full", train_config=settings(topk_loss=loss), **SMALL) for _ in range(2)]
    assert runs[0].valid == runs[1].valid
    assert runs[0].test == runs[1].test
    assert runs[0].test is not None
    assert set(runs[0].test) == {"recall@5", "recall@20", "ndcg@5", "ndcg@20", "auc"}
    assert runs[0].test["auc"] > 0.63
    assert runs[0].test["recall@20"] > 0.42  # chance is about .36
    assert runs[0].train["monitor"] == "ndcg@5"


@pytest.mark.parametrize("method", ["hashed", "unified", "dnis", "quantized", "optembed"])
def test_any_budget(method: str, tmp_path: Path) -> None:
    data = counted(interactions_of())
    result = train_once(
        data, method=method, budget="40%", train_config=settings(max_epochs=3), out_dir=tmp_path / "run", **SMALL
    )
    assert result.test is not None
    assert result.budget_bytes is not None
    assert result.serving_bytes <= result.budget_bytes
    again = train_once(
        data, method=method, budget="40%", train_config=settings(max_epochs=3), out_dir=tmp_path / "run", **SMALL
    )
    assert again.test == result.test


def test_a_killed_run_goes_on_with_the_negatives_it_would_have_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = interactions_of()

    def run(out: Path | None) -> RunResult:
        config = settings(max_epochs=4, checkpoint_seconds=0)
        return train_once(data, method="full", train_config=config, out_dir=out, **SMALL)

    whole = run(None)
    resumed, calls = run_with_kills(monkeypatch, 9, lambda: run(tmp_path / "run"))
    assert calls > 20
    assert resumed.test == whole.test


def test_bad_data_and_settings_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"one feature beside the group 'user', the item, and found .*genre.*--without"
    ):
        Interactions.of(tiny_dataset(rows=30))
    wide = tiny_dataset(rows=30).schema
    table = plan("full", wide.vocabularies, 4).build()
    with pytest.raises(ValueError, match="mf: multiplies two fields"):
        CTRModel(wide, table, ModelConfig("mf"))
    with pytest.raises(ValueError, match="measures no logloss"):
        TrainConfig(objective="topk", monitor="logloss")
    with pytest.raises(ValueError, match="measures no ndcg@7"):
        TrainConfig(objective="topk", monitor="ndcg@7")
    with pytest.raises(ValueError, match="measures no ndcg@10"):
        TrainConfig(monitor="ndcg@10")
    with pytest.raises(ValueError, match="topk must be different lengths"):
        TrainConfig(objective="topk", topk=(5, 5))
    with pytest.raises(ValueError, match="negatives must be at least 1"):
        TrainConfig(objective="topk", negatives=0)
    data = interactions_of()
    interactions = Interactions.of(data)
    with pytest.raises(ValueError, match="has no interaction that is not in an earlier split"):
        evaluate_topk(model_of(data), interactions, data.test, interactions.keys(data.test), (5,))


def test_other_objectives_keep_their_identity() -> None:
    assert not {"topk", "topk_loss", "negatives"} & set(TrainConfig().to_json())
    assert TrainConfig.from_json(settings().to_json()) == settings()
