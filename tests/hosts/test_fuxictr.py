"""FuxiCTR's DCNv2 and DIN with swapped tables, trained by FuxiCTR's own ``fit``."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

import rectab
from rectab.optim import RowAdam

pytest.importorskip("fuxictr")
pytestmark = pytest.mark.host

from fuxictr.features import FeatureMap  # noqa: E402

USERS, ITEMS, CATEGORIES, LENGTH = 800, 1200, 30, 6


def feature_map(folder: Path) -> FeatureMap:
    item = {"type": "categorical", "source": "item", "padding_idx": 0}
    features = FeatureMap("tiny", str(folder))
    features.features = OrderedDict(
        item_id={**item, "vocab_size": ITEMS},
        category={**item, "vocab_size": CATEGORIES},
        user={"type": "categorical", "source": "user", "vocab_size": USERS},
        liked={
            "type": "sequence",
            "source": "user",
            "vocab_size": ITEMS,
            "padding_idx": 0,
            "max_len": LENGTH,
            "share_embedding": "item_id",
            "feature_encoder": "layers.MaskedAveragePooling()",
        },
    )
    features.labels = ["click"]
    features.num_fields = 4
    features.default_emb_dim = 8
    return features


def model_of(name: str, folder: Path, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    (folder / "tiny").mkdir(exist_ok=True)  # FuxiCTR writes its checkpoint there and does not make the folder
    module = importlib.import_module(f"model_zoo.LongCTR.{name}.{name}")
    shared = {"metrics": ["AUC", "logloss"], "model_root": str(folder), "optimizer": "adam", "verbose": 0}
    shared |= {"loss": "binary_crossentropy", "task": "binary_classification", "embedding_dim": 8}
    shared |= {"learning_rate": 0.01, **options}
    units = {"DIN": {"dnn_hidden_units": [32]}, "DCNv2": {"parallel_dnn_hidden_units": [32]}}[name]
    return getattr(module, name)(feature_map(folder), **units, **shared)


def batches(count: int = 8, size: int = 64) -> list:
    """FuxiCTR batches: (features, item features of history and target laid end to end, mask)."""
    generator = torch.Generator().manual_seed(0)

    def ids(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(1, high, shape, generator=generator)

    made = []
    for _ in range(count):
        history = ids(ITEMS, size, LENGTH)
        history[:, : LENGTH // 2] *= torch.rand(size, 1, generator=generator) < 0.5
        items = torch.cat([history, ids(ITEMS, size, 1)], 1)
        user = ids(USERS, size)
        features = {"user": user, "liked": history, "click": (user % 2).float()}
        categories = torch.where(items == 0, 0, items % (CATEGORIES - 1) + 1)
        made.append((features, {"item_id": items.flatten(), "category": categories.flatten()}, (history != 0).float()))
    return made


def fit(model: torch.nn.Module, epochs: int = 6) -> list[float]:
    """The host's own loop; the loss before each epoch and at the end."""
    losses = []
    for _ in range(epochs):
        losses.append(model.evaluate(batches(), metrics=["logloss"])["logloss"])
        model.fit(batches(), epochs=1, validation_data=batches(1))
    return [*losses, model.evaluate(batches(), metrics=["logloss"])["logloss"]]


@pytest.mark.parametrize("name", ["DCNv2", "DIN"])
@pytest.mark.parametrize("method", ["full", "hashed", "unified"])
def test_model_learns_in_its_own_loop(name: str, method: str, tmp_path: Path) -> None:
    model = model_of(name, tmp_path, embedding_regularizer=1e-8)
    result = rectab.swap_(model, method, None if method == "full" else "25%", verbose=False)
    layers = model.embedding_layer.embedding_layer.embedding_layers
    assert layers["liked"] is layers["item_id"], "shared features stay one module"
    if method != "full":
        assert result.bytes_after <= 0.25 * result.bytes_before
    losses = fit(model)
    assert losses[-1] < 0.7 * losses[0]


def test_optimizer_built_in_the_constructor_trains_the_new_table(tmp_path: Path) -> None:
    model = model_of("DCNv2", tmp_path)
    old = {id(p) for p in model.embedding_layer.parameters()}
    rectab.swap_(model, verbose=False)
    held = {id(p) for group in model.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert not held & old
    model.compile("adam", "binary_crossentropy", 0.01)
    assert fit(model, 3)[-1] < 0.69


def test_row_optimizer_in_the_hosts_loop(tmp_path: Path) -> None:
    model = model_of("DIN", tmp_path)
    result = rectab.swap_(model, gradient="row", verbose=False)
    result.step_with(model.optimizer, RowAdam(result.row_stores(), lr=0.01))
    losses = fit(model)
    assert losses[-1] < 0.7 * losses[0]
    with pytest.raises(ValueError, match="embedding_regularizer"):
        rectab.swap_(model_of("DIN", tmp_path, embedding_regularizer=1e-5), gradient="row")


def test_padding_stays_zero_and_penalty_is_on_the_shared_rows(tmp_path: Path) -> None:
    model = model_of("DCNv2", tmp_path, embedding_regularizer=0.5)
    result = rectab.swap_(model, verbose=False)
    layers = model.embedding_layer.embedding_layer.embedding_layers
    fit(model, 1)
    assert torch.count_nonzero(layers["liked"](torch.zeros(2, 3, dtype=torch.int64))) == 0
    expected = sum(0.25 * p.square().sum() for table in result.tables for p in table.parameters())
    torch.testing.assert_close(model.regularization_loss(), expected)


def test_trained_checkpoint_goes_in_and_out(tmp_path: Path) -> None:
    host = model_of("DIN", tmp_path)
    fit(host, 3)
    predicted = host.predict(batches())
    model = model_of("DIN", tmp_path)
    result = rectab.swap_(model, "full", None, verbose=False)
    result.load_host(host.state_dict())
    assert abs(model.predict(batches()) - predicted).max() < 1e-5
    again = model_of("DIN", tmp_path)
    again.load_state_dict(result.to_host())
    assert abs(again.predict(batches()) - predicted).max() < 1e-5
    result.undo()
    assert len(model.embedding_layer.state_dict()) == len(host.embedding_layer.state_dict())
