"""``compress_`` on models of every kind: what they return, how they are called, and what tables they have."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from compress_helpers import ITEMS, TAGS, Clicks, correlation, rows, trained
from torch import Tensor, nn

import rectab

COUNTS = {"item": np.arange(1, ITEMS + 1), "tags": np.arange(1, TAGS + 1)}


def compressed(model: nn.Module, batches: Any, budget: str | int = "25%", **options: Any) -> rectab.CompressResult:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return rectab.compress_(model, budget, batches=batches, verbose=False, **options)


@pytest.mark.parametrize(
    "ending",
    [
        lambda logits: logits,
        lambda logits: logits.unsqueeze(1),
        torch.sigmoid,
        lambda logits: {"y_pred": torch.sigmoid(logits)},
        lambda logits: (logits, logits.argsort()),
    ],
    ids=["logits", "column", "sigmoid", "dict", "tuple"],
)
def test_whatever_a_model_returns_its_logits_are_what_counts(ending: Any) -> None:
    reference = compressed(Clicks().eval(), [rows()])
    result = compressed(Clicks(ending).eval(), [rows()])
    assert result.loss_predicted == pytest.approx(reference.loss_predicted, abs=1e-4)
    assert reference.loss_predicted is not None
    assert 0 < reference.loss_predicted < 0.1
    for name in ("item", "tags"):
        same = [r.model.get_submodule(name).materialize() for r in (reference, result)]
        assert correlation(*same) > 0.999


def test_probabilities_that_look_like_logits_are_told_apart_when_said() -> None:
    few = tuple(part[:3] for part in rows())
    model = Clicks(lambda logits: torch.sigmoid(logits)).eval()
    assert compressed(model, [few], outputs="probabilities").loss_predicted is not None
    with pytest.raises(ValueError, match="numbers outside"):
        compressed(Clicks(), [rows()], outputs="probabilities")
    with pytest.raises(ValueError, match="'logits', 'probabilities' or None"):
        compressed(Clicks(), [rows()], outputs="odds")


def test_several_outputs_a_row_all_count_and_no_auc_is_foretold() -> None:
    class Tasks(Clicks):
        def __init__(self) -> None:
            super().__init__()
            self.like = nn.Linear(4, 1)

        def forward(self, item: Tensor, tags: Tensor) -> Tensor:
            return torch.stack([self.top.weight[0, :6] @ self.item(item).T, self.like(self.tags(tags))[:, 0]], 1)

    model = Tasks().eval()
    before = model(*rows())
    result = compressed(model, [rows()])
    assert result.loss_predicted is None
    assert min(correlation(before[:, task], model(*rows())[:, task]) for task in (0, 1)) > 0.8


def test_a_loss_stands_for_outputs_that_are_no_logits() -> None:
    labels = (rows()[0] % 2).float()
    model = Clicks().eval()
    before = model(*rows())
    bce = nn.functional.binary_cross_entropy_with_logits
    result = compressed(
        model,
        [(*rows(), labels)],
        forward=lambda model, batch: {"a": model(*batch[:2]), "b": model(*batch[:2])},
        loss=lambda outputs, batch: bce(outputs["a"], batch[2]),
    )
    assert result.loss_predicted is None
    assert correlation(before, model(*rows())) > 0.8


def test_batches_are_tuples_dicts_single_tensors_or_whatever_forward_takes() -> None:
    item, tags = rows()
    reference = compressed(Clicks().eval(), [(item, tags)]).loss_predicted
    assert compressed(Clicks().eval(), [{"item": item, "tags": tags}]).loss_predicted == reference
    assert compressed(Clicks().eval(), ([item, tags] for _ in range(1))).loss_predicted == reference
    halves = [(item[:200], tags[:200]), {"tags": tags[200:], "item": item[200:]}]
    assert compressed(Clicks().eval(), halves).loss_predicted == pytest.approx(reference, abs=5e-3)

    class Features(Clicks):  # as FuxiCTR's: one dict, with labels
        def forward(self, inputs: dict[str, Tensor]) -> Any:
            return super().forward(inputs["item"], inputs["tags"])

    features = {"item": item, "tags": tags, "label": item % 2}
    assert compressed(Features().eval(), [features]).loss_predicted == reference
    column = nn.Sequential(trained(nn.Embedding(ITEMS, 6)), nn.Linear(6, 1))
    assert compressed(column, [item]).loss_predicted is not None


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("padding", [None, 2])
def test_bags_with_offsets_and_padding(mode: str, last: bool, padding: int | None) -> None:
    model = nn.ModuleDict(
        {"bag": trained(nn.EmbeddingBag(TAGS, 4, mode=mode, include_last_offset=last, padding_idx=padding))}
    )
    values = rows()[1].flatten()
    offsets = torch.tensor([0, 5, 5, 40, 300] + ([len(values)] if last else []))

    def forward(model: nn.Module, batch: Any) -> Tensor:
        return model["bag"](*batch).sum(1)

    before = model["bag"](values, offsets)
    compressed(model, [(values, offsets)], "60%", forward=forward)
    after = model["bag"](values, offsets)
    assert after.shape == before.shape
    assert not after[1].any()
    assert correlation(before, after) > 0.95


def test_weights_of_samples_and_two_dimensional_bags() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = trained(nn.EmbeddingBag(TAGS, 4, mode="sum"))

        def forward(self, tags: Tensor, weights: Tensor) -> Tensor:
            return self.bag(tags, per_sample_weights=weights).sum(1)

    tags = rows()[1]
    weights = torch.where(tags < 35, 5.0, 0.01)  # the output hardly moves with the others
    model = Weighted()
    full, before = model.bag.weight.detach().clone(), model(tags, weights)
    compressed(model, [(tags, weights)], "60%")
    assert correlation(before, model(tags, weights)) > 0.9
    assert correlation(full, model.bag.materialize()) > 0.9


def test_what_trains_tables_does_not_matter() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sparse, self.narrow = trained(nn.Embedding(ITEMS, 6, sparse=True)), trained(nn.Embedding(ITEMS, 1))
            self.wide, self.frozen = trained(nn.Embedding(TAGS, 24)), trained(nn.Embedding(TAGS, 3))
            self.frozen.requires_grad_(False)

        def forward(self, item: Tensor, tags: Tensor) -> Tensor:
            tag = tags[:, 0]
            parts = [self.sparse(item), self.narrow(item), self.wide(tag), self.frozen(tag)]
            return sum(part.sum(1) for part in parts)

    model = Several()
    before = model(*rows())
    result = compressed(model, [rows()])
    assert list(result.tables) == ["sparse", "narrow", "wide", "frozen"]
    assert result.bytes <= 0.25 * result.bytes_before
    assert correlation(before, model(*rows())) > 0.9
    served = Several().requires_grad_(False).eval()
    compressed(served, [rows()])
    assert not served.training


def test_shared_weights_are_held_and_saved_once() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.target = trained(nn.Embedding(ITEMS, 6, padding_idx=0))
            self.history = nn.EmbeddingBag(ITEMS, 6, mode="mean", padding_idx=0)
            self.history.weight = self.target.weight
            self.alias = self.target

        def forward(self, item: Tensor, past: Tensor) -> Tensor:
            return (self.alias(item) * self.history(past)).sum(1)

    model = Shared()
    item, past = rows()
    before, weight = model(item, past), model.target.weight
    result = compressed(model, [(item, past)], counts={"target": COUNTS["item"], "history": COUNTS["item"]})
    assert list(result.tables) == ["target"]
    assert result.bytes_before == weight.numel() * 4
    assert model.alias is model.target
    assert model.history.table is model.target.table
    assert {key.split(".")[0] for key in model.state_dict()} == {"target"}
    assert correlation(before, model(item, past)) > 0.8
    result.undo()
    assert model.history.weight is model.alias.weight is weight
    assert torch.equal(model(item, past), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_another_precision(dtype: torch.dtype) -> None:
    model = Clicks().to(dtype).eval()
    before = model(*rows())
    result = compressed(model, [rows()], "50%")
    assert result.bytes_before == (ITEMS * 6 + TAGS * 4) * dtype.itemsize
    after = model(*rows())
    assert after.dtype == dtype
    assert correlation(before, after) > 0.9


def test_a_table_that_no_batch_reaches_is_named_and_kept_apart() -> None:
    class Rarely(Clicks):
        def __init__(self) -> None:
            super().__init__()
            self.cold = trained(nn.Embedding(ITEMS, 6), 5)

        def forward(self, item: Tensor, tags: Tensor, cold: Tensor | None = None) -> Tensor:
            known = super().forward(item, tags)
            return known if cold is None else known + self.cold(cold).sum(1)

    model = Rarely().eval()
    full = model.cold.weight.detach().clone()
    with pytest.warns(UserWarning, match=r"never look up \['cold'\]"):
        result = rectab.compress_(model, "40%", batches=[rows()], verbose=False)
    assert result.loss_predicted is not None
    assert correlation(full, model.cold.materialize()) > 0.8
    elsewhere = Rarely().eval()
    compressed(elsewhere, [rows()], exclude="cold")
    assert isinstance(elsewhere.cold, nn.Embedding)


def test_without_batches_it_works_from_norms_and_says_what_that_costs() -> None:
    model = Clicks().eval()
    full = model.item.weight.detach().clone()
    with pytest.warns(UserWarning, match=r"no gradients.*without counts all ids of \['tags'\] weigh alike.*more AUC"):
        result = rectab.compress_(model, "12%", counts={"item": torch.from_numpy(COUNTS["item"] ** 3)}, verbose=False)
    assert result.loss_predicted is None
    error = (model.item.materialize() - full).square().mean(1)
    assert error[600:].mean() < error[1:300].mean() / 2


def test_batches_weigh_frequent_ids_wherever_they_are() -> None:
    model = Clicks().eval()
    full = model.item.weight.detach().clone()
    compressed(model, [rows(5000)], "12%")
    error = (model.item.materialize() - full).square().mean(1)
    assert error[880:].mean() < error[1:500].mean() / 2


def test_optimizers_let_go_of_the_tables_and_get_them_back() -> None:
    model = Clicks()
    optimizer = torch.optim.Adam(model.parameters())
    model(*rows()).sum().backward()
    optimizer.step()
    before = [id(p) for p in optimizer.param_groups[0]["params"]]
    result = compressed(model.eval(), [rows()], optimizer=optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.top.parameters()]
    result.undo()
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == before
    assert len(optimizer.state) == len(before)
    with pytest.raises(RuntimeError, match="nothing to undo"):
        result.undo()
    result = compressed(model, [rows()])
    result.discard_originals()
    with pytest.raises(RuntimeError, match="nothing to undo"):
        result.undo()


def test_ids_in_order_of_their_counts_need_no_partition() -> None:
    falling = {"item": (5000 / np.arange(1, ITEMS + 1)).astype(np.int64), "tags": np.ones(TAGS, np.int64)}
    model = Clicks().eval()
    full = model.item.weight.detach().clone()
    result = compressed(model, [rows()], "12%", counts=falling)
    table = result.tables["item"]
    assert len(table.config.first_ids) > 1
    assert table.config.in_order
    assert not any("partition" in name for name in model.state_dict())
    error = (model.item.materialize() - full).square().mean(1)
    assert error[1:20].mean() < error[500:].mean()
    fresh = Clicks().eval()
    rectab.load_compressed_(fresh, model.state_dict(), verbose=False)
    assert torch.equal(fresh(*rows()), model(*rows()))
    other = Clicks().eval()
    shuffled = compressed(other, [rows()], "30%", counts=falling | {"item": falling["item"][::-1].copy()})
    assert not shuffled.tables["item"].config.in_order
    assert any("item.table.partition" in name for name in other.state_dict())
