"""Deep hash embeddings: hashes that tell ids apart, units that start apart, and a network that trains."""

from __future__ import annotations

import pytest
import torch
from training_helpers import tiny_dataset

from rectab.ops import mix, salt_of
from rectab.schema import Vocabulary
from rectab.tables import TableOptions, build_table, plan
from rectab.tables.dhe import DHEConfig, DHETable
from rectab.tables.hash_codes import codes_of
from rectab.training import TrainConfig, train_once

VOCABULARIES = [Vocabulary("a", 2000), Vocabulary("b", 300)]


def table_of(**options: object) -> DHETable:
    config = DHEConfig(width=24, num_hashes=50, depth=3)
    table = build_table("dhe", VOCABULARIES, 8, config, TableOptions(init_std=0.05, **options))  # type: ignore[arg-type]
    assert isinstance(table, DHETable)
    return table.eval()


def test_a_vector_is_the_networks_of_the_hashes_of_its_id() -> None:
    """Against the formula, written out for one id."""
    table, id_ = table_of(), 1234
    seed = mix(torch.tensor(id_), salt_of(0, "a"))
    numbers = []
    for group in range(13):
        word = int(mix(seed + group, 0)) & (2**64 - 1)
        numbers += [((word >> shift & 0xFFFF) + 0.5) / 2**15 - 1 for shift in (0, 16, 32, 48)]
    values = torch.tensor(numbers[:50])
    weights = {name: p.detach() for name, p in table.named_parameters()}
    for layer in range(4):
        values = weights[f"layers.{layer}.weight"] @ values + weights[f"layers.{layer}.bias"]
        values = values * torch.tanh(torch.log1p(values.exp())) if layer < 3 else values
    torch.testing.assert_close(table(torch.tensor(id_), 0).detach(), values)


def test_codes_are_uniform_and_independent() -> None:
    codes = codes_of(mix(torch.arange(5000), 3), 50)
    assert codes.abs().max() <= 1
    assert codes.mean(0).abs().max() < 0.05
    torch.testing.assert_close(codes.var(0), torch.full((50,), 1 / 3), rtol=0.06, atol=0)
    assert (torch.corrcoef(codes.T) - torch.eye(50)).abs().max() < 0.07


def test_vectors_of_ids_start_apart() -> None:
    """Not nearly alike, as those of a deep network without normalisation do."""
    vectors = table_of()(torch.arange(2000), 0).detach()
    assert vectors.mean(0).abs().max() < 0.2 * 0.05
    torch.testing.assert_close(vectors.std(0), torch.full((8,), 0.05), rtol=0.1, atol=0)
    a, b = (table_of()(torch.arange(300), v).detach() for v in (0, 1))
    assert not torch.isclose(a, b).all(1).any(), "an id of two vocabularies is two ids"


def test_an_id_that_is_asked_for_often_is_computed_once_and_gets_every_gradient() -> None:
    table, asked = table_of(), []
    table.layers[0].register_forward_hook(lambda module, inputs, output: asked.append(inputs[0].shape[0]))
    once = torch.tensor([5, 9])
    often = once.repeat(100).view(20, 10)
    table(once, 0).sum().mul(100).backward()
    expected = [p.grad.clone() for p in table.parameters() if p.grad is not None]
    table.zero_grad()
    table(often, 0).sum().backward()
    assert asked == [2, 2]
    for got, want in zip((p.grad for p in table.parameters()), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_each_vocabulary_may_have_its_network_or_its_rows() -> None:
    vocabularies = [Vocabulary("a", 2000), Vocabulary("few", 9), Vocabulary("b", 1500), Vocabulary("some", 20)]
    config = DHEConfig(width=24, num_hashes=50, depth=3, shared=False)
    table = build_table("dhe", vocabularies, 8, config, TableOptions(init_std=0.05)).eval()
    assert isinstance(table, DHETable)
    assert table.part.tolist() == [0, 2, 1, 2]
    assert torch.equal(table(torch.arange(9), 1), table.whole.read(slice(0, 9)))
    alone = DHEConfig(width=24, num_hashes=50, depth=3)
    for vocabulary, network in ((0, 0), (2, 1)):
        same = build_table("dhe", vocabularies, 8, alone).eval()
        same.layers = table.networks[network]
        torch.testing.assert_close(table(torch.arange(50), vocabulary), same(torch.arange(50), vocabulary))
    ids = torch.tensor([[3, 8, 1499], [1999, 0, 7]])
    together = table(ids, torch.arange(3))
    for column in range(3):
        torch.testing.assert_close(together[:, column], table(ids[:, column], column))
    assert torch.isfinite(table(torch.tensor([2**50, -4]), 0)).all()
    with pytest.raises(IndexError, match="id 9 is outside vocabulary 'few'"):
        table(torch.tensor([2, 9]), 1)


def test_it_is_planned_by_width_and_any_id_is_served() -> None:
    planned = plan("dhe", VOCABULARIES, 8, "50%")
    assert 0.9 * planned.budget_bytes < planned.serving.bytes <= planned.budget_bytes  # type: ignore[operator]
    assert planned.config.num_hashes == min(1024, 4 * planned.config.width)
    assert planned.serving.by_kind().keys() == {"decoder", "index"}
    assert plan("dhe", VOCABULARIES, 8, "50%", num_hashes=16).config.num_hashes == 16
    assert plan("dhe", VOCABULARIES, 8, None).config.width <= 1800
    hashed = plan("dhe", [Vocabulary("any", 500, hashed=True)], 8, "50%").build()
    assert hashed(torch.tensor([2**60, -1]), 0).unique(dim=0).shape == (2, 8)
    with pytest.raises(ValueError, match="must be at least 1"):
        plan("dhe", VOCABULARIES, 8, "50%", depth=0)
    with pytest.raises(ValueError, match="dhe takes no row format, as it holds the weights of networks"):
        plan("dhe", VOCABULARIES, 8, "50%", options=TableOptions(rows="int8"))


def test_it_trains_in_rectabs_trainer() -> None:
    result = train_once(
        tiny_dataset(3000),
        method="dhe",
        budget="90%",
        method_options={"depth": 2},
        model="mlp",
        model_options={"hidden": (16,)},
        embedding_dim=8,
        train_config=TrainConfig(batch_size=100, lr=0.01, max_epochs=4, precision="fp32"),
        progress="off",
    )
    assert result.valid["auc"] > 0.65
