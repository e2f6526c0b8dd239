"""The attention tower against its naive form, and what it must not depend on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rectab.batch import Jagged
from rectab.models.din import DINConfig, DINTower
from rectab.models.jagged import Segments, most_recent, segment_softmax
from rectab.ops import segment_sum
from rectab.schema import Feature

DIM = 4
ITEM = Feature("clicked", "item", "sequence", "click", "item")
GENRE = Feature("clicked_genre", "genre", "sequence", "click", "genre")
GAP = Feature("gap", "gap", "sequence", "click", None)


def segments_of(lengths: list[int]) -> Segments:
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    return Segments(Jagged(torch.zeros(int(offsets[-1])), offsets))


def tower_of(features: tuple[Feature, ...] = (ITEM, GENRE), **options: object) -> DINTower:
    torch.manual_seed(0)
    tower = DINTower(features, DIM, DINConfig(hidden=(7, 5), **options))  # type: ignore[arg-type]
    for module in tower.modules():
        if hasattr(module, "running_mean"):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return tower.eval()


def naive(tower: DINTower, events: Tensor, lengths: list[int], targets: Tensor) -> Tensor:
    """The paper's form, row by row, with the four parts laid side by side."""
    rows, start = [], 0
    for row, length in enumerate(lengths):
        own = events[start : start + length]
        start += length
        key = own[:, tower.with_target].flatten(1)
        query = targets[row].flatten().expand_as(key)
        extra = own[:, tower.without_target].flatten(1)
        inputs = torch.cat([query, key, query - key, query * key, extra], dim=1)
        unit = tower.unit
        scores = unit.rest(unit.activation(nn.functional.linear(inputs, unit.first.weight, unit.first.bias))).squeeze(1)
        if tower.config.weights == "softmax":
            scores = torch.softmax(scores / key.shape[1] ** 0.5, 0)
        rows.append((scores.unsqueeze(1) * own.flatten(1)).sum(0))
    return torch.stack(rows).unflatten(1, events.shape[1:])


@pytest.mark.parametrize("activation", ["relu", "prelu", "sigmoid", "dice"])
@pytest.mark.parametrize("weights", ["raw", "softmax"])
@pytest.mark.parametrize("features", [(ITEM,), (ITEM, GENRE), (ITEM, GENRE, GAP)], ids=["item", "two", "extra"])
def test_equals_the_naive_form(activation: str, weights: str, features: tuple[Feature, ...]) -> None:
    tower = tower_of(features, activation=activation, weights=weights)
    lengths = [3, 0, 1, 6, 0]
    events = torch.randn(10, len(features), DIM, requires_grad=True)
    targets = torch.randn(5, sum(f.target is not None for f in features), DIM, requires_grad=True)
    found = tower(events, segments_of(lengths), targets)
    expected = naive(tower, events, lengths, targets)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(found)
    inputs = [events, targets, *tower.parameters()]
    for mine, other in zip(
        torch.autograd.grad(found, inputs, direction), torch.autograd.grad(expected, inputs, direction), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weights", ["raw", "softmax"])
def test_empty_histories_give_exactly_zero_and_finite_gradients(weights: str) -> None:
    tower = tower_of(weights=weights).train()
    events, targets = torch.randn(2, 2, DIM, requires_grad=True), torch.randn(3, 2, DIM, requires_grad=True)
    interests = tower(events, segments_of([0, 2, 0]), targets)
    assert torch.equal(interests[[0, 2]], torch.zeros(2, 2, DIM))
    interests.sum().backward()
    assert torch.isfinite(events.grad).all()
    assert torch.isfinite(targets.grad).all()
    nothing = tower(torch.empty(0, 2, DIM), segments_of([0, 0]), torch.randn(2, 2, DIM))
    assert torch.equal(nothing, torch.zeros(2, 2, DIM))


def test_order_of_events_does_not_matter() -> None:
    tower = tower_of()
    events, targets = torch.randn(6, 2, DIM), torch.randn(1, 2, DIM)
    shuffled = events[torch.randperm(6)]
    torch.testing.assert_close(tower(events, segments_of([6]), targets), tower(shuffled, segments_of([6]), targets))


def test_twice_the_history_is_twice_the_raw_interest_and_the_same_softmax_interest() -> None:
    events, targets = torch.randn(4, 2, DIM), torch.randn(1, 2, DIM)
    for weights, factor in (("raw", 2.0), ("softmax", 1.0)):
        tower = tower_of(weights=weights)
        once = tower(events, segments_of([4]), targets)
        twice = tower(torch.cat([events, events]), segments_of([8]), targets)
        torch.testing.assert_close(twice, factor * once)


def test_evaluation_of_a_row_does_not_depend_on_its_batch_mates() -> None:
    tower = tower_of(activation="dice")
    events, targets = torch.randn(7, 2, DIM), torch.randn(3, 2, DIM)
    together = tower(events, segments_of([2, 4, 1]), targets)
    alone = tower(events[2:6], segments_of([4]), targets[1:2])
    torch.testing.assert_close(together[1:2], alone)


def test_needs_a_target() -> None:
    with pytest.raises(ValueError, match="none of the sequences"):
        tower_of((GAP,))


@pytest.mark.parametrize(("options", "message"), [({"weights": "sum"}, "raw"), ({"max_history": 0}, "max_history")])
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DINConfig(**options)  # type: ignore[arg-type]


def test_most_recent_keeps_the_end_of_every_row() -> None:
    history = Jagged(torch.arange(10), torch.tensor([0, 4, 4, 5, 10]))
    cut = most_recent(history, 2)
    assert cut.values.tolist() == [2, 3, 4, 8, 9]
    assert cut.offsets.tolist() == [0, 2, 2, 3, 5]
    assert most_recent(history, 5) is history


def test_segment_sum_and_softmax_have_the_right_gradients() -> None:
    segments = segments_of([2, 0, 3])
    values = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    scores = torch.randn(5, dtype=torch.float64, requires_grad=True)

    def pooled(values: Tensor, scores: Tensor) -> Tensor:
        return segment_sum(values, segments.offsets, segment_softmax(scores, segments))

    assert torch.autograd.gradcheck(pooled, (values, scores))


def test_softmax_is_stable_for_large_scores() -> None:
    weights = segment_softmax(torch.tensor([1e4, 1e4, -1e4]), segments_of([2, 1]))
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.5, 1.0]))
