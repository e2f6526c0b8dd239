"""ALPT: codes and steps are all there is, steps are learned by the paper's gradient, values as the run's rule says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rectab.ops import RowStore
from rectab.ops.whole_formats import learned_format
from rectab.optim import RowAdagrad, RowAdam, RowSGD
from rectab.schema import Vocabulary
from rectab.tables import TableOptions, load_table, plan, save_table
from rectab.tables.alpt import LearnedStep
from rectab.tables.training_bytes import training_ledger

VOCABULARIES = [Vocabulary("a", 3000), Vocabulary("b", 50)]


def table_of(dim: int = 16, budget: str | None = None, **options: Any) -> Any:
    held = TableOptions(init_std=0.05)
    return plan("alpt", VOCABULARIES, dim, budget, options=held, **options).build()


@pytest.mark.parametrize(
    ("dim", "bits", "share"), [(16, 8, 0.282), (10, 8, 0.301), (16, 4, 0.157), (10, 4, 0.176), (16, 6, 0.22)]
)
def test_bytes(dim: int, bits: int, share: float) -> None:
    table = table_of(dim, bits=bits)
    rows = table.ledger().by_kind()["rows"]
    assert rows <= share * 3050 * dim * 4
    planned = plan("alpt", VOCABULARIES, dim, "10%", bits=bits)
    assert planned.serving.bytes <= 0.1 * planned.full_bytes
    assert planned.config.num_rows[0] < 3000


def test_training_holds_codes_and_the_optimizers_state_and_two_numbers_a_row() -> None:
    table = table_of()
    optimizer = RowAdam(table.row_stores(), rules=table.rules())
    counted = training_ledger(plan("alpt", VOCABULARIES, 16).on_meta).only("optimizer").bytes
    assert counted == sum(t.numel() * t.element_size() for _, t in optimizer.state_tensors())
    assert counted == 3050 * (2 * 16 * 4 + 4 + 2 * 4)


@pytest.mark.parametrize("optimizer", [RowAdam, RowSGD, RowAdagrad])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_values_move_as_under_the_optimizers_own_rule(optimizer: Any, decay: float) -> None:
    """Steps so fine that rounding is small: 60 updates end where those of fp32 rows end."""
    ends = []
    for rows in (learned_format(8, 0.004), "fp32"):
        generator = torch.Generator().manual_seed(0)
        store = RowStore(40, 6, init_std=0.05, generator=generator, rows=rows)
        rules = {"store": LearnedStep(127, 0.0)} if rows != "fp32" else {}
        steps = optimizer([("store", store)], lr=0.05, weight_decay=decay, rules=rules)
        for step in range(60):
            at = torch.randint(40, (20,), generator=torch.Generator().manual_seed(step))
            (store(at) - 0.2 * (at.unsqueeze(1) % 3)).square().sum().backward()
            steps.step()
            steps.zero_grad()
        steps.catch_up()
        with torch.no_grad():
            ends.append(store(torch.arange(40)))
    assert (ends[0] - ends[1]).abs().max() < 0.1
    assert (ends[0] - ends[1]).abs().mean() < 0.01


def test_the_gradient_of_a_step_is_that_of_rounding() -> None:
    rule = LearnedStep(7, 0.1)
    values = torch.tensor([[0.26, -0.11, 0.9], [0.1, 0.2, 0.3]])
    gradients = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.0, 0.0]])
    state = {"scale": torch.full((2,), 0.1), "scale_moment": torch.zeros(2), "scale_square": torch.zeros(2)}

    class Still(LearnedStep):
        def _inner_update(self, values: Tensor, *_: Any) -> Tensor:
            return values

    class Step:
        number, lr = 1, 0.0

    before = state["scale"].clone()
    Still(7, 0.001).update(values, gradients, state, Step())  # type: ignore[arg-type]
    # 2.6 rounds up by .4, -1.1 by .1; 9 is clipped at 7, whose slope is the largest code.
    expected = 1.0 * 0.4 + 2.0 * 0.1 - 1.0 * 7
    assert state["scale_moment"][0].item() == pytest.approx(0.1 * expected, rel=1e-4)
    assert state["scale"][0] == pytest.approx(float(before[0]) + 0.001), "the first step of Adam is the rate"
    assert state["scale"][1] == before[1], "a row without gradient keeps its step"
    assert rule.around(rule).inner is rule


def test_steps_grow_where_values_are_clipped_and_the_file_keeps_them(tmp_path: Any) -> None:
    table = table_of(bits=4, step_lr=0.05)
    first = float(table.store.scale[0])
    optimizer = RowAdam(table.row_stores(), lr=0.02, rules=table.rules())
    for _ in range(150):
        ids = torch.arange(50)
        (table(ids, 1) - 1.0).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    owned = table.store.scale[3000:].float()
    assert (owned > 2 * first).all()
    assert (table.store.scale[:3000] == table.store.scale[0]).all(), "rows that nothing touched"
    assert (table(torch.arange(50), 1).mean() - 1.0).abs() < 0.1
    save_table(table, tmp_path / "t.safetensors")
    again = load_table(tmp_path / "t.safetensors")
    assert torch.equal(again(torch.arange(50), 1), table(torch.arange(50), 1))


def test_a_row_moves_with_its_step() -> None:
    store = RowStore(10, 4, init_std=0.1, rows=learned_format(8, 0.01))
    optimizer = RowAdam([("store", store)], rules={"store": LearnedStep(127, 0.01)})
    store.scale[3] = 0.02
    optimizer.rows["store"].state["scale_square"][3] = 5.0
    optimizer.move(store, torch.tensor([3]), torch.tensor([7]))
    assert torch.equal(store.read(torch.tensor([7])), store.read(torch.tensor([3])))
    assert optimizer.rows["store"].state["scale_square"][7] == 5.0


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="bits must be 4, 6 or 8"):
        table_of(bits=5)
    with pytest.raises(ValueError, match="trained by row gradients alone"):
        plan("alpt", VOCABULARIES, 8, options=TableOptions(gradient="dense"))
