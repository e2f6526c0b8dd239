"""``compress_``: trained tables of a plain torch model in packed bytes."""

import numpy as np
import pytest
import torch
from torch import nn

import rectab


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.item, self.bag = nn.Embedding(900, 6, padding_idx=0), nn.EmbeddingBag(70, 4, mode="mean")
        self.alias = self.item
        self.top = nn.Linear(10, 1)

    def forward(self, item: torch.Tensor, bag: torch.Tensor) -> torch.Tensor:
        return self.top(torch.cat([self.alias(item), self.bag(bag)], 1)).squeeze(1)


def _rows(n: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    items = 899 - np.minimum(rng.zipf(1.4, n) - 1, 898)  # the most frequent ids are the last
    return torch.from_numpy(items), torch.from_numpy(rng.integers(0, 70, (n, 3)))


@pytest.mark.parametrize("budget", ["60%", "25%", "10%"])
def test_compressed_model_fits_and_stays_close_and_is_undone(budget):
    model, rows = Net().eval(), _rows()
    before, item = model(*rows), model.item
    result = rectab.compress_(model, budget, batches=[rows], verbose=False)
    assert result.bytes <= float(budget[:-1]) / 100 * result.bytes_before
    assert result.bytes == sum(b.numel() * b.element_size() for t in result.tables.values() for b in t.buffers())
    assert model.item is model.alias
    assert np.corrcoef(before.detach(), model(*rows).detach())[0, 1] > 0.8
    assert result.loss_predicted is not None
    assert result.loss_predicted < 0.1
    assert not model.item(torch.tensor([0])).any()
    result.undo()
    assert model.item is item
    assert torch.equal(model(*rows), before)


def test_frequent_ids_are_held_more_exactly_wherever_they_are():
    model = Net().eval()
    full = model.item.weight.detach().clone()
    counts = np.ones(900, np.int64)
    counts[850:] = 10_000
    with pytest.warns(UserWarning, match="without batches"):
        rectab.compress_(model, "12%", counts={"item": counts}, verbose=False)
    error = (model.item.materialize() - full).square().mean(1)
    assert error[850:].mean() < error[1:850].mean() / 2


def test_exported_and_reloaded():
    model, rows = Net().eval(), _rows()
    rectab.compress_(model, "25%", batches=[rows], verbose=False)
    expected = model(*rows)
    assert torch.allclose(torch.export.export(model, rows).module()(*rows), expected, atol=1e-6)
    other = Net().eval()
    rectab.compress_(other, "25%", batches=[rows], verbose=False)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(*rows), expected)


@pytest.mark.filterwarnings("ignore:compress_")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"counts": {"nope": np.ones(3, np.int64)}}, "nope"),
        ({"counts": {"item": np.ones(3, np.int64)}}, "expected \\(900,\\)"),
        ({"counts": {"item": -np.ones(900, np.int64)}}, "at least 0"),
        ({"batches": []}, "no batch"),
        ({"budget": 20}, "smallest feasible"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_changes(options, message):
    model = Net()
    item = model.item
    with pytest.raises(ValueError, match=message):
        rectab.compress_(model, **{"budget": "25%", **options})
    assert model.item is item


def test_swap_points_here():
    with pytest.raises(ValueError, match="compress_"):
        rectab.swap_(Net(), "quantized")
