"""Runs through rectab's own trainer on the CPU and on the device, where what it needs beside the core is installed."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.gpu_check.comparison import Comparison
from bench.gpu_check.setting import Setting
from rectab.models import ModelConfig
from rectab.schema import Feature, Schema, Vocabulary
from rectab.tables import TableOptions, plan

if TYPE_CHECKING:
    from rectab.data.dataset import PreparedDataset

__all__ = ["trained"]

AUC_TOLERANCE = 0.01
"""How far validation AUC on the device may be from that on the CPU: dropout and the order of sums are not the same."""

_USERS, _ITEMS, _DIM = 200, 300, 8
_TABLES: dict[str, tuple[str | None, dict[str, Any]]] = {
    "full": (None, {}),
    "hashed": ("40%", {}),
    "unified": ("40%", {}),
    "dnis": ("40%", {}),
    "optembed": ("40%", {"generations": 2, "population": 4}),
    "quantized": ("25%", {}),
}


def trained(setting: Setting) -> list[dict[str, Any]]:
    """A model over every kind of table on both devices; a row that says what is missing, on a bare machine."""
    try:
        import rectab.training  # noqa: F401
    except ImportError as error:
        return [{"check": "trainer", "cases": 0, "worst": 0.0, "wrong": [], "left_out": str(error)}]
    compared, dataset = Comparison(), _dataset(setting)
    for method in list(_TABLES)[: 2 if setting.dry else None]:
        compared.case("validation AUC", method, partial(_compare, setting, compared, dataset, method))
    return compared.rows()


def _compare(setting: Setting, compared: Comparison, dataset: PreparedDataset, method: str) -> None:
    expected = _trained_on("cpu", setting, dataset, method)
    got, again = (_trained_on(str(setting.device), setting, dataset, method) for _ in range(2))
    off = abs(got["auc"] - expected["auc"]) / AUC_TOLERANCE
    compared.holds("validation AUC", f"{method}: {got['auc']:.4f}, CPU {expected['auc']:.4f}", off <= 1)
    compared.holds("one seed, one result", f"{method}: {got}, then {again}", got == again)
    compared.holds("something learned", f"{method}: {got}", got["auc"] > 0.55 or setting.dry)


def _trained_on(device: str, setting: Setting, dataset: PreparedDataset, method: str) -> dict[str, float]:
    """Metrics of the serving form on validation."""
    from rectab.training import TrainConfig, Trainer

    budget, options = _TABLES[method]
    planned = plan(method, dataset.schema.vocabularies, _DIM, budget, options=TableOptions(), **options)
    model = ModelConfig.from_options("deepfm", "din", {"hidden": (32,), "dropout": 0.1}, {"hidden": (16,)})
    config = TrainConfig(lr=0.01, max_epochs=1 if setting.dry else 3, batch_size=256, precision="fp32")
    trainer = Trainer(dataset, planned.build(), model, config, progress="off", device=device)
    trainer.restart(trainer.fit().serving(), trainer.model.state_dict())
    metrics = trainer.evaluate("valid")
    assert all(math.isfinite(value) for value in metrics.values())
    return metrics


def _dataset(setting: Setting) -> PreparedDataset:
    """Clicks that depend on users' tastes and on what they clicked before; in memory."""
    from rectab.data.dataset import PreparedDataset
    from rectab.data.history_store import HistoryStore
    from rectab.data.split import Split

    random = np.random.default_rng(setting.seed)
    taste, quality = random.normal(size=(_USERS, 8)), random.normal(size=(_ITEMS, 8))
    counts = np.maximum(1e4 * np.arange(1, _ITEMS + 1) ** -1.2, 1).astype(np.int64)
    schema = Schema(
        (Vocabulary("user", _USERS, counts=np.full(_USERS, 50)), Vocabulary("item", _ITEMS, counts=counts)),
        (Feature("user", "user"), Feature("item", "item"), Feature("clicked", "item", "sequence", "click", "item")),
        label="click",
        group="user",
    )

    def split(name: str, rows: int) -> Split:
        user, item = random.integers(1, _USERS, rows), 1 + (random.zipf(1.4, rows) - 1) % (_ITEMS - 1)
        lengths = random.integers(0, 9, rows)
        ranges = np.stack([np.cumsum(lengths) - lengths, lengths], 1).astype(np.int64)
        events = random.integers(1, _ITEMS, int(lengths.sum())).astype(np.int64)
        logit = (taste[user] * quality[item]).sum(1) - 1
        labels = (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)
        store = HistoryStore(features=schema.behaviours["click"], ranges=ranges, values=(events,))
        ids, dense = np.stack([user, item], 1).astype(np.int64), np.zeros((rows, 0), np.float32)
        return Split(name, schema, ids, dense, labels, user.astype(np.int64), None, (store,))

    size = 600 if setting.dry else 20_000
    splits = {name: split(name, rows) for name, rows in (("train", size), ("valid", size // 3), ("test", size // 3))}
    return PreparedDataset(Path("generated"), "generated", schema, **splits, summary={}, description={})
