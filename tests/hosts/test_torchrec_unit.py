"""What torchrec's own unit tests ask of its collections, asked of swapped ones.

The wheel of torchrec ships no tests, so these do what ``torchrec/modules/tests/test_embedding_modules.py`` does in its
repository; every case names the one it stands for. Beside a swapped collection stands the stock one, and both must say
the same of keys, shapes, offsets, lengths and indices. Not taken over: ``test_duplicate_config_name_fails`` (torchrec's
constructor, which a swap never calls).
"""

from __future__ import annotations

import copy
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
)
from torchrec.fx import symbolic_trace  # noqa: E402
from torchrec.models.dlrm import DLRM, SparseArch  # noqa: E402

METHODS = [("full", None), ("unified", "60%"), ("hashed", "60%"), ("qr", "80%"), ("dhe", "80%")]


def collection_of(kind: str, tables: list[tuple[int, list[str]]], **options: Any) -> nn.Module:
    """``tables``: width and features of each; of 40 ids."""
    config, module = {
        "bags": (EmbeddingBagConfig, EmbeddingBagCollection),
        "ids": (EmbeddingConfig, EmbeddingCollection),
    }[kind]
    configs = [
        config(name=f"t{number}", embedding_dim=width, num_embeddings=40, feature_names=features)
        for number, (width, features) in enumerate(tables, start=1)
    ]
    return module(tables=configs, **options)


def batch_of(keys: list[str], weighted: bool = False, device: str = "cpu") -> KeyedJaggedTensor:
    """Three rows a key, of two ids, none, and one."""
    count = len(keys)
    values = torch.arange(3 * count, device=device) % 40
    return KeyedJaggedTensor.from_lengths_sync(
        keys=keys,
        values=values,
        lengths=torch.tensor([2, 0, 1] * count, device=device),
        weights=torch.linspace(0.1, 0.9, 3 * count, device=device) if weighted else None,
    )


def swapped(collection: nn.Module, method: str, budget: str | None) -> nn.Module:
    """A copy of the collection, with other tables in it."""
    model = nn.Sequential(copy.deepcopy(collection))
    rectab.swap_(model, method, budget, verbose=False)
    return model[0]


BAGS = {
    "test_unweighted": ([(4, ["f1"]), (4, ["f2"])], ["f1", "f2"], False),
    "test_unweighted, widths that differ": ([(3, ["f1"]), (4, ["f2"])], ["f1", "f2"], False),
    "test_shared_tables": ([(4, ["f1", "f2"])], ["f1", "f2"], False),
    "test_shared_features": ([(3, ["f1"]), (4, ["f1"])], ["f1"], False),
    "test_weighted": ([(3, ["f1", "f3"]), (4, ["f2"])], ["f1", "f3", "f2"], True),
}


@pytest.mark.parametrize(("method", "budget"), METHODS)
@pytest.mark.parametrize("case", BAGS)
def test_bags(case: str, method: str, budget: str | None) -> None:
    tables, keys, weighted = BAGS[case]
    if (method == "unified" or method == "qr") and any(width % 2 for width, _ in tables) and budget:
        method, budget = "hashed", "60%"
    stock = collection_of("bags", tables, is_weighted=weighted)
    got, expected = swapped(stock, method, budget)(batch_of(keys, weighted)), stock(batch_of(keys, weighted))
    assert got.keys() == expected.keys()
    assert got.offset_per_key() == expected.offset_per_key()
    assert got.values().shape == expected.values().shape
    assert not got[got.keys()[0]][1].any(), "the bag without ids"
    if method == "full":
        exact = nn.Sequential(copy.deepcopy(stock))
        rectab.swap_(exact, "full", None, init="trained", verbose=False)
        torch.testing.assert_close(exact(batch_of(keys, weighted)).values(), expected.values())


def test_forward_with_meta_device() -> None:
    stock = collection_of("bags", [(3, ["f1", "f3"]), (4, ["f2"])], is_weighted=True, device=torch.device("meta"))
    keys = ["f1", "f3", "f2"]
    got = swapped(stock, "hashed", "60%")(batch_of(keys, True, "meta"))
    assert got.values().shape == (3, 10)
    assert got.keys() == keys
    assert got.offset_per_key() == [0, 3, 6, 10]
    assert got.values().device == torch.device("meta")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["bags", "ids"])
def test_fx(kind: str, weighted: bool) -> None:
    if kind == "ids" and weighted:
        return
    options = {"is_weighted": weighted} if kind == "bags" else {}
    collection = swapped(collection_of(kind, [(4, ["f1", "f3"]), (4, ["f2"])], **options), "unified", "60%")
    batch = batch_of(["f1", "f3", "f2"], weighted)
    traced, eager = symbolic_trace(collection)(batch), collection(batch)
    for key in ("f1", "f3", "f2"):
        got, expected = (found[key] if kind == "bags" else found[key].values() for found in (traced, eager))
        assert torch.equal(got, expected)


@pytest.mark.parametrize("kind", ["bags", "ids"])
def test_scripting_is_refused_and_says_what_to_do(kind: str) -> None:
    """``test_scripting``: the one thing of torchrec's that a swapped collection does not do."""
    collection = swapped(collection_of(kind, [(4, ["f1"])]), "unified", "60%")
    with pytest.raises(Exception, match=r"torch\.export"):
        torch.jit.script(collection)


@pytest.mark.parametrize("kind", ["bags", "ids"])
def test_device(kind: str) -> None:
    for device in ("meta", "cpu"):
        collection = swapped(collection_of(kind, [(4, ["f1"])], device=torch.device(device)), "unified", "60%")
        assert {p.device.type for p in collection.parameters()} == {device}
        assert torch.device(collection.device).type == device


@pytest.mark.parametrize("need_indices", [False, True])
@pytest.mark.parametrize(("method", "budget"), METHODS)
def test_forward_and_indices(method: str, budget: str | None, need_indices: bool) -> None:
    """``EmbeddingCollectionTest``: ``test_forward``, ``test_indices``; one feature of two tables."""
    stock = collection_of("ids", [(4, ["f1", "f2"]), (4, ["f2"])], need_indices=need_indices)
    got, expected = swapped(stock, method, budget)(batch_of(["f1", "f2"])), stock(batch_of(["f1", "f2"]))
    assert list(got) == list(expected) == ["f1", "f2@t1", "f2@t2"]
    for name, jagged in expected.items():
        assert got[name].values().shape == jagged.values().shape
        assert torch.equal(got[name].lengths(), jagged.lengths())
        if need_indices:
            assert torch.equal(got[name].weights(), jagged.weights())


@pytest.mark.parametrize(("method", "budget"), METHODS)
def test_sparse_arch_and_dlrm(method: str, budget: str | None) -> None:
    """``torchrec/models/tests/test_dlrm.py``: shapes of ``SparseArch`` and of the whole model, which still learns."""
    stock = collection_of("bags", [(4, ["f1", "f3"]), (4, ["f2"])])
    sparse = SparseArch(swapped(stock, method, budget))
    assert sparse(batch_of(["f1", "f3", "f2"])).shape == (3, 3, 4)
    model = DLRM(swapped(stock, method, budget), 5, [8, 4], [6, 1])
    loss = model(torch.rand(3, 5), batch_of(["f1", "f3", "f2"])).square().mean()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
