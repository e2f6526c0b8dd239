"""Swapping the tables of plain torch models: every alias, one budget, optimizers, undo, checkpoints both ways."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

import rectab
from rectab.optim import RowAdam
from rectab.swap.planning import share_budget
from rectab.swap.starting import own_rows
from rectab.swap.views import SwappedBag, SwappedEmbedding
from rectab.tables import InfeasibleBudget, get_method, methods

SIZES = {"user": 3000, "item": 2000, "city": 40}


class Model(nn.Module):
    """Three tables, a bag with weights, the item table under a second name and its weight under a third."""

    def __init__(self, dim: int = 8, std: float = 0.05) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tables = nn.ModuleDict({n: nn.Embedding(s, dim, padding_idx=0) for n, s in SIZES.items()})
        self.target = self.tables["item"]
        self.history = nn.EmbeddingBag(SIZES["item"], dim, mode="sum", include_last_offset=True, padding_idx=0)
        self.history.weight = self.tables["item"].weight
        self.tags = nn.EmbeddingBag(500, dim, mode="mean")
        self.wide = nn.Embedding(SIZES["user"], 1)
        for table in (*self.tables.values(), self.tags, self.wide):
            nn.init.normal_(table.weight, std=std)
        with torch.no_grad():
            for table in self.tables.values():
                table.weight[0] = 0
        self.out = nn.Linear(5 * dim, 1)

    def forward(self, ids: Tensor, values: Tensor, offsets: Tensor, weights: Tensor, tags: Tensor) -> Tensor:
        vectors = [self.tables[name](ids[:, i]) for i, name in enumerate(("user", "city"))]
        vectors += [self.target(ids[:, 2]), self.history(values, offsets, weights), self.tags(tags)]
        return self.out(torch.cat(vectors, 1)).squeeze(1) + self.wide(ids[:, 0]).squeeze(1)


def batch(size: int = 64, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randint(1, SIZES[n], (size,), generator=generator) for n in ("user", "city", "item")], 1)
    lengths = torch.randint(0, 4, (size,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    values = torch.randint(0, SIZES["item"], (int(offsets[-1]),), generator=generator)
    weights = torch.rand(values.numel(), generator=generator)
    return ids, values, offsets, weights, torch.randint(500, (size, 3), generator=generator)


def train(model: Model, optimizer: torch.optim.Optimizer, steps: int = 30) -> list[float]:
    inputs = batch(256)
    labels = (inputs[0][:, 0] % 2).float()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(*inputs), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def swap(model: nn.Module, method: str = "unified", budget: str | int | None = "25%", **options) -> rectab.SwapResult:
    return rectab.swap_(model, method, budget, verbose=False, **options)


@pytest.fixture
def model() -> Model:
    return Model()


SWAPPABLE = [m.name for m in methods() if not m.needs_own_trainer and m.fills != "one" and not m.row_gradients_only]


@pytest.mark.parametrize("method", SWAPPABLE)
def test_swapped_model_keeps_its_budget_and_learns(model: Model, method: str) -> None:
    counts = {name: torch.arange(table.num_embeddings, 0, -1) for name, table in named_tables(model)}
    result = swap(model, method, counts=counts)
    assert result.bytes_after <= result.plan.budget_bytes
    if get_method(method).fills == "any":  # others come in steps
        assert result.bytes_after >= 0.9 * result.plan.budget_bytes
    assert result.plan.budget_bytes == int(0.25 * result.bytes_before)
    assert model(*batch()).shape == (64,)
    losses = train(model, torch.optim.Adam(model.parameters(), lr=0.02))
    assert losses[-1] < 0.6 * losses[0]


def named_tables(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(n, m) for n, m in model.named_modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]


def test_full_method_with_trained_weights_changes_nothing(model: Model) -> None:
    expected = model(*batch())
    result = swap(model, "full", None, init="trained")
    torch.testing.assert_close(model(*batch()), expected)
    assert max(result.reconstruction.values()) == 0.0


def test_every_alias_is_replaced(model: Model) -> None:
    result = swap(model)
    assert not named_tables(model)
    assert model.target is model.tables["item"]
    assert isinstance(model.target, SwappedEmbedding)
    assert isinstance(model.history, SwappedBag)
    assert model.history.table is model.target.table
    assert model.history.vocabulary == model.target.vocabulary
    ids = torch.arange(1, 20)
    torch.testing.assert_close(model.history(ids, torch.arange(20)), model.target(ids))
    assert {"tables.item", "target", "history"} <= set(result.views)


def test_an_alias_that_no_pattern_names_is_replaced_too(model: Model) -> None:
    swap(model, include="target", budget="50%")
    assert isinstance(model.tables["item"], SwappedEmbedding)
    assert isinstance(model.history, SwappedBag)
    assert isinstance(model.tables["user"], nn.Embedding)


def test_include_and_exclude(model: Model) -> None:
    result = swap(model, include=["tables.*"], exclude="tables.city")
    assert {n.split(".")[0] for n in result.views} == {"tables", "target", "history"}
    assert isinstance(model.tables["city"], nn.Embedding)
    assert any("tables.city: excluded" in note for note in result.plan.notes)
    by_function = rectab.plan_swap(Model(), include=lambda name, module: module.num_embeddings > 2500)
    assert {f.name for t in by_function.tables for f in t.found} == {"tables.user", "wide"}
    with pytest.raises(ValueError, match="include 'tabels"):
        swap(Model(), include="tabels.*")
    with pytest.raises(ValueError, match="no embedding table"):
        swap(nn.Linear(2, 2))


def test_one_budget_over_mixed_widths(model: Model) -> None:
    plan = rectab.plan_swap(model, budget="10%")
    assert sorted(t.plan.embedding_dim for t in plan.tables) == [1, 8]
    assert 0.97 * plan.budget_bytes <= plan.bytes_after <= plan.budget_bytes
    narrow, wide = sorted(plan.tables, key=lambda t: t.plan.embedding_dim)
    full = {id(t): sum(f.bytes for f in t.found) for t in plan.tables}
    ratio = narrow.plan.serving.bytes / wide.plan.serving.bytes
    assert ratio == pytest.approx(full[id(narrow)] / full[id(wide)], rel=0.05)


def test_share_budget() -> None:
    assert share_budget("m", 100, [300, 100], [1, 1]) == [75, 25]
    small = share_budget("m", 10_000, [100_000, 200], [8, 8])
    assert small[1] == 200
    assert sum(small) <= 10_000
    assert share_budget("m", 20, [1000, 1], [8, 8]) == [12, 8]
    with pytest.raises(InfeasibleBudget) as caught:
        share_budget("m", 15, [100, 100], [8, 8])
    assert caught.value.smallest_bytes == 16


def test_plan_touches_nothing(model: Model) -> None:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modules = dict(model.named_modules(remove_duplicate=False))
    random_state = torch.random.get_rng_state()
    text = str(rectab.plan_swap(model, init="trained"))
    assert "25.0%" in text
    assert "target (= history, tables.item)" in text
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    after = dict(model.named_modules(remove_duplicate=False))
    assert after.keys() == modules.keys()
    assert all(after[k] is modules[k] for k in modules)


def test_plan_of_a_model_on_the_meta_device() -> None:
    with torch.device("meta"):
        huge = nn.ModuleDict({"user": nn.Embedding(10**9, 128)})
    plan = rectab.plan_swap(huge, budget="10%")
    assert plan.bytes_before == 512 * 10**9
    assert 0.97 * plan.budget_bytes <= plan.bytes_after <= plan.budget_bytes
    with pytest.raises(ValueError, match="meta device"):
        swap(huge, init="trained")


def test_prints_bytes_before_and_after(model: Model, capsys) -> None:
    rectab.swap_(model, init="trained")
    out = capsys.readouterr().out
    assert "KiB -> " in out
    assert "reconstruction error" in out


def test_padding_stays_zero_and_untrained(model: Model) -> None:
    swap(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    train(model, optimizer, 3)
    zeros = torch.zeros(4, dtype=torch.int64)
    assert torch.count_nonzero(model.target(zeros)) == 0
    assert torch.count_nonzero(model.history(zeros, torch.tensor([0, 2, 4]))) == 0
    model.zero_grad()
    model.target(zeros).sum().backward()
    assert all(p.grad is None or torch.count_nonzero(p.grad) == 0 for p in model.target.parameters())


# Rows of dpq and mgqe are read through centroids that all vocabularies share, which no scale of a vocabulary reaches.
@pytest.mark.parametrize("method", [method for method in SWAPPABLE if method not in ("dpq", "mgqe")])
def test_output_std_matches_the_table_it_replaced(method: str) -> None:
    stds = {"a": 0.0001, "b": 0.05, "c": 0.08, "d": 1.0}
    model = nn.ModuleDict({name: nn.Embedding(4000, 8) for name in stds})
    for name, std in stds.items():
        nn.init.normal_(model[name].weight, std=std)
    options = {"start": "fresh"} if method == "dynamic" else {}  # by itself an id's new row is a hundredth of that
    result = swap(model, method, "50%", counts={name: torch.ones(4000) for name in stds}, **options)
    for name, std in stds.items():
        got = model[name](torch.arange(4000)).std().item()
        if not own_rows(result.tables[0]):  # what is shared: at most 4 times off, for the learning rate
            rows = result.tables[0].options.init_std
            assert got == pytest.approx(min(max(std, rows / 4), rows * 4), rel=0.1)
        else:
            assert got == pytest.approx(std, rel=0.1)
    assert len(result.tables) == 1, "what shares rows never depends on what initial weights happen to be"
    assert own_rows(result.tables[0]) or method not in ("hashed", "narrow", "qr", "memcom", "mlet", "cafe")


def test_a_tiny_table_is_not_set_apart_by_the_noise_of_its_std() -> None:
    model = nn.ModuleDict({"big": nn.Embedding(1000, 1), **{f"s{n}": nn.Embedding(n, 1) for n in (1, 2, 3, 5)}})
    for table in model.values():
        nn.init.normal_(table.weight, std=1e-4)
    plan = rectab.plan_swap(model, budget="50%")
    assert len(plan.tables) == 1
    assert set(plan.tables[0].scales) == {1.0}


def test_bad_tables_are_refused_with_every_reason() -> None:
    model = nn.ModuleDict(
        {
            "norm": nn.Embedding(50, 4, max_norm=1.0),
            "freq": nn.Embedding(50, 4, scale_grad_by_freq=True),
            "max": nn.EmbeddingBag(50, 4, mode="max"),
            "fine": nn.Embedding(50, 4),
        }
    )
    with pytest.raises(ValueError, match=r"norm: max_norm[\s\S]*freq: scale_grad_by_freq[\s\S]*max: mode='max'"):
        swap(model)
    swap(model, exclude=["norm", "freq", "max"], budget="90%")
    tied = nn.ModuleDict({"table": nn.Embedding(50, 4), "head": nn.Linear(4, 50)})
    tied["head"].weight = tied["table"].weight
    with pytest.raises(ValueError, match=r"table: its weight is also head's \(Linear\)"):
        swap(tied)
    hooked = nn.ModuleDict({"table": nn.Embedding(50, 4)})
    hooked["table"].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="hooks"):
        swap(hooked)
    with pytest.raises(ValueError, match="itself a table"):
        swap(nn.Embedding(5, 2))
    with pytest.raises(ValueError, match="before wrapping"):
        swap(nn.DataParallel(Model()))


def test_a_frozen_table_is_left_alone_unless_named(model: Model) -> None:
    model.tags.weight.requires_grad = False
    plan = rectab.plan_swap(model)
    assert any("tags: frozen" in note for note in plan.notes)
    assert "tags" in {f.name for t in rectab.plan_swap(model, include=["tags"]).tables for f in t.found}


def test_undo_restores_everything(model: Model) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    train(model, optimizer, 2)
    expected, groups = model(*batch()), [list(g["params"]) for g in optimizer.param_groups]
    state = {p: {k: v.clone() for k, v in s.items()} for p, s in optimizer.state.items()}
    result = swap(model, optimizer=optimizer)
    train(model, optimizer, 2)
    out = copy.deepcopy(model.out.state_dict())
    result.undo()
    assert [list(g["params"]) for g in optimizer.param_groups] == groups
    assert all(torch.equal(optimizer.state[p]["exp_avg"], state[p]["exp_avg"]) for p in state if p.shape[0] > 100)
    assert len(named_tables(model)) == len(named_tables(Model()))
    assert model.target is model.tables["item"]
    assert model.history.weight is model.target.weight
    assert all(torch.equal(v, out[k]) for k, v in model.out.state_dict().items())
    fresh = Model()
    assert model.state_dict().keys() == fresh.state_dict().keys()
    assert model(*batch()).shape == expected.shape
    with pytest.raises(RuntimeError, match="nothing to undo"):
        result.undo()


def test_undo_gives_the_same_outputs(model: Model) -> None:
    expected = model(*batch())
    swap(model).undo()
    assert torch.equal(model(*batch()), expected)


def test_optimizer_is_edited_in_place_and_keeps_the_rest(model: Model) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    train(model, optimizer, 2)
    kept = optimizer.state[model.out.weight]["exp_avg"].clone()
    swap(model, optimizer=optimizer)
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert torch.equal(optimizer.state[model.out.weight]["exp_avg"], kept)
    assert len(optimizer.state) == len(list(model.out.parameters()))
    losses = train(model, optimizer)
    assert losses[-1] < losses[0]
    scheduler.step()


def test_an_optimizer_the_model_keeps_is_found(model: Model) -> None:
    model.optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    swap(model)
    held = {id(p) for g in model.optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for p in model.parameters()}


def test_optimizers_that_cannot_work_are_refused_and_nothing_is_touched(model: Model) -> None:
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    with pytest.raises(ValueError, match="Adam does not take sparse gradients"):
        swap(model, optimizer=adam, gradient="sparse")
    sparse = torch.optim.SparseAdam([model.tags.weight])
    with pytest.raises(ValueError, match="SparseAdam takes sparse gradients only"):
        swap(model, optimizer=sparse)
    with pytest.raises(ValueError, match="holds none"):
        swap(model, optimizer=torch.optim.SGD(model.out.parameters(), lr=0.1))
    with pytest.raises(TypeError, match="must be a torch optimizer"):
        swap(model, optimizer="adam")
    split = torch.optim.SGD(
        [{"params": [model.tags.weight], "lr": 1.0}, {"params": [model.target.weight], "lr": 0.1}], lr=0.5
    )
    with pytest.raises(ValueError, match="different options"):
        swap(model, optimizer=split)
    assert len(named_tables(model)) == len(named_tables(Model()))
    with pytest.raises(ValueError, match="init must be"):
        swap(model, init="random")


def test_plain_lists_of_parameters_and_modules_are_rebuilt(model: Model) -> None:
    model.penalties = [([model.tables["user"].weight, model.tables["item"].weight, model.out.weight], 0.0, 1e-5)]
    model.named = [(name, p) for name, p in model.named_parameters() if "tables" in name]
    model.all_tables = {"list": [model.target, model.tags]}
    result = swap(model)
    held, _, factor = model.penalties[0]
    assert [id(p) for p in held] == [id(next(model.target.parameters())), id(model.out.weight)]
    assert factor == 1e-5
    assert [id(p) for _, p in model.named] == [id(next(model.target.parameters()))]
    assert model.all_tables["list"] == [model.target, model.tags]
    result.undo()
    assert model.penalties[0][0][0] is model.tables["user"].weight
    model.one = {"x": model.tables["user"].weight}
    swap(model, include="tables.user", gradient="dense", budget="90%")
    assert model.one["x"] is next(model.tables["user"].parameters())


def test_row_gradients_train_with_the_hosts_optimizer(model: Model) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    result = swap(model, optimizer=optimizer, gradient="row")
    rows = RowAdam(result.row_stores(), lr=0.02)
    result.step_with(optimizer, rows)
    losses = train(model, optimizer)
    assert losses[-1] < 0.5 * losses[0]
    handles = {id(store.handle) for _, store in result.row_stores()}
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for p in model.out.parameters()} | handles
    assert not handles & {id(p) for p in optimizer.state}, "the host's own step passes handles over"
    assert len(optimizer.state_dict()["param_groups"][0]["params"]) == 2, "nor are they in what it saves"
    assert all(not store.pending for _, store in result.row_stores())


def test_row_and_dense_gradients_learn_alike() -> None:
    losses = []
    for gradient in ("dense", "row"):
        model = Model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        result = swap(model, optimizer=optimizer, gradient=gradient)
        if gradient == "row":
            from rectab.optim import RowSGD

            result.step_with(optimizer, RowSGD(result.row_stores(), lr=0.5))
        losses.append(train(model, optimizer, 10))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_sparse_gradients(model: Model) -> None:
    swap(model, gradient="sparse")
    losses = train(model, torch.optim.SGD(model.parameters(), lr=5.0))
    assert losses[-1] < losses[0]
    assert model.target.sparse


def test_unseen_ids_raise_by_default_as_torch_does(model: Model) -> None:
    swap(model)
    with pytest.raises(IndexError, match=r"id 2000 is outside vocabulary 'target'"):
        model.target(torch.tensor([1, 2000]))
    other = Model()
    swap(other, unseen="zero")
    assert torch.count_nonzero(other.target(torch.tensor([2000, -3]))) == 0


def test_weight_is_not_offered(model: Model) -> None:
    swap(model)
    assert not hasattr(model.target, "weight")
    with pytest.raises(AttributeError, match="materialize"):
        nn.init.normal_(model.target.weight)
    before = model.target(torch.arange(5)).clone()
    train(model, torch.optim.SGD(model.parameters(), lr=1.0), 2)
    model.target.reset_parameters()
    assert torch.equal(model.target(torch.arange(5)), before)


def test_deep_copies_and_devices_keep_one_table(model: Model) -> None:
    swap(model)
    copied = copy.deepcopy(model).double().float()
    assert copied.target.table is copied.tables["user"].table
    assert copied.target.table is not model.target.table
    assert torch.equal(copied(*batch()), model(*batch()))


def test_methods_that_need_rectabs_trainer_are_refused() -> None:
    own_trainer = [m.name for m in methods() if m.needs_own_trainer]
    assert own_trainer
    for name in own_trainer:
        with pytest.raises(ValueError, match="trained in stages by rectab's own trainer"):
            rectab.plan_swap(Model(), name)


def test_importing_rectab_loads_neither_torch_nor_a_host() -> None:
    script = (
        "import sys, rectab; assert 'torch' not in sys.modules; rectab.swap_;"
        "print([m for m in ('torchrec', 'fuxictr', 'deepctr_torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
