"""Where values lie among sorted starts: run and in a graph, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rectab.ops.searching import last_at_or_before


class _Search(nn.Module):
    def forward(self, starts: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return last_at_or_before(starts, values)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("starts", [1, 2, 3, 7, 8, 9, 100])
def test_run_and_in_a_graph_it_is_what_numpy_finds(starts: int, dtype: torch.dtype) -> None:
    generator = np.random.default_rng(starts)
    first = np.sort(generator.choice(1000, starts, replace=False))
    values = np.concatenate([generator.integers(-5, 1005, 200), first, first - 1, first + 1])
    expected = (np.searchsorted(first, values, side="right") - 1).clip(0)
    given = torch.from_numpy(first).to(dtype), torch.from_numpy(values)
    graph = torch.export.export(_Search(), given, strict=False).module()
    for got in (last_at_or_before(*given), graph(*given)):
        assert got.dtype == torch.int64
        np.testing.assert_array_equal(got.numpy(), expected)
