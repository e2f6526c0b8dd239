"""Dropout: the right share, the right scale, and a mask that the seed determines."""

from __future__ import annotations

import pytest
import torch

from rectab.models.dropout import Dropout


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_share_and_expectation(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = torch.ones(501, 401, dtype=dtype)
    out = Dropout(rate)(values)
    dropped = (out == 0).double().mean().item()
    assert abs(dropped - rate) < 5 * (rate * (1 - rate) / values.numel()) ** 0.5
    kept = out[out != 0]
    assert torch.all(kept == kept[0])
    assert kept[0].item() == pytest.approx(1 / (1 - rate), rel=0.005)
    # No element of a row or column is dropped more often than chance has it.
    assert ((out == 0).double().mean(0) - rate).abs().max() < 6 * (rate * (1 - rate) / 501) ** 0.5


def test_the_seed_determines_the_mask_and_every_call_draws_another() -> None:
    dropout, values = Dropout(0.5), torch.ones(1000)
    torch.manual_seed(1)
    first, second = dropout(values), dropout(values)
    torch.manual_seed(1)
    assert torch.equal(dropout(values), first)
    assert not torch.equal(first, second)


def test_evaluation_changes_nothing_and_gradients_go_where_values_went() -> None:
    values = torch.ones(1000, requires_grad=True)
    assert Dropout(0.5).eval()(values) is values
    out = Dropout(0.5)(values)
    out.sum().backward()
    assert torch.equal(values.grad, out.detach())


def test_rates_outside_are_refused() -> None:
    for rate in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match="dropout rate"):
            Dropout(rate)
