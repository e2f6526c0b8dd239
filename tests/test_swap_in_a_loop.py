"""A swapped model in what people do around a model: copies, checkpoints, optimizers, frozen parts, padding, graphs."""

from __future__ import annotations

import copy
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import vmap

import rectab
from rectab.optim import RowAdagrad, RowAdam


def tables(count: int = 4, num_embeddings: int = 300, **options: Any) -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(nn.Embedding(num_embeddings, 8, **options) for _ in range(count))


def swap(model: nn.Module, method: str = "unified", budget: str | None = "25%", **options: Any) -> Any:
    return rectab.swap_(model, method, budget, verbose=False, **options)


# Checkpoints.


@pytest.mark.parametrize("sizes", [(2**12, 2**8), (4000, 250), (20_000, 20_808), (300, 3)])
def test_what_is_built_depends_on_no_draw(sizes: tuple[int, int]) -> None:
    def made(seed: int) -> nn.ModuleList:
        torch.manual_seed(seed)
        model = nn.ModuleList(nn.EmbeddingBag(n, 8, mode="sum") for n in sizes)
        for table, n in zip(model, sizes, strict=True):
            nn.init.uniform_(table.weight, -(n**-0.5), n**-0.5)  # as torchrec does
        swap(model)
        return model

    first = made(0)
    for seed in range(1, 6):
        other = made(seed)
        other.load_state_dict(first.state_dict())
        assert torch.equal(other[1](torch.tensor([[1, 2]])), first[1](torch.tensor([[1, 2]])))


def test_a_shared_table_is_saved_once(tmp_path: Path) -> None:
    model, whole = tables(), tables()
    swap(model)
    state = model.state_dict()
    assert [key for key in state if key.endswith("store.weight")] == ["0.table.store.weight"]
    save_file(state, tmp_path / "model.safetensors")
    other = tables()
    swap(other, seed=5)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert all(torch.equal(a(torch.arange(300)), b(torch.arange(300))) for a, b in zip(model, other, strict=True))
    file = io.BytesIO()
    torch.save({key: value.clone() for key, value in state.items()}, file)
    assert file.getbuffer().nbytes < sum(p.numel() * 4 for p in whole.parameters())
    again = copy.deepcopy(model)  # hooks travel with copies
    assert again.state_dict().keys() == state.keys()


def test_a_part_of_a_swapped_model_is_saved_whole_and_repeats_are_read() -> None:
    model = nn.ModuleDict({"left": tables(2), "right": tables(2)})
    swap(model)
    assert any(key.endswith("store.weight") for key in model["right"].state_dict())
    old = {**model.state_dict(), **{f"right.{key}": value for key, value in model["right"].state_dict().items()}}
    model.load_state_dict(old)
    wrapped = nn.ModuleDict({"module": model})
    assert sum(key.endswith("store.weight") for key in wrapped.state_dict()) == 1
    wrapped.load_state_dict(wrapped.state_dict())


def test_an_average_over_state_dict_moves_a_shared_table_once() -> None:
    model = tables()
    swap(model)
    average = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            average[key].lerp_(value, 0.5)
    moved = average["0.table.store.weight"] - (model[0].table.store.weight - 1.0)
    torch.testing.assert_close(moved, torch.full_like(moved, 0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("padding", [None, 0, 7, -1])
def test_trained_weights_are_kept_to_the_bit_where_ids_have_rows(
    dtype: torch.dtype, default: torch.dtype, padding: int | None
) -> None:
    torch.manual_seed(0)
    host = nn.ModuleList([nn.Embedding(40, 8, dtype=dtype, padding_idx=padding), nn.Embedding(30, 8, dtype=dtype)])
    model = copy.deepcopy(host)
    torch.set_default_dtype(default)
    try:
        result = swap(model, "full", None, init="trained", counts={"0": torch.arange(40) * 7 + 3})
        back = result.to_host()
    finally:
        torch.set_default_dtype(torch.float32)
    for index in range(2):
        assert torch.equal(model[index](torch.arange(30)), host[index](torch.arange(30)))
        assert torch.equal(back[f"{index}.weight"], host[index].weight)
        assert result.reconstruction[str(index)] == 0.0


def test_undo_takes_the_hooks_along() -> None:
    model = tables()
    keys = list(model.state_dict())
    swap(model).undo()
    assert list(model.state_dict()) == keys


def test_a_model_on_the_meta_device_is_swapped_and_loaded() -> None:
    trained = tables()
    swap(trained)
    with torch.device("meta"):
        empty = tables()
    swap(empty)
    assert all(p.is_meta for p in empty.parameters())
    empty.load_state_dict(trained.state_dict(), assign=True)
    assert torch.equal(empty[3](torch.arange(300)), trained[3](torch.arange(300)))


# What is refused.


def test_what_a_swap_would_drop_is_refused_by_name() -> None:
    class Positions(nn.Embedding):
        def first(self, count: int) -> Tensor:
            return self(torch.arange(count))

    model = nn.ModuleDict({"plain": nn.Embedding(50, 4), "own": Positions(50, 4), "norm": nn.Embedding(50, 4)})
    model["old_norm"] = nn.utils.weight_norm(nn.Embedding(50, 4))
    model["hooked"] = nn.Embedding(50, 4)
    model["hooked"].weight.register_hook(lambda gradient: gradient)
    model["padded"] = nn.Embedding.from_pretrained(torch.ones(50, 4), freeze=False, padding_idx=3)
    model["nan"] = nn.Embedding(50, 4)
    model["nan"].weight.data[7, 1] = float("nan")
    nn.utils.parametrizations.weight_norm(model["norm"], "weight")
    with pytest.raises(ValueError, match="cannot be swapped") as caught:
        swap(model)
    text = str(caught.value)
    for reason in (
        r"own: Positions has members of its own \(first\)",
        "norm: its weight is computed",
        "old_norm: its weight is computed",
        "hooked: its weight has gradient hooks",
        "padded: its padding row 3 holds values",
        "nan: row 7 of its weights is not finite",
    ):
        assert re.search(reason, text), reason
    swap(model, include="plain", budget="90%")


@pytest.mark.parametrize("budget", [100, 25, 2.5, "10"])
def test_a_budget_of_a_few_bytes_is_asked_about(budget: Any) -> None:
    with pytest.raises(ValueError, match=r"bytes; write [0-9.]+% for a share"):
        swap(tables(), budget=budget)


def test_swapping_twice_says_so() -> None:
    model = tables()
    swap(model)
    with pytest.raises(ValueError, match="swapped already; undo"):
        swap(model)


# Optimizers and frozen parts.


def test_named_parameters_stay_named() -> None:
    model = nn.Sequential(*tables(), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.named_parameters())
    before = optimizer.state_dict()["param_groups"][0]["param_names"]
    result = swap(model, optimizer=optimizer)
    group = optimizer.state_dict()["param_groups"][0]
    assert group["param_names"] == [name for name, _ in model.named_parameters()]
    result.undo()
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == before


@pytest.mark.parametrize("method", ["full", "unified"])
@pytest.mark.parametrize("gradient", ["dense", "row"])
def test_freezing_one_view_freezes_no_other(method: str, gradient: str) -> None:
    model = tables(2)
    swap(model, method, None if method == "full" else "50%", gradient=gradient)
    model[0].requires_grad_(False)
    assert not model[0](torch.arange(3)).requires_grad
    assert model[1](torch.arange(3)).requires_grad
    model[0].requires_grad_(True)
    assert model[0](torch.arange(3)).requires_grad


@pytest.mark.parametrize("kind", ["adam", "adagrad", "sparse", "outside"])
def test_padding_never_moves_a_shared_row(kind: str) -> None:
    options = {"unseen": "zero"} if kind == "outside" else {}
    model = tables(1, 200, padding_idx=None if kind == "outside" else 0, sparse=kind == "sparse")
    result = swap(model, "hashed", "10%", gradient="sparse" if kind == "sparse" else "row", **options)
    view = model[0]
    rows = view.table.address(torch.arange(200), torch.tensor(0))
    mate = torch.nonzero(rows == rows[0]).flatten()[1:2]
    if kind == "sparse":
        optimizer: Any = torch.optim.SparseAdam(list(view.parameters()), lr=0.1)
    elif kind == "adagrad":
        optimizer = RowAdagrad(result.row_stores(), lr=0.1, weight_decay=0.1, decay="lazy")
    else:
        optimizer = RowAdam(result.row_stores(), lr=0.1)
    idle = torch.full((2, 3), 999 if kind == "outside" else 0)

    def step(ids: Tensor) -> None:
        view(ids).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step(mate)
    before = view(mate).detach().clone()
    step(idle)
    assert torch.equal(view(mate), before)
    mixed = torch.cat([idle.flatten(), mate])
    assert torch.equal(view(mixed)[:6], torch.zeros(6, 8))
    step(mixed)
    assert not torch.equal(view(mate), before)


# Graphs.


class Host(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.user, self.item = nn.Embedding(50, 8), nn.Embedding(40, 8)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return self.user(user) + 0 * self.item(item)


GOOD = (torch.tensor([1, 2]), torch.tensor([3, 4]))


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(lambda model: torch.jit.trace(model, GOOD), id="trace"),
        pytest.param(lambda model: torch.export.export(model, GOOD).module(), id="export"),
        pytest.param(lambda model: torch.compile(model, backend="eager"), id="compile"),
    ],
)
@pytest.mark.parametrize("bad", [50, -1, 60])
def test_graphs_never_read_another_vocabulary(way: Any, bad: int) -> None:
    host = Host()
    swap(host, "full", None)
    graph = way(host)
    torch.testing.assert_close(graph(*GOOD), host(*GOOD))
    with pytest.raises((RuntimeError, IndexError)):
        graph(torch.tensor([bad, 2]), GOOD[1])


@pytest.mark.parametrize("last", [False, True])
def test_a_bag_of_flat_ids_is_exported_with_any_number_of_ids(last: bool) -> None:
    model = nn.ModuleList([nn.EmbeddingBag(40, 8, mode="mean", include_last_offset=last)])
    swap(model, "unified", "50%")
    ids, offsets = torch.arange(7), torch.tensor([0, 2, 2, 7] if last else [0, 2, 2])
    count, bags = torch.export.Dim("ids", min=2), torch.export.Dim("bags", min=3 if last else 2)
    program = torch.export.export(model[0], (ids, offsets), dynamic_shapes=({0: count}, {0: bags})).module()
    for other, ends in ((torch.arange(11), [0, 0, 3, 9, 11]), (torch.arange(2), [0, 1, 2])):
        given = torch.tensor(ends if last else ends[:-1])
        torch.testing.assert_close(program(other, given), model[0](other, given))
    with pytest.raises(RuntimeError, match="offsets"):
        program(torch.arange(5), torch.tensor([1, 3, 5] if last else [1, 3]))


def test_fx_meta_fake_and_vmap_work_and_scripts_are_refused() -> None:
    model = nn.ModuleList([nn.Embedding(50, 8), nn.EmbeddingBag(40, 8, mode="sum")])
    swap(model, "full", None, init="trained")
    ids = torch.arange(6)
    for view, given in ((model[0], ids), (model[1], ids.reshape(2, 3))):
        traced = torch.fx.symbolic_trace(nn.Sequential(view))
        assert torch.equal(traced(given), view(given))
        assert [node.op for node in traced.graph.nodes] == ["placeholder", "call_module", "output"]
    assert copy.deepcopy(model).to("meta")[0](ids.to("meta")).shape == (6, 8)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert model[0](mode.from_tensor(ids)).shape == (6, 8)
    assert torch.equal(vmap(model[0])(ids.reshape(2, 3)), model[0](ids.reshape(2, 3)))
    with pytest.raises(NotImplementedError, match=r"docs/swap\.md"):
        torch.jit.script(model[0])
