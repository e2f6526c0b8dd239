"""Trained weights into swapped tables, and checkpoints both ways."""

from __future__ import annotations

import copy

import pytest
import torch
from test_swap_torch import SWAPPABLE, Model, batch, swap, train
from torch import nn

from rectab.schema import Vocabulary
from rectab.tables import EmbeddingTable, TableOptions, plan
from rectab.tables.fit import FitTarget, fit_table, reconstruction_error

SIZE, DIM = 400, 8


def structured_vectors(size: int = SIZE) -> torch.Tensor:
    return torch.randn(size, DIM, generator=torch.Generator().manual_seed(1))


def target(counts: torch.Tensor | None = None, vocabulary: int = 0, padding_idx: int | None = None) -> FitTarget:
    return FitTarget(vocabulary, structured_vectors(), padding_idx, counts)


def table_of(method: str, budget: str = "25%", gradient: str = "dense", **options) -> EmbeddingTable:
    counts = (1000 / torch.arange(1, SIZE + 1)).long().numpy()
    vocabularies = [Vocabulary(name, SIZE, counts=counts) for name in ("a", "b")]
    return plan(method, vocabularies, DIM, budget, options=TableOptions(gradient=gradient), **options).build()


@pytest.mark.parametrize("method", ["hashed", "unified"])
@pytest.mark.parametrize("weighted", [False, True])
def test_shared_rows_are_the_least_squares_solution(method: str, weighted: bool) -> None:
    table = table_of(method)
    counts = torch.linspace(1, 9, SIZE) if weighted else None
    targets = [target(counts), FitTarget(1, structured_vectors().flip(0) + 1, 3, counts)]
    fit_table(table, targets)
    # Every chunk of every id picks one row; with that design matrix, torch's own solver must find the same rows.
    store = table.store
    chunks = DIM // store.row_dim
    design, wanted, weights = _design(table, targets, chunks)
    read = design.any(0)
    root = weights.sqrt().unsqueeze(1)
    solution = torch.linalg.lstsq((design[:, read] * root).double(), (wanted * root).double()).solution
    torch.testing.assert_close(store.weight[read].detach().double(), solution, atol=1e-4, rtol=1e-4)


def _design(table: EmbeddingTable, targets: list[FitTarget], chunks: int) -> tuple[torch.Tensor, ...]:
    rows, wanted, weights = [], [], []
    for t in targets:
        for ids, vectors, weight in t.blocks():
            address = table.address(ids, torch.tensor(t.vocabulary)).reshape(ids.numel(), -1)
            rows.append(address.flatten())
            wanted.append(vectors.reshape(-1, DIM // chunks))
            weights.append(weight.repeat_interleave(chunks))
    design = nn.functional.one_hot(torch.cat(rows), table.store.num_rows).float()
    return design, torch.cat(wanted), torch.cat(weights)


@pytest.mark.parametrize("method", SWAPPABLE)
def test_trained_start_is_nearer_than_a_fresh_one(method: str) -> None:
    table = table_of(method, "50%")
    targets = [target(), target(vocabulary=1)]
    fresh = reconstruction_error(table, targets[0])
    fit_table(table, targets)
    assert reconstruction_error(table, targets[0]) < (0.98 if method == "dhe" else 0.95) * min(fresh, 1.0)


def test_counts_make_hot_ids_nearer() -> None:
    counts = torch.cat([torch.full((20,), 1e4), torch.ones(SIZE - 20)])
    errors = {}
    for name, given in (("uniform", None), ("counts", counts)):
        table = table_of("hashed", "10%")
        fit_table(table, [target(given)])
        got = table(torch.arange(20), 0).detach()
        errors[name] = (got - structured_vectors()[:20]).square().sum().item()
    assert errors["counts"] < 0.6 * errors["uniform"]


def test_methods_without_a_closed_form_are_fitted_by_descent() -> None:
    from rectab.tables import fit

    for gradient in ("dense", "row", "sparse"):
        closed, descended = table_of("unified"), table_of("unified", gradient=gradient)
        targets = [target(), target(vocabulary=1)]
        fit_table(closed, targets)
        fit._descend(descended, targets, 0, passes=120, batch=200)
        best = reconstruction_error(closed, targets[0])
        assert best <= reconstruction_error(descended, targets[0]) + 1e-3
        assert reconstruction_error(descended, targets[0]) == pytest.approx(best, rel=0.1)


def test_padding_takes_no_part_in_the_fit() -> None:
    table = table_of("hashed", "2%")
    vectors = structured_vectors()
    vectors[5] = 1e6
    fit_table(table, [FitTarget(0, vectors, 5, None)])
    assert table.store.weight.abs().max() < 100


def test_trained_init_carries_over_the_models_outputs() -> None:
    model = Model()
    train(model, torch.optim.Adam(model.parameters(), lr=0.02), 60)
    labels = (batch(256)[0][:, 0] % 2).float()

    def loss(candidate: nn.Module) -> float:
        return nn.functional.binary_cross_entropy_with_logits(candidate(*batch(256)), labels).item()

    fresh, trained = copy.deepcopy(model), copy.deepcopy(model)
    swap(fresh, "unified", "50%")
    result = swap(trained, "unified", "50%", init="trained")
    assert loss(model) < loss(trained) < loss(fresh)
    assert 0 < max(result.reconstruction.values()) < 1
    assert "reconstruction error" in str(result)


def test_host_checkpoint_round_trip_through_a_full_table() -> None:
    host = Model(std=0.3)
    checkpoint = copy.deepcopy(host.state_dict())
    model = Model(std=0.3)
    nn.init.normal_(model.out.weight)
    result = swap(model, "full", None)
    result.load_host(checkpoint)
    torch.testing.assert_close(model(*batch()), host(*batch()))
    back = result.to_host()
    assert back.keys() == checkpoint.keys()
    for key, tensor in checkpoint.items():
        torch.testing.assert_close(back[key], tensor)
    fresh = Model()
    fresh.load_state_dict(back)
    torch.testing.assert_close(fresh(*batch()), host(*batch()))


@pytest.mark.parametrize("method", ["hashed", "unified"])
def test_materialised_checkpoint_gives_the_swapped_models_outputs(method: str) -> None:
    model = Model()
    result = swap(model, method)
    train(model, torch.optim.Adam(model.parameters(), lr=0.02), 5)
    host = Model()
    host.load_state_dict(result.to_host())
    torch.testing.assert_close(host(*batch()), model(*batch()))
    earlier = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    train(model, torch.optim.Adam(model.parameters(), lr=0.02), 5)
    host_earlier = Model()
    host_earlier.load_state_dict(result.to_host(earlier))
    torch.testing.assert_close(host_earlier(*batch()), host(*batch()))


def test_scaled_views_survive_checkpoints() -> None:
    def make() -> nn.ModuleDict:
        tables = nn.ModuleDict({"a": nn.Embedding(3000, 8), "b": nn.Embedding(2000, 8)})
        nn.init.normal_(tables["a"].weight, std=0.1)
        nn.init.normal_(tables["b"].weight, std=0.2)
        return tables

    model = make()
    result = swap(model)
    assert (model["b"].scale / model["a"].scale).item() == pytest.approx(2.0, rel=0.05)
    ids = torch.arange(2000)
    host = make()
    host.load_state_dict(result.to_host())
    torch.testing.assert_close(host["b"](ids), model["b"](ids))
    again = make()
    again_result = swap(again)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again["b"](ids), model["b"](ids))
    again_result.load_host(result.to_host())
    torch.testing.assert_close(again["b"](ids), model["b"](ids), atol=1e-5, rtol=1e-4)


def test_a_host_checkpoint_is_not_loaded_by_mistake() -> None:
    model = Model()
    result = swap(model)
    for strict in (True, False):
        with pytest.raises(RuntimeError, match="load_host"):
            model.load_state_dict(Model().state_dict(), strict=strict)
    with pytest.raises(KeyError, match="not one of the unswapped model"):
        result.load_host(model.state_dict())
    wrong = {**Model().state_dict(), "wide.weight": torch.zeros(2, 1)}
    with pytest.raises(ValueError, match=r"wide\.weight is \(2, 1\)"):
        result.load_host(wrong)
