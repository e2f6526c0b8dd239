"""The tower against the DIN attention of FuxiCTR and DeepCTR-Torch, from recordings (bench/peers/record_din.py)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rectab.batch import Jagged
from rectab.models.activations import Dice
from rectab.models.din import DINConfig, DINTower
from rectab.models.jagged import Segments
from rectab.schema import Feature

FIXTURES = Path(__file__).parent / "fixtures"
DIM, HIDDEN, LENGTHS = 4, (6, 5), (5, 2, 1)
FEATURES = (
    Feature("clicked", "item", "sequence", "click", "item"),
    Feature("clicked_genre", "genre", "sequence", "click", "genre"),
)


def tower_of(recorded: Mapping[str, Tensor], activation: str, weights: str) -> DINTower:
    """rectab's tower with the recorded weights."""
    tower = DINTower(FEATURES, DIM, DINConfig(hidden=HIDDEN, activation=activation, weights=weights))
    linears = [m for m in tower.unit.modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        for index, linear in enumerate(linears):
            linear.weight.copy_(recorded[f"linear{index}.weight"])
            linear.bias.copy_(recorded[f"linear{index}.bias"])
        if weights == "softmax":
            # Theirs is a plain softmax; rectab's divides scores by sqrt(width of the key), as the authors' demo.
            linears[-1].weight.mul_(tower.unit.width**0.5)
            linears[-1].bias.mul_(tower.unit.width**0.5)
        layers = [m for m in tower.unit.modules() if isinstance(m, (Dice, nn.PReLU))]
        for index, layer in enumerate(layers):
            own = f"{activation}/activation{index}"
            if isinstance(layer, Dice):
                layer.alpha.copy_(recorded[f"{own}.alpha"])
                layer.running_mean.copy_(recorded[f"{own}.mean"])
                layer.running_var.copy_(recorded[f"{own}.var"])
            else:
                layer.weight.copy_(recorded[f"{own}.slope"].expand_as(layer.weight))
    return tower.eval()


@pytest.mark.parametrize("weights", ["raw", "softmax"])
@pytest.mark.parametrize("activation", ["dice", "prelu", "sigmoid", "relu"])
@pytest.mark.parametrize("library", ["fuxictr", "deepctr_torch"])
def test_the_tower_gives_the_recorded_interests(library: str, activation: str, weights: str) -> None:
    with np.load(FIXTURES / f"din_{library}.npz") as arrays:
        recorded = {key: torch.from_numpy(array) for key, array in arrays.items()}
    # Theirs needs a call for every length (no padding); here all rows are one jagged batch.
    targets = torch.cat([recorded[f"query{length}"] for length in LENGTHS]).unflatten(1, (2, DIM))
    events = torch.cat([recorded[f"keys{length}"].flatten(0, 1) for length in LENGTHS]).unflatten(1, (2, DIM))
    lengths = torch.tensor([length for length in LENGTHS for _ in range(len(recorded[f"query{length}"]))])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    expected = recorded[f"{activation}/{weights}"]
    tower = tower_of(recorded, activation, weights)
    with torch.no_grad():
        found = tower(events, Segments(Jagged(torch.zeros(int(offsets[-1])), offsets)), targets).flatten(1)
    assert expected.abs().mean() > 0.1  # the recording says something
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
