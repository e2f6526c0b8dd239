"""Mistakes that public DIN codes make (named in docs/din.md); those not here are tested with the part they concern."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_helpers import tiny_dataset

from rectab.batch import Batch, Jagged
from rectab.models import CTRModel, ModelConfig
from rectab.models.activations import Dice
from rectab.models.din import DINTower
from rectab.optim import RowAdam
from rectab.tables import plan

DIM = 4


def model_of(weights: str = "raw", activation: str = "dice") -> CTRModel:
    schema = tiny_dataset(rows=30).schema
    torch.manual_seed(0)
    tower = {"hidden": (6, 5), "weights": weights, "activation": activation}
    config = ModelConfig.from_options("mlp", "din", {"hidden": (8,), "activation": activation}, tower)
    return CTRModel(schema, plan("full", schema.vocabularies, DIM).build(), config)


def batch_of(lengths: list[int], item: int = 3, past: int = 7) -> Batch:
    offsets = torch.tensor([0, *np.cumsum(lengths).tolist()])
    events = torch.full((int(offsets[-1]),), past)
    ids = torch.tensor([[1, item, 1]]).repeat(len(lengths), 1)
    histories = {"clicked_item": Jagged(events, offsets), "clicked_genre": Jagged(torch.full_like(events, 2), offsets)}
    return Batch(ids, torch.zeros(len(lengths), 1), histories)


def test_dice_really_uses_and_keeps_batch_statistics_in_the_model() -> None:
    """The authors' demo never updated its running statistics: its Dice was a learnable Swish."""
    model, batch = model_of().train(), tiny_dataset(rows=100).train.batch(np.arange(64))
    model(batch)
    for module in (m for m in model.modules() if isinstance(m, Dice)):
        assert not torch.equal(module.running_mean, torch.zeros_like(module.running_mean))
        assert not torch.equal(module.running_var, torch.ones_like(module.running_var))


def test_statistics_are_of_real_positions_only() -> None:
    """FuxiCTR and DeepCTR feed padding through the attention's Dice; here a batch padded to 50 gives the same sums."""
    split = tiny_dataset(rows=100).train
    batch = split.batch(np.arange(64))
    lengths = batch.histories["clicked_item"].lengths()
    padded = {name: h.to_padded(50, padding_value=-1)[0] for name, h in batch.histories.items()}
    back = {name: Jagged.from_padded(p, lengths) for name, p in padded.items()}
    first, second = model_of().train(), model_of().train()
    outputs = [first(batch), second(Batch(batch.ids, batch.dense, back))]
    assert torch.equal(*outputs)
    statistics = [[m.running_mean for m in model.modules() if isinstance(m, Dice)] for model in (first, second)]
    assert all(torch.equal(own, other) for own, other in zip(*statistics, strict=True))
    tower = next(m for m in first.modules() if isinstance(m, DINTower))
    seen: list[Tensor] = []
    tower.unit.activation.register_forward_hook(lambda module, given, result: seen.append(given[0]))
    first(batch)
    assert seen[0].shape == (int(lengths.sum()), 6)


def test_id_0_is_an_event_like_any_other() -> None:
    """Masking by "id is not 0" loses real items that the data set numbered 0."""
    model = model_of().eval()
    zero, nothing = model(batch_of([1], past=0)), model(batch_of([0]))
    assert not torch.equal(zero, nothing)
    lengths = torch.tensor([2, 1])
    assert Jagged.from_padded(torch.tensor([[0, 5], [0, 0]]), lengths).values.tolist() == [0, 5, 0]


@pytest.mark.parametrize("weights", ["raw", "softmax"])
def test_an_empty_history_says_nothing(weights: str) -> None:
    """A softmax over nothing but padding is uniform in EasyRec and in the demo: an interest out of thin air."""
    model = model_of(weights)
    for train in (True, False):
        model.train(train)
        fields = model.fields(batch_of([0, 3, 0]))
        assert torch.equal(fields[[0, 2], 3:], torch.zeros(2, 2, DIM))
        assert fields[1, 3:].abs().sum() > 0
        nothing = model(batch_of([0, 0, 0]))
        assert torch.isfinite(nothing).all()


@pytest.mark.parametrize("weights", ["raw", "softmax"])
def test_half_precision_with_an_empty_history_is_finite(weights: str) -> None:
    """A mask of -1e9 is minus infinity in fp16, and a fully masked row is then not a number."""
    model = model_of(weights).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(model(batch_of([0, 2]))).all()
    model.table.half()
    tower = next(m for m in model.modules() if isinstance(m, DINTower)).half()
    part = next(iter(model.behaviours.values()))
    batch = batch_of([0, 2])
    embedded = model.table(batch.ids, model.field_vocabularies)
    interests = tower(*part.inputs(batch, model.table, embedded))  # type: ignore[operator]
    assert torch.isfinite(interests).all()
    assert torch.equal(interests[0], torch.zeros_like(interests[0]))


def test_dice_works_in_the_tower_and_in_the_perceptron() -> None:
    """DeepCTR-Torch's ``dnn_activation='dice'`` fails an assertion: its Dice is built for three dimensions."""
    model = model_of(activation="dice").train()
    assert sum(isinstance(m, Dice) for m in model.modules()) == 3
    assert torch.isfinite(model(batch_of([2, 3]))).all()


@pytest.mark.parametrize("lengths", [[1, 0], [0, 1], [0, 0]])
def test_a_batch_with_one_event_or_none_trains(lengths: list[int]) -> None:
    """Batch statistics of a single value raise in torch."""
    model = model_of().train()
    optimizer = RowAdam(model.table.row_stores())
    model(batch_of(lengths)).sum().backward()
    optimizer.step()
    assert all(torch.isfinite(store.weight).all() for _, store in model.table.row_stores())
    gradients = [p.grad for p in model.dense_parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)


def test_no_parameter_is_declared_and_never_used() -> None:
    """The demo saves a user embedding that nothing reads."""
    model, batch = model_of().train(), tiny_dataset(rows=100).train.batch(np.arange(64))
    nn.functional.softplus(model(batch)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None and not name.startswith("table.")] == []
    assert all(store.pending for _, store in model.table.row_stores())
