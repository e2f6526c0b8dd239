"""``compress_``: trained tables of a host's model in packed bytes; what is wrong is named, and nothing changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from compress_helpers import ITEMS, TAGS, Clicks, correlation, rows, trained
from torch import Tensor, nn

import rectab
from rectab.swap.sorted_rows import SortedRows


@pytest.mark.parametrize("budget", ["60%", "25%", "10%", "1KiB", 2000])
def test_compressed_model_fits_and_stays_close_and_is_undone(budget: str | int) -> None:
    model = Clicks().eval()
    before, item = model(*rows()), model.item
    result = rectab.compress_(model, budget, batches=[rows()], verbose=False)
    limit = {"1KiB": 1024, 2000: 2000}.get(budget) or float(str(budget)[:-1]) / 100 * result.bytes_before
    assert min(0.9 * limit, 0.5 * result.bytes_before) <= result.bytes <= limit  # halves are the most it takes
    assert result.bytes == sum(b.numel() * b.element_size() for t in result.tables.values() for b in t.buffers())
    assert result.bytes == sum(t.numel() * t.element_size() for k, t in model.state_dict().items() if ".table." in k)
    assert correlation(before, model(*rows())) > 0.8
    assert not model.item(torch.tensor([0])).any()
    with pytest.raises(IndexError):
        model.item(torch.tensor([ITEMS]))
    result.undo()
    assert model.item is item
    assert torch.equal(model(*rows()), before)


def test_more_bytes_cost_less_and_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    losses = [rectab.compress_(Clicks().eval(), budget, batches=[rows()]).loss_predicted for budget in ("8%", "50%")]
    assert losses[0] > losses[1]
    assert "2 tables, 22720 -> " in capsys.readouterr().out


class Deaf(Clicks):
    def forward(self, item: Tensor, tags: Tensor) -> Tensor:
        return self.top(torch.zeros(len(item), 10)).squeeze(1) + 0 * self.item(item).sum(1)


class Unused(Clicks):
    def forward(self, item: Tensor, tags: Tensor) -> Tensor:
        return self.top(torch.zeros(len(item), 10)).squeeze(1)


class Reads(Clicks):
    """A model that needs weights of its own at every call."""

    def forward(self, item: Tensor, tags: Tensor) -> Tensor:
        return super().forward(item, tags) + self.item.weight[0, 0]


def changed(**tables: nn.Module) -> Clicks:
    model = Clicks()
    for name, table in tables.items():
        setattr(model, name, table)
    return model


def constant() -> Clicks:
    model = Clicks()
    nn.init.zeros_(model.item.weight)
    nn.init.zeros_(model.tags.weight)
    return model


ITEM, TAG = rows()
WRONG = {
    "name": (Clicks, {"counts": {"nope": np.ones(3, np.int64)}}, r"counts for \['nope'\], but the tables are"),
    "length": (Clicks, {"counts": {"item": np.ones(3, np.int64)}}, r"shape \(3,\), expected \(900,\)"),
    "negative": (Clicks, {"counts": {"item": -np.ones(ITEMS, np.int64)}}, "integers of at least 0"),
    "dtype": (Clicks, {"counts": {"tags": torch.ones(TAGS)}}, "integers of at least 0, got float32"),
    "zeros": (Clicks, {"counts": {"tags": np.zeros(TAGS, np.int64)}}, "are all 0"),
    "no batch": (Clicks, {"batches": []}, "batches has no batch"),
    "arguments": (Clicks, {"batches": [(ITEM, TAG, ITEM)]}, r"takes .*item.*but a batch is a tuple of 3; give forward"),
    "keys": (Clicks, {"batches": [{"user": ITEM}]}, r"but a batch is a dict of \['user'\]"),
    "several": (lambda: Clicks(lambda x: {"a": x, "b": x}), {}, r"a dict with tensors \['a', 'b'\], and one has to"),
    "nothing": (lambda: Clicks(lambda x: None), {}, "a NoneType without tensors"),
    "scalar": (lambda: Clicks(lambda x: x.mean()), {}, "one number for a whole batch"),
    "not finite": (lambda: Clicks(lambda x: x / 0), {}, "not all finite"),
    "budget": (Clicks, {"budget": 20}, "smallest feasible"),
    "budget text": (Clicks, {"budget": "much"}, "budget"),
    "meta": (lambda: Clicks().to("meta"), {}, "meta device and have no weights to compress"),
    "untrained": (constant, {}, "one vector; load trained weights first"),
    "deaf": (Deaf, {}, "do not move with any of the tables"),
    "unused": (Unused, {}, "look up none of the tables"),
    "max_norm": (lambda: changed(item=nn.Embedding(ITEMS, 6, max_norm=1.0)), {}, "item: max_norm"),
    "mode": (lambda: changed(tags=nn.EmbeddingBag(TAGS, 4, mode="max")), {}, "tags: mode='max' is not supported"),
    "nan": (lambda: changed(item=nn.Embedding.from_pretrained(torch.full((ITEMS, 6), torch.nan))), {}, "not finite"),
    "tied": (lambda: tied(), {}, "which needs it whole"),
    "include": (Clicks, {"include": "user"}, "include 'user' matches no table"),
    "weight": (Reads, {}, "no 'weight'"),
}


def tied() -> Clicks:
    model = Clicks()
    model.out = nn.Linear(6, ITEMS, bias=False)
    model.out.weight = trained(model.item).weight
    return model


@pytest.mark.parametrize("case", list(WRONG))
def test_what_is_wrong_is_named_and_nothing_changes(case: str) -> None:
    make, options, message = WRONG[case]
    model: Any = make()
    before = dict(model.named_modules())
    kind = AttributeError if case == "weight" else ValueError
    with pytest.raises(kind, match=message):
        rectab.compress_(model, **{"budget": "25%", "batches": [rows()], **options})
    assert dict(model.named_modules()) == before
    assert not any(module._forward_hooks for module in model.modules())


def test_swap_points_here_and_a_compressed_model_says_what_it_is() -> None:
    with pytest.raises(ValueError, match="compress_"):
        rectab.swap_(Clicks(), "quantized")
    model = Clicks()
    rectab.compress_(model, "25%", batches=[rows()], verbose=False)
    with pytest.raises(ValueError, match="swapped already"):
        rectab.compress_(model, "10%", batches=[rows()])
    with pytest.raises(RuntimeError, match="no initial values"):
        model.item.reset_parameters()


def test_sorted_rows_are_read_as_the_array_that_they_stand_for() -> None:
    weight = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).half()
    order = np.random.default_rng(0).permutation(50)
    rows, wanted = SortedRows(weight, order), weight.float().numpy()[order]
    assert rows.shape == wanted.shape
    np.testing.assert_array_equal(np.asarray(rows), wanted)
    np.testing.assert_array_equal(np.asarray(rows[7:20][2:5]), wanted[9:12])
    np.testing.assert_array_equal(rows[np.array([4, 4, 0])], wanted[[4, 4, 0]])
    assert isinstance(rows[7:20], SortedRows)
    assert len(rows[7:20]) == 13
