"""Linear layers over a varying number of positions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rectab.models.layers import PositionLinear


@pytest.mark.parametrize("positions", [0, 1, 255, 256, 257, 5000])
def test_positions_are_padded_without_a_trace(positions: int) -> None:
    torch.manual_seed(0)
    layer, plain = PositionLinear(8, 5), nn.Linear(8, 5)
    plain.load_state_dict(layer.state_dict())
    values = torch.randn(positions, 8)
    results = []
    for linear in (layer, plain):
        inputs = values.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = linear(inputs)
        out.float().square().sum().backward()
        results.append((out.float(), inputs.grad, linear.weight.grad, linear.bias.grad))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-2)


def test_few_shapes_reach_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN keeps packed weights and code for every shape: a process that trains DIN would grow without end."""
    layer, linear, shapes = PositionLinear(4, 4), nn.functional.linear, []
    monkeypatch.setattr(nn.functional, "linear", lambda x, *args: shapes.append(len(x)) or linear(x, *args))
    sizes = range(1, 40_000, 37)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for size in sizes:
            layer(torch.zeros(size, 4))
    assert len(set(shapes)) < 50
    assert all(size <= padded <= size + max(255, size // 8 + 1) for size, padded in zip(sizes, shapes, strict=True))
