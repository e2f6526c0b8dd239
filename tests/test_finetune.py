"""Fine-tuning of encoded tables: what is trained, what is packed again, and that only what wins is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from training_helpers import tiny_dataset

from rectab.data.dataset import PreparedDataset
from rectab.quantize.encodings import encoding_of
from rectab.schema import Vocabulary
from rectab.tables import build_table, config_from_json, config_to_json, load_table, plan
from rectab.tables.quantized import QuantizedConfig, QuantizedTable
from rectab.tables.quantized.tuned import Codes, TunedTable
from rectab.training import TrainConfig, train_once
from rectab.training.compress.curve import compress
from rectab.training.compress.finetune import FineTune

VOCABULARIES = [Vocabulary("a", 500), Vocabulary("b", 60)]
BLOCKS = [
    (0, 0, 40, "int4/dimension"),
    (0, 40, 100, "codebook/4x16/int8"),
    (0, 100, 300, "ternary/block"),
    (0, 300, 450, "shared"),
    (0, 450, 500, "rare"),
    (1, 0, 10, "codebook/8x8/fp16"),
    (1, 10, 20, "fp16"),
    (1, 20, 60, "int3/row"),
]
WIDTH = 8


def vectors() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [0.01 * random.normal(size=(v.num_embeddings, WIDTH)).astype(np.float32) for v in VOCABULARIES]


def packed() -> QuantizedTable:
    """A block of every kind."""
    first = {v: tuple(b[1] for b in BLOCKS if b[0] == v) for v in (0, 1)}
    config = QuantizedConfig(tuple(b[0] for b in BLOCKS), (*first[0], *first[1]), tuple(b[3] for b in BLOCKS))
    table = build_table("quantized.packed", VOCABULARIES, WIDTH, config)
    assert isinstance(table, QuantizedTable)
    fits, given = [], vectors()
    for vocabulary, begin, end, name in BLOCKS:
        part = given[vocabulary][begin:end]
        encoding: Any = encoding_of(name)
        if name == "rare":
            from rectab.quantize.metric import Metric

            fits.append(encoding.fit_to(part, Metric.plain(WIDTH), given[vocabulary][0]))
        else:
            fits.append(encoding.fit(part, np.ones(end - begin)))
    table.fill(fits)
    return table


def everything(table: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([table(torch.arange(v.num_embeddings), i) for i, v in enumerate(VOCABULARIES)])


@pytest.mark.parametrize("codes", get_args(Codes))
def test_it_begins_with_what_was_encoded_and_packs_it_byte_for_byte(codes: Codes) -> None:
    table = packed()
    tuned = TunedTable.of(table, codes, vectors()).eval()
    torch.testing.assert_close(everything(tuned), everything(table), rtol=1e-6, atol=1e-8)
    assert torch.equal(tuned.serving().payload, table.payload)  # type: ignore[arg-type]
    assert tuned.planned_serving().bytes == table.ledger().bytes


@pytest.mark.parametrize("codes", get_args(Codes))
def test_what_is_trained_is_what_is_packed_in_as_many_bytes(codes: Codes) -> None:
    table, wanted = packed(), torch.cat([torch.from_numpy(v) for v in vectors()]) * 1.3 + 0.004
    tuned = TunedTable.of(table, codes, vectors())
    before = {name: tensor.clone() for name, tensor in tuned.state_dict().items() if name.endswith("codes")}
    optimizer = torch.optim.Adam(tuned.dense_parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        loss = (tuned.vectors() - wanted).square().mean() * 1e4
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]  # vectors that many ids share say little
    served = tuned.eval().serving()
    assert served.ledger().bytes == table.ledger().bytes
    # Steps and halves are rounded to fp16, centroids to int8.
    torch.testing.assert_close(everything(served), everything(tuned), rtol=0, atol=2e-4)
    moved = any(not torch.equal(tuned.state_dict()[name], codes_then) for name, codes_then in before.items())
    assert moved == (codes != "frozen")


def test_a_moving_code_goes_to_a_neighbour_only() -> None:
    tuned = TunedTable.of(packed(), "moving", vectors())
    grid: Any = tuned.blocks[0]
    before = grid.codes.clone()
    with torch.no_grad():
        tuned.latent[:40] += 1000.0
    tuned.train().vectors()
    assert torch.equal(grid.codes, (before + 1).clamp(max=15))


# Of runs.


@pytest.fixture(scope="module")
def dataset() -> PreparedDataset:
    return tiny_dataset(900)


@pytest.fixture(scope="module")
def run(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "full"
    settings = TrainConfig(batch_size=300, max_epochs=2, lr=0.01, precision="fp32")
    options: dict[str, Any] = {"model": "fm", "embedding_dim": 6, "read_test": False, "progress": "off"}
    train_once(dataset, method="full", train_config=settings, out_dir=folder, **options)
    return folder


@pytest.mark.parametrize("codes", get_args(Codes))
def test_the_better_of_before_and_after_is_written(
    codes: Codes, dataset: PreparedDataset, run: Path, tmp_path: Path
) -> None:
    curve = compress(dataset, [run], tmp_path / "out", ["10%"], finetune=FineTune(codes, 3, 0.5))
    (point,), told = curve.points, curve.points[0].finetune
    assert told is not None
    assert told["kept"] == (told["after"]["auc"] > told["before"]["auc"])
    assert point.valid["auc"] == max(told["after"]["auc"], told["before"]["auc"])
    table = load_table(tmp_path / "out" / "10%" / "table.safetensors")
    assert table.ledger().bytes == point.serving_bytes <= point.budget_bytes
    result = json.loads((tmp_path / "out" / "10%" / "result.json").read_text())
    assert result["encoded"]["finetune"]["codes"] == codes
    assert result["valid"]["auc"] == pytest.approx(point.valid["auc"])
    further = curve.sources[0].further
    assert further is not None
    assert further["auc"] >= curve.sources[0].valid["auc"]


def test_a_rate_that_breaks_the_table_gives_the_encoded_one_back(
    dataset: PreparedDataset, run: Path, tmp_path: Path
) -> None:
    plain = compress(dataset, [run], tmp_path / "plain", ["20%"]).points[0]
    broken = compress(dataset, [run], tmp_path / "broken", ["20%"], finetune=FineTune("frozen", 1, lr=30.0)).points[0]
    assert broken.finetune is not None
    assert not broken.finetune["kept"]
    assert broken.valid == plain.valid
    files = [(tmp_path / name / "20%" / "table.safetensors").read_bytes() for name in ("plain", "broken")]
    assert files[0] == files[1]


@pytest.mark.parametrize("widths", [[], [6, 4, 3]])
def test_it_is_an_option_of_the_method(dataset: PreparedDataset, run: Path, tmp_path: Path, widths: list[int]) -> None:
    """The two best of several widths are trained, and what comes of it is at least as good as any of them encoded."""
    settings = TrainConfig(batch_size=300, max_epochs=2, lr=0.01, precision="fp32")
    result = train_once(
        dataset,
        method="quantized",
        budget="10%",
        method_options={"finetune": "moving", "finetune_epochs": 2, "widths": widths},
        model="fm",
        embedding_dim=6,
        read_test=False,
        progress="off",
        train_config=settings,
        out_dir=tmp_path / "run",
        shared=run.parent,
    )
    assert result.encoded is not None
    assert result.encoded["finetune"]["epochs"] == 2
    assert result.valid["auc"] >= result.encoded["finetune"]["before"]["auc"]
    assert len(result.encoded["widths"]) == max(len(widths), 1)
    assert all(result.valid["auc"] >= each["valid"]["auc"] for each in result.encoded["widths"])


def test_settings_are_checked_and_leave_no_trace_where_they_are_not_used() -> None:
    with pytest.raises(ValueError, match=r"distill in 0\.\.1"):
        FineTune("frozen", 1, 1.5)
    with pytest.raises(ValueError, match="finetune"):
        plan("quantized", VOCABULARIES, 8, "10%", finetune="melted")
    config = plan("quantized", VOCABULARIES, 8, "10%").config
    assert set(config_to_json(config)) == {"budget_bytes", "widths", "shape"}
    assert config_from_json("quantized", json.loads(json.dumps(config_to_json(config)))) == config
