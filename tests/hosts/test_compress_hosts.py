"""``compress_`` on trained models of hosts: one call, undo, a checkpoint, and the hosts' own tools afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rectab

pytestmark = pytest.mark.host


def near(before: Any, after: Any) -> float:
    flat = [
        np.asarray(values.detach() if isinstance(values, torch.Tensor) else values).ravel()
        for values in (before, after)
    ]
    return float(np.corrcoef(*flat)[0, 1])


def check(model: nn.Module, fresh: nn.Module, batches: list[Any], predict: Callable[[nn.Module], Any]) -> None:
    """Compressed, near the model; the same from its checkpoint in another one; undone, the model itself."""
    modules, before = dict(model.named_modules()), predict(model)
    kinds = {name: type(module) for name, module in modules.items()}
    result = rectab.compress_(model, "30%", batches=batches, verbose=False)
    assert 0.25 * result.bytes_before < result.bytes <= 0.3 * result.bytes_before
    after = predict(model)
    assert near(before, after) > 0.9
    assert result.loss_predicted is not None
    state = copy.deepcopy(model.state_dict())
    assert not any(key.endswith("weight") and "embed" in key for key in state)
    loaded = rectab.load_compressed_(fresh, state, verbose=False)
    assert loaded.bytes == result.bytes
    np.testing.assert_array_equal(np.asarray(predict(fresh)), np.asarray(after))
    loaded.undo()
    if any(name not in fresh.state_dict() for name, _ in fresh.named_buffers()):  # torchrec's DLRM
        with pytest.raises(ValueError, match="not part of checkpoints"):
            rectab.load_compressed_(copy.deepcopy(fresh).to("meta"), state)
    else:
        rectab.load_compressed_(fresh.to("meta"), state, verbose=False)
        np.testing.assert_array_equal(np.asarray(predict(fresh)), np.asarray(after))
    result.undo()
    assert dict(model.named_modules()) == modules
    assert {name: type(module) for name, module in model.named_modules()} == kinds
    np.testing.assert_array_equal(np.asarray(predict(model)), np.asarray(before))


SIZES = {"user": 3000, "item": 2000, "city": 40}
FEATURES = {"user": ["user"], "item": ["item", "history"], "city": ["city"]}


class TestTorchrec:
    """Collections, weighted and of sequences."""

    def bags(self, weighted: bool) -> nn.Module:
        torchrec = pytest.importorskip("torchrec")
        torch.manual_seed(0)
        configs = [
            torchrec.EmbeddingBagConfig(name=f"t_{n}", embedding_dim=8, num_embeddings=s, feature_names=FEATURES[n])
            for n, s in SIZES.items()
        ]
        return torchrec.EmbeddingBagCollection(tables=configs, is_weighted=weighted)

    def dlrm(self, weighted: bool) -> nn.Module:
        pytest.importorskip("torchrec")
        from torchrec.models.dlrm import DLRM

        bags = self.bags(weighted)
        return DLRM(bags, dense_in_features=4, dense_arch_layer_sizes=[16, 8], over_arch_layer_sizes=[16, 1])

    def features(self, weighted: bool, size: int = 256) -> Any:
        torchrec = pytest.importorskip("torchrec")
        generator = torch.Generator().manual_seed(0)
        keys = ["user", "item", "history", "city"]
        lengths = torch.randint(0, 4, (4, size), generator=generator)
        counts = [int(count.sum()) for count in lengths]
        sizes = [SIZES["item" if key == "history" else key] for key in keys]
        values = torch.cat([torch.randint(n, (c,), generator=generator) for n, c in zip(sizes, counts, strict=True)])
        weights = torch.rand(len(values), generator=generator) if weighted else None
        return torchrec.KeyedJaggedTensor(keys=keys, values=values, lengths=lengths.flatten(), weights=weights)

    @pytest.mark.parametrize("weighted", [False, True])
    def test_dlrm(self, weighted: bool) -> None:
        batch = (torch.randn(256, 4, generator=torch.Generator().manual_seed(1)), self.features(weighted))
        check(
            self.dlrm(weighted).eval(),
            self.dlrm(weighted).eval(),
            [batch],
            lambda model: model(*batch).detach(),
        )

    def test_a_collection_alone_and_torchrecs_own_tools(self, tmp_path: Path) -> None:
        bags, features = nn.Sequential(self.bags(False)), self.features(False)
        from torchrec import EmbeddingBagCollection
        from torchrec.inference.modules import quantize_embeddings

        before = bags(features).values().detach()
        told = {"batches": [features], "forward": lambda model, batch: model(batch).values()}
        result = rectab.compress_(bags, "30%", verbose=False, **told)
        assert result.loss_predicted is None  # 32 outputs a row
        after = bags(features).values()
        assert near(before, after) > 0.9
        assert isinstance(bags[0], EmbeddingBagCollection)
        quantised = quantize_embeddings(bags, dtype=torch.qint8, inplace=False)
        assert torch.equal(quantised(features).values(), after)
        torch.save(bags, tmp_path / "model.pt")
        again = torch.load(tmp_path / "model.pt", weights_only=False)
        assert torch.equal(again(features).values(), after)
        result.undo()
        assert type(bags[0]) is EmbeddingBagCollection

    def test_a_collection_of_sequences(self) -> None:
        torchrec = pytest.importorskip("torchrec")
        torch.manual_seed(0)
        configs = [
            torchrec.EmbeddingConfig(name=f"t_{n}", embedding_dim=8, num_embeddings=s, feature_names=FEATURES[n])
            for n, s in SIZES.items()
        ]
        model = torchrec.EmbeddingCollection(tables=configs)
        features = self.features(False)

        def forward(model: nn.Module, batch: Any) -> torch.Tensor:
            return torch.cat([part.values() for part in model(batch).values()]).sum(1)

        before = forward(model, features).detach()
        result = rectab.compress_(model, "30%", batches=[features], forward=forward, verbose=False)
        assert near(before, forward(model, features)) > 0.9
        result.undo()
        assert torch.equal(forward(model, features), before)


class TestDeepCTR:
    """Its linear part has tables of width 1; penalties and the optimizer hold parameters."""

    def deepfm(self) -> nn.Module:
        pytest.importorskip("deepctr_torch")
        from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat
        from deepctr_torch.models import DeepFM

        item = SparseFeat("hist_item", 2000, embedding_dim=8, embedding_name="item")
        columns = [
            SparseFeat("user", 3000, embedding_dim=8),
            SparseFeat("item", 2000, embedding_dim=8),
            DenseFeat("price", 1),
            VarLenSparseFeat(item, maxlen=5, length_name="seq_length"),
        ]
        model = DeepFM(columns, columns, dnn_hidden_units=(32,), l2_reg_embedding=1e-5)
        model.compile(torch.optim.Adam(model.parameters(), lr=0.01), "binary_crossentropy")
        return model

    def data(self) -> dict[str, np.ndarray]:
        random = np.random.default_rng(0)
        return {
            "user": random.integers(0, 3000, 512),
            "item": random.integers(1, 2000, 512),
            "price": random.random(512),
            "hist_item": random.integers(1, 2000, (512, 5)),
            "seq_length": random.integers(1, 6, 512),
        }

    def trained(self) -> tuple[nn.Module, list[torch.Tensor]]:
        model, data = self.deepfm(), self.data()
        model.fit(dict(data), (data["user"] % 2).astype("float32"), batch_size=64, epochs=3, verbose=0)
        columns = [data[name].reshape(512, -1) for name in model.feature_index]
        return model.eval(), list(torch.from_numpy(np.concatenate(columns, 1)).float().split(128))

    def test_deepfm(self) -> None:
        model, batches = self.trained()
        check(model, self.deepfm(), batches, lambda m: m.predict(self.data()))

    def test_penalties_and_the_optimizer_let_go_of_the_tables(self) -> None:
        model, batches = self.trained()
        weight, penalty = model.embedding_dict["item"].weight, model.get_regularization_loss().item()
        result = rectab.compress_(model, "30%", batches=batches, verbose=False)
        held = {id(p) for group in model.optim.param_groups for p in group["params"]}
        listed = [p for part, _, _ in model.regularization_weight for p in part]
        assert id(weight) not in held | {id(p[1] if isinstance(p, tuple) else p) for p in listed}
        assert model.get_regularization_loss().item() < penalty
        result.undo()
        assert model.get_regularization_loss().item() == pytest.approx(penalty)
        assert id(weight) in {id(p) for group in model.optim.param_groups for p in group["params"]}

    def test_exported(self) -> None:
        model, batches = self.trained()
        rectab.compress_(model, "30%", batches=batches, verbose=False)
        batch = torch.export.Dim("batch", min=2, max=4096)
        program = torch.export.export(model, (batches[0],), dynamic_shapes=({0: batch},))
        few = batches[1][:50]
        torch.testing.assert_close(program.module()(few), model(few))


class TestFuxiCTR:
    """DCNv2 and DIN of its model zoo, whose batches are tuples and whose item tables are shared."""

    @pytest.mark.parametrize("name", ["DCNv2", "DIN"])
    def test_models(self, name: str, tmp_path: Path) -> None:
        pytest.importorskip("fuxictr")
        from test_fuxictr import batches, fit, model_of

        model = model_of(name, tmp_path)
        fit(model, 2)
        optimizer = model.optimizer
        tables = {id(p) for p in model.embedding_layer.parameters()}
        check(model.eval(), model_of(name, tmp_path).eval(), batches(), lambda m: m.predict(batches()))
        rectab.compress_(model, "30%", batches=batches(), verbose=False)
        assert not tables & {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert set(model.evaluate(batches(), metrics=["AUC"])) == {"AUC"}
        zeros = torch.zeros(2, 3, dtype=torch.int64)
        layers = model.embedding_layer.embedding_layer.embedding_layers
        assert not layers["item_id"](zeros).any()
        assert layers["item_id"].table is layers["liked"].table
