"""torchrec's collections and DLRM with swapped tables: called by keyword, with weights, learning in a plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rectab

pytest.importorskip("torchrec")
pytestmark = pytest.mark.host

from torchrec import (  # noqa: E402
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    KeyedJaggedTensor,
    PoolingType,
)
from torchrec.inference.modules import quantize_embeddings  # noqa: E402
from torchrec.models.dlrm import DLRM  # noqa: E402
from torchrec.modules.embedding_configs import DataType  # noqa: E402

from rectab.swap.torchrec import shardable  # noqa: E402

SIZES = {"user": 3000, "item": 2000, "city": 40}


def bags(weighted: bool = False, pooling: PoolingType = PoolingType.SUM) -> EmbeddingBagCollection:
    """The item table is read by two features."""
    torch.manual_seed(0)
    features = {"user": ["user"], "item": ["item", "history"], "city": ["city"]}
    configs = [
        EmbeddingBagConfig(name=f"t_{n}", embedding_dim=8, num_embeddings=s, feature_names=features[n], pooling=pooling)
        for n, s in SIZES.items()
    ]
    return EmbeddingBagCollection(tables=configs, is_weighted=weighted)


def features(size: int = 128, weighted: bool = False) -> KeyedJaggedTensor:
    """user, item, history, city: bags of 0 to 3 ids (user has one)."""
    generator = torch.Generator().manual_seed(0)
    keys = ["user", "item", "history", "city"]
    lengths = torch.randint(0, 4, (4, size), generator=generator)
    lengths[0] = 1
    vocabularies = [SIZES[key] if key != "history" else SIZES["item"] for key in keys]
    values = [
        torch.randint(n, (int(count.sum()),), generator=generator)
        for n, count in zip(vocabularies, lengths, strict=True)
    ]
    values = torch.cat(values)
    weights = torch.rand(values.numel(), generator=generator) if weighted else None
    return KeyedJaggedTensor(keys=keys, values=values, lengths=lengths.flatten(), weights=weights)


@pytest.mark.parametrize("weighted", [False, True])
def test_full_table_from_trained_weights_gives_the_same_bags(weighted: bool) -> None:
    stock, swapped = bags(weighted), bags(weighted)
    rectab.swap_(swapped, "full", None, init="trained", verbose=False)
    before, after = stock(features(weighted=weighted)), swapped(features(weighted=weighted))
    assert after.keys() == before.keys()
    torch.testing.assert_close(after.values(), before.values())


def test_mean_pooling_and_empty_bags() -> None:
    stock, swapped = bags(pooling=PoolingType.MEAN), bags(pooling=PoolingType.MEAN)
    rectab.swap_(swapped, "full", None, init="trained", verbose=False)
    torch.testing.assert_close(swapped(features()).values(), stock(features()).values())


def test_weighted_means_work_where_torchrec_refuses_them() -> None:
    swapped = bags(weighted=True, pooling=PoolingType.MEAN)
    with pytest.raises(NotImplementedError):
        bags(weighted=True, pooling=PoolingType.MEAN)(features(weighted=True))
    rectab.swap_(swapped, verbose=False)
    assert torch.isfinite(swapped(features(weighted=True)).values()).all()


def test_sequence_collection() -> None:
    def collection() -> EmbeddingCollection:
        torch.manual_seed(0)
        return EmbeddingCollection(
            tables=[
                EmbeddingConfig(name="t_item", embedding_dim=8, num_embeddings=2000, feature_names=["item", "history"]),
                EmbeddingConfig(name="t_city", embedding_dim=8, num_embeddings=40, feature_names=["city"]),
            ]
        )

    stock, swapped = collection(), collection()
    rectab.swap_(swapped, "full", None, init="trained", verbose=False)
    before, after = stock(features()), swapped(features())
    assert before.keys() == after.keys()
    for key in before:
        torch.testing.assert_close(after[key].values(), before[key].values())


def test_init_scale_follows_each_table() -> None:
    """torchrec draws from U(±1 / sqrt(num_embeddings)): a shared store must not give every table one scale."""
    stock, swapped = bags(), bags()
    result = rectab.swap_(swapped, "unified", "50%", verbose=False)
    rows = result.tables[0].store.weight.std().item()
    for name, size in SIZES.items():
        view = swapped.embedding_bags[f"t_{name}"]
        std = stock.embedding_bags[f"t_{name}"].weight.std().item()
        expected = min(max(std, rows / 4), rows * 4)  # shared rows: at most 4 times off, for the learning rate
        assert view.materialize().std().item() == pytest.approx(expected, rel=0.25 if size < 100 else 0.1)
    assert len(result.plan.tables) == 1, "what shares rows never depends on what initial weights happen to be"


@pytest.mark.parametrize("method", ["hashed", "unified"])
@pytest.mark.parametrize("weighted", [False, True])
def test_dlrm_learns(method: str, weighted: bool) -> None:
    torch.manual_seed(0)
    model = DLRM(bags(weighted), dense_in_features=4, dense_arch_layer_sizes=[16, 8], over_arch_layer_sizes=[16, 1])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    result = rectab.swap_(model, method, "25%", optimizer=optimizer, verbose=False)
    assert result.bytes_after <= 0.25 * result.bytes_before
    sparse, dense = features(weighted=weighted), torch.randn(128, 4, generator=torch.Generator().manual_seed(1))
    labels = (sparse["user"].values() % 2).float()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(dense, sparse).squeeze(1), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_reset_parameters_of_the_collection_is_refused_and_not_a_silent_no_op() -> None:
    swapped = bags()
    rectab.swap_(swapped, verbose=False)
    with pytest.raises(AttributeError, match="no 'weight'"):
        swapped.reset_parameters()


def test_checkpoints_both_ways() -> None:
    stock, swapped = bags(), bags()
    nn.init.normal_(stock.embedding_bags["t_item"].weight)
    result = rectab.swap_(swapped, "full", None, verbose=False)
    result.load_host(stock.state_dict())
    torch.testing.assert_close(swapped(features()).values(), stock(features()).values())
    fresh = bags()
    fresh.load_state_dict(result.to_host())
    torch.testing.assert_close(fresh(features()).values(), stock(features()).values())


def test_torchrecs_own_tools_leave_a_swapped_collection_alone(tmp_path: Path) -> None:
    model = nn.Sequential(bags())
    result = rectab.swap_(model, "unified", "25%", verbose=False)
    before = model(features())
    assert isinstance(model[0], EmbeddingBagCollection)
    quantised = quantize_embeddings(model, dtype=torch.qint8, inplace=False)
    assert torch.equal(quantised(features()).values(), before.values())
    torch.save(model, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(again(features()).values(), before.values())
    result.undo()
    assert type(model[0]) is EmbeddingBagCollection


def test_shardable_keeps_what_the_collection_says() -> None:
    def config(size: int, **options: Any) -> EmbeddingBagConfig:
        return EmbeddingBagConfig(
            name=f"t{size}", embedding_dim=8, num_embeddings=size, feature_names=[f"f{size}"], **options
        )

    half = EmbeddingBagCollection(tables=[config(1000, data_type=DataType.FP16), config(500, data_type=DataType.FP16)])
    for method, budget in (("hashed", "50%"), ("full", None)):
        rows = shardable(half, method, budget).rows.state_dict().values()
        assert {weight.dtype for weight in rows} == {torch.float16}
        assert budget is None or 0.95 * 12_000 <= sum(w.numel() * 2 for w in rows) <= 12_000
    mixed = EmbeddingBagCollection(tables=[config(10_000), config(20, init_fn=lambda w: nn.init.constant_(w, 5.0))])
    big, small = shardable(mixed, "full", None).rows.state_dict().values()
    assert big.std().item() == pytest.approx(mixed.embedding_bags["t10000"].weight.std().item(), rel=0.05)
    assert (small == 5.0).all()
    with pytest.raises(ValueError, match="t20' has an init_fn whose values lie around 5"):
        shardable(mixed, "unified", "50%")
    with pytest.raises(ValueError, match="collection of its own"):
        shardable(EmbeddingBagCollection(tables=[config(10), config(20, data_type=DataType.FP16)]), "full", None)


def test_shardable_gives_ids_where_the_collection_does() -> None:
    tables = [EmbeddingConfig(name="t", embedding_dim=8, num_embeddings=100, feature_names=["a", "b"])]
    host = EmbeddingCollection(tables=tables, need_indices=True)
    batch = KeyedJaggedTensor.from_lengths_sync(
        keys=["b", "a"], values=torch.arange(5), lengths=torch.tensor([2, 0, 1, 2])
    )
    expected, got = host(batch), shardable(host, "full", None)(batch)
    for name in ("a", "b"):
        assert torch.equal(got[name].weights(), expected[name].weights())
        assert torch.equal(got[name].lengths(), expected[name].lengths())
