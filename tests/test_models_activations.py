"""Dice has true statistics, over real positions, and evaluation does not depend on batch-mates."""

from __future__ import annotations

import pytest
import torch

from rectab.models.activations import ACTIVATIONS, Dice, make_activation


def test_dice_uses_the_statistics_of_the_batch_in_training() -> None:
    dice = Dice(3)
    dice.alpha.data = torch.tensor([0.0, 0.25, 1.0])
    values = torch.randn(50, 3) * 2 + 1
    gate = torch.sigmoid((values - values.mean(0)) / (values.var(0, unbiased=False) + 1e-8).sqrt())
    expected = gate * values + (1 - gate) * dice.alpha * values
    torch.testing.assert_close(dice(values), expected)
    torch.testing.assert_close(dice.running_mean, 0.1 * values.mean(0))
    torch.testing.assert_close(dice.running_var, 0.9 + 0.1 * values.var(0))


def test_dice_in_evaluation_uses_running_statistics_and_leaves_them() -> None:
    dice = Dice(4).eval()
    dice.running_mean += 0.3
    values = torch.randn(20, 4)
    before = dice.running_mean.clone()
    alone = torch.cat([dice(row.unsqueeze(0)) for row in values])
    torch.testing.assert_close(dice(values), alone)
    assert torch.equal(dice.running_mean, before)


def test_dice_with_alpha_one_is_the_identity_and_with_zero_halves_a_constant() -> None:
    dice = Dice(2)
    dice.alpha.data.fill_(1.0)
    values = torch.randn(10, 2)
    torch.testing.assert_close(dice(values), values)
    dice.alpha.data.zero_()
    torch.testing.assert_close(dice(torch.full((10, 2), 3.0)), torch.full((10, 2), 1.5))


def test_dice_takes_no_and_one_position_in_training() -> None:
    dice = Dice(2)
    assert dice(torch.empty(0, 2)).shape == (0, 2)
    assert torch.isfinite(dice(torch.ones(1, 2))).all()
    assert torch.equal(dice.running_mean, torch.zeros(2))


def test_dice_gradient() -> None:
    dice = Dice(3).double()
    dice.alpha.data = torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64)
    values = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, a: _dice(dice, v), (values, dice.alpha))


def _dice(dice: Dice, values: torch.Tensor) -> torch.Tensor:
    return dice(values)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_takes_positions_by_units(name: str) -> None:
    assert make_activation(name, 5)(torch.randn(8, 5)).shape == (8, 5)


def test_unknown_activation_names_what_there_is() -> None:
    with pytest.raises(ValueError, match="relu, prelu, sigmoid, dice"):
        make_activation("gelu", 5)
