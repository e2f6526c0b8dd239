"""Steps that rows share: learned by the gradients of LSQ, fitted after training, and served as codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from training_helpers import tiny_dataset

import rectab
from rectab.ops import RowStore
from rectab.ops.grids import GRIDS
from rectab.ops.steps import LearnedSteps
from rectab.optim import RowAdam
from rectab.schema import Vocabulary
from rectab.tables import EmbeddingTable, TableOptions, load_table, plan, save_table
from rectab.training import TrainConfig, train_once
from rectab.training.compress.held import hold_rows
from rectab.training.finished import load_result

LATENT = [f"{kind}{bits}" for kind in ("ptq", "lsq") for bits in (8, 4, 2)]


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def counted(*sizes: int) -> list[Vocabulary]:
    return [Vocabulary(f"v{i}", n, counts=np.arange(n, 0, -1) ** 2) for i, n in enumerate(sizes)]


def table_of(method: str, rows: str, sizes: tuple[int, ...] = (300, 40), **options: object) -> EmbeddingTable:
    budget = None if method in ("full", "narrow") else "20%"
    held = TableOptions(rows=rows, **options)  # type: ignore[arg-type]
    return plan(method, counted(*sizes), 8, budget, options=held).build()


@pytest.mark.parametrize("name", ["int8", "int4", "int2"])
def test_gradients_are_those_of_lsq(name: str) -> None:
    """Equations 3 to 5 of the paper, element by element, in the plainest words."""
    grid = GRIDS[name]
    steps = LearnedSteps((3, 4), grid, 5, None)
    step = torch.tensor([0.4, 0.02])
    steps.log_step.data = step.log()
    values = (torch.randn(7, 5, generator=drawn(0)) * 0.3).requires_grad_()
    rows, weights = torch.tensor([6, 0, 3, 2, 2, 5, 1]), torch.randn(7, 5, generator=drawn(1))
    (steps(values, rows) * weights).sum().backward()
    low, high = -grid.offset, grid.levels - 1 - grid.offset
    of_values, of_steps = torch.zeros(7, 5), torch.zeros(2)
    for i, row in enumerate(rows.tolist()):
        group = 0 if row < 3 else 1
        for j in range(5):
            scaled = float(values[i, j].detach() / step[group])
            level = min(max(np.floor(scaled + grid.offset + 0.5) - grid.offset, low), high)
            inside = low <= scaled <= high
            of_values[i, j] = weights[i, j] if inside else 0.0
            of_steps[group] += weights[i, j] * (level - scaled if inside else level)
    elements = torch.tensor([15.0, 20.0])
    assert values.grad is not None
    assert steps.log_step.grad is not None
    torch.testing.assert_close(values.grad, of_values)
    torch.testing.assert_close(steps.log_step.grad, of_steps * step / (elements * high).sqrt(), rtol=1e-4, atol=1e-6)


def test_a_group_of_its_own_has_a_step_of_its_own_size() -> None:
    store = RowStore(60, 4, rows="lsq4", groups=(20, 40))
    assert isinstance(store.steps, LearnedSteps)
    store.write(slice(0, 20), 0.01 * torch.randn(20, 4, generator=drawn(0)))
    store.write(slice(20, 60), torch.randn(40, 4, generator=drawn(1)))
    store.steps.fit(store.weight)
    first, second = store.steps.step.tolist()
    assert second > 50 * first
    with torch.no_grad():
        read = store(torch.arange(60))
    assert float((read - store.weight)[:20].square().mean() / store.weight[:20].square().mean()) < 0.02


@pytest.mark.parametrize("method", ["full", "hashed", "unified", "narrow"])
@pytest.mark.parametrize("rows", LATENT)
def test_what_is_served_is_what_was_planned_and_trained(method: str, rows: str, tmp_path: Path) -> None:
    table = table_of(method, rows, init_std=0.1)
    ids = torch.randint(40, (64, 2), generator=drawn(0))
    columns = torch.arange(2)
    optimizers = [RowAdam(table.row_stores(), lr=0.01)]
    dense = list(table.dense_parameters())
    optimizers += [torch.optim.Adam(dense, lr=0.01)] if dense else []  # type: ignore[list-item]
    losses = []
    for _ in range(15):
        loss = (table(ids, columns) - 0.1).square().mean()
        losses.append(loss.item())
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert losses[-1] < 0.7 * losses[0]
    served = table.serving()
    with torch.no_grad():
        trained, now = table(ids, columns), served(ids, columns)
    if rows.startswith("lsq"):
        assert torch.equal(now, trained)
    else:
        error = float((now - trained).square().mean().sqrt() / trained.square().mean().sqrt())
        assert error < {"ptq8": 0.01, "ptq4": 0.2, "ptq2": 0.8}[rows]
    options = TableOptions(rows=rows)
    planned = plan(method, counted(300, 40), 8, None if method in ("full", "narrow") else "20%", options=options)
    assert served.ledger().bytes == planned.serving.bytes == table.planned_serving().bytes
    save_table(served, tmp_path / "t.safetensors")
    loaded = load_table(tmp_path / "t.safetensors")
    assert loaded.options.rows == f"codes{rows[-1]}"
    assert torch.equal(loaded(ids, columns), now)
    assert loaded.serving() is loaded


def test_rows_of_codes_take_their_bits_and_nothing_else() -> None:
    """The reason they are there: half of a D = 16 unified table's rows of 4 bits would be scales."""
    table = table_of("unified", "lsq4").serving()
    rows = table.get_submodule("store").num_rows  # type: ignore[union-attr]
    assert table.ledger().by_kind()["rows"] == 2 * rows
    assert table.ledger().by_kind()["index"] == 8 * 2 * 2 + 4


def test_fitted_steps_heed_how_often_rows_are_read() -> None:
    """Of two sizes of values in one vocabulary, the frequent one is held well."""
    sizes = torch.cat([torch.full((100, 1), 0.1), torch.full((100, 1), 1.0)])
    values, error = sizes * torch.randn(200, 8, generator=drawn(0)), {}
    for name, counts in (("counted", np.r_[np.full(100, 1000), np.ones(100, int)]), ("not", None)):
        table = plan("full", [Vocabulary("a", 200, counts=counts)], 8, options=TableOptions(rows="ptq4")).build()
        table.get_submodule("store").write(slice(None), values)  # type: ignore[operator]
        with torch.no_grad():
            error[name] = float((table.serving()(torch.arange(100), 0) - values[:100]).square().mean())
    assert error["counted"] < 0.1 * error["not"]


@pytest.mark.parametrize("method", ["dnis", "optembed", "pruned"])
def test_kept_entries_are_encoded_within_the_budget(method: str) -> None:
    planned = plan(method, counted(300, 40), 8, "15%", options=TableOptions(rows="ptq8", init_std=0.1))
    pruned = planned.build().eval().serving()  # trained on in floats
    served, ids = pruned.serving(), torch.arange(40)
    assert type(served) is type(pruned)
    assert planned.budget_bytes is not None
    assert 0.9 * planned.budget_bytes < served.ledger().bytes <= planned.budget_bytes
    with torch.no_grad():
        torch.testing.assert_close(served(ids, 1), pruned(ids, 1), rtol=0, atol=0.005)
    assert served.learned() == pruned.learned()


def test_a_method_that_chooses_bits_itself_refuses_both_kinds_by_name() -> None:
    for rows in ("ptq8", "lsq8"):
        with pytest.raises(ValueError, match="quantized chooses the bits of its rows after training"):
            plan("quantized", counted(300, 40), 8, "60%", options=TableOptions(rows=rows))


@pytest.mark.parametrize("method", ["dpq", "mgqe", "mlet"])
def test_methods_that_make_their_rows_when_training_ends_learn_no_steps(method: str) -> None:
    with pytest.raises(ValueError, match=f"{method} makes the rows .* use ptq8"):
        plan(method, counted(300, 40), 8, "60%", options=TableOptions(rows="lsq8"))


@pytest.mark.parametrize("method", ["dnis", "optembed", "pruned"])
def test_a_stage_that_searches_trains_floats_and_what_is_left_learns_steps(method: str) -> None:
    table = plan(method, counted(300, 40), 8, "20%", options=TableOptions(rows="lsq4")).build()
    assert all(store.steps is None for _, store in table.row_stores())
    assert all(isinstance(store.steps, LearnedSteps) for _, store in table.serving().row_stores())


def test_codes_are_not_trained_and_a_half_keeps_their_step() -> None:
    store = RowStore(9, 4, rows="codes4", gradient="dense")
    assert not store.trained
    with pytest.raises(ValueError, match="codes4 cannot be trained"):
        store.trained = True
    rows = torch.arange(9)
    vectors: Tensor = store(rows)
    assert torch.equal(store.half()(rows), vectors.half())


def test_rows_that_end_in_codes_are_refused_where_nobody_would_encode_them() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(500, 8))
    with pytest.raises(ValueError, match="swap with rows='int8'"):
        rectab.swap_(model, budget="50%", rows="lsq4")
    with pytest.raises(ValueError, match="codes8 are served and not trained"):
        plan("full", counted(300, 40), 8, options=TableOptions(rows="codes8"))


@pytest.mark.parametrize("method", ["hashed", "unified", "full"])
def test_a_finished_run_is_held_in_fewer_bits(method: str, tmp_path: Path) -> None:
    dataset = tiny_dataset(900)
    settings = TrainConfig(batch_size=300, max_epochs=2, lr=0.01, precision="fp32")
    train_once(
        dataset,
        method=method,
        budget=None if method == "full" else "40%",
        model="fm",
        embedding_dim=6,
        train_config=settings,
        out_dir=tmp_path / "run",
        read_test=False,
        progress="off",
    )
    made = hold_rows(dataset, tmp_path / "run", tmp_path / "out", ["codes8", "fused8"])
    before = load_result(tmp_path / "run")
    assert before is not None
    for one in made:
        assert one.valid["auc"] == pytest.approx(before.valid["auc"], abs=0.002)
        table = load_table(tmp_path / "out" / one.rows / "table.safetensors")
        assert (table.method, table.options.rows, table.ledger().bytes) == (method, one.rows, one.serving_bytes)
        result = load_result(tmp_path / "out" / one.rows)
        assert result is not None
        assert result.valid == one.valid
    assert made[0].serving_bytes < 0.35 * before.serving_bytes
    with pytest.raises(ValueError, match="give codes4"):
        hold_rows(dataset, tmp_path / "run", tmp_path / "other", ["lsq4"])
    with pytest.raises(ValueError, match="rows in floats are needed"):
        hold_rows(dataset, tmp_path / "out" / "codes8", tmp_path / "other", ["codes4"])
