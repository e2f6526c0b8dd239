"""DeepCTR-Torch's DeepFM and DIN with swapped tables, trained by DeepCTR-Torch's own ``fit``."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import rectab
from rectab.optim import RowAdam

pytest.importorskip("deepctr_torch")
pytestmark = pytest.mark.host

from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat  # noqa: E402
from deepctr_torch.models import DIN, DeepFM  # noqa: E402

USERS, ITEMS, ROWS = 3000, 2000, 512


def columns() -> list:
    return [
        SparseFeat("user", USERS, embedding_dim=8),
        SparseFeat("item", ITEMS, embedding_dim=8),
        DenseFeat("price", 1),
        VarLenSparseFeat(
            SparseFeat("hist_item", ITEMS, embedding_dim=8, embedding_name="item"), maxlen=5, length_name="seq_length"
        ),
    ]


def data() -> tuple[dict, np.ndarray]:
    random = np.random.default_rng(0)
    x = {
        "user": random.integers(0, USERS, ROWS),
        "item": random.integers(1, ITEMS, ROWS),
        "price": random.random(ROWS),
        "hist_item": random.integers(1, ITEMS, (ROWS, 5)),
        "seq_length": random.integers(1, 6, ROWS),
    }
    return x, (x["user"] % 2).astype("float32")


def deepfm(**options) -> DeepFM:
    model = DeepFM(columns(), columns(), dnn_hidden_units=(32,), **options)
    model.compile(torch.optim.Adam(model.parameters(), lr=0.01), "binary_crossentropy")
    return model


@pytest.mark.parametrize("method", ["full", "hashed", "unified"])
@pytest.mark.parametrize("gradient", ["dense", "row"])
def test_deepfm_learns_in_its_own_loop(method: str, gradient: str) -> None:
    model = deepfm()
    result = rectab.swap_(model, method, None if method == "full" else "25%", gradient=gradient, verbose=False)
    if gradient == "row":
        result.step_with(model.optim, RowAdam(result.row_stores(), lr=0.01))
    if method != "full":
        assert result.bytes_after <= 0.25 * result.bytes_before
    losses = model.fit(*data(), batch_size=64, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]


def test_linear_tables_of_width_one_count_in_the_budget() -> None:
    plan = rectab.plan_swap(deepfm(), budget="10%")
    assert plan.bytes_before == 4 * (8 + 1) * (USERS + ITEMS)
    assert {t.plan.embedding_dim for t in plan.tables} == {1, 8}
    assert plan.bytes_after <= plan.budget_bytes
    assert all(set(t.scales) == {1.0} for t in plan.tables)


def test_penalty_is_on_the_new_tables_and_on_nothing_stale() -> None:
    model = deepfm(l2_reg_embedding=1.0, l2_reg_linear=0.0)
    result = rectab.swap_(model, verbose=False)
    live = {id(p) for p in model.parameters()}
    penalised = [p for weights, _, _ in model.regularization_weight for p in weights]
    assert all(id(p[1] if isinstance(p, tuple) else p) in live for p in penalised)
    (table,) = [t for t in result.tables if t.embedding_dim == 8]
    expected = table.store.weight.square().sum()
    torch.testing.assert_close(model.get_regularization_loss().squeeze(), expected, rtol=1e-4, atol=1e-6)
    result.undo()
    stale = [p for weights, _, _ in model.regularization_weight for p in weights if isinstance(p, torch.Tensor)]
    assert any(p is model.embedding_dict["user"].weight for p in stale)


def test_trained_model_starts_where_it_was_and_undoes() -> None:
    model = deepfm()
    x, y = data()
    model.fit(x, y, batch_size=64, epochs=5, verbose=0)
    before = model.predict(dict(x))
    result = rectab.swap_(model, "full", None, init="trained", verbose=False)
    np.testing.assert_allclose(model.predict(dict(x)), before, atol=1e-5)
    result.undo()
    np.testing.assert_allclose(model.predict(dict(x)), before, atol=1e-6)
    result = rectab.swap_(model, "unified", "50%", init="trained", verbose=False)
    assert np.abs(model.predict(dict(x)) - before).mean() < 0.3
    host = deepfm()
    host.load_state_dict(result.to_host())
    np.testing.assert_allclose(host.predict(dict(x)), model.predict(dict(x)), atol=1e-5)


def test_din_shares_item_and_history() -> None:
    model = DIN(columns()[:3] + columns()[3:], ["item"], dnn_hidden_units=(16,), att_hidden_size=(8,))
    model.compile(torch.optim.Adam(model.parameters(), lr=0.01), "binary_crossentropy")
    rectab.swap_(model, verbose=False)
    losses = model.fit(*data(), batch_size=64, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
