"""A finished run over the full table, opened to be encoded: what is known of it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from training_helpers import tiny_dataset

from rectab.quantize.allocate import allocate
from rectab.quantize.blocks import finest_blocks
from rectab.quantize.options import OptionTable
from rectab.training import TrainConfig, train_once
from rectab.training.compress.source import open_run
from rectab.training.evaluation import metrics_of, predict

CONFIG = TrainConfig(batch_size=300, max_epochs=2, lr=0.005, precision="fp32")


def train(folder: Path, method: str = "full") -> None:
    train_once(
        tiny_dataset(900),
        method=method,
        budget=None if method == "full" else "50%",
        model="lr",
        embedding_dim=4,
        train_config=CONFIG,
        out_dir=folder,
        read_test=False,
        progress="off",
    )


def test_a_run_is_opened_and_encoded_within_a_budget(tmp_path: Path) -> None:
    train(tmp_path / "run")
    dataset = tiny_dataset(900)
    run = open_run(tmp_path / "run", dataset)
    assert run.valid["auc"] == pytest.approx(run.result.valid["auc"], abs=1e-7)
    assert [v.shape for v in run.vectors] == [(v.num_embeddings, 4) for v in dataset.schema.vocabularies]
    assert all((w > 0).all() and w.shape == v.shape[:1] for w, v in zip(run.weights, run.vectors, strict=True))
    options = OptionTable([v.copy() for v in run.vectors], run.weights, run.sensitivity, header_bytes=10)
    blocks = [finest_blocks(index, traffic) for index, traffic in enumerate(run.traffic)]
    full = sum(v.nbytes for v in run.vectors)
    before, errors = run.outputs, []
    for share in (0.5, 0.1):
        made = allocate(options, blocks, int(share * full))
        assert made is not None
        assert made.bytes <= share * full
        for block, encoding in zip(made.blocks, made.encodings, strict=True):
            at = slice(block.first, block.last)
            run.vectors[block.vocabulary][at] = options.fit(block, encoding).decode()
        after = predict(run.model, dataset.valid, 300)
        errors.append(float(np.square(after - before).mean()))
        lost = run.valid["auc"] - metrics_of(after, dataset.valid, "logloss")["auc"]
        assert abs(lost) < 0.2
        assert 0 <= run.valid["auc"] - run.separation.after(made.error) < 0.5
    assert errors[0] < errors[1], "fewer bytes move the outputs more"


def test_what_is_no_run_over_the_full_table_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no result\.json"):
        open_run(tmp_path, tiny_dataset(900))
    train(tmp_path / "hashed", "hashed")
    with pytest.raises(ValueError, match="its table is 'hashed'; only a run of --table full"):
        open_run(tmp_path / "hashed", tiny_dataset(900))
    train(tmp_path / "full")
    result = tmp_path / "full" / "result.json"
    text = result.read_text()
    result.write_text(text.replace(tiny_dataset(900).fingerprint(), "0" * 16))
    with pytest.raises(ValueError, match="give the data set that the run was trained on"):
        open_run(tmp_path / "full", tiny_dataset(900))
    result.write_text("{")
    with pytest.raises(ValueError, match=r"result\.json: damaged"):
        open_run(tmp_path / "full", tiny_dataset(900))
