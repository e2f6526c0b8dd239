"""What every registered table must do. Driven by the registry: a new method is tested by being registered."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rectab.ops import RowStore, use_kernel
from rectab.optim import RowSGD
from rectab.schema import Vocabulary
from rectab.tables import (
    EmbeddingTable,
    InfeasibleBudget,
    Plan,
    TableMethod,
    TableOptions,
    build_table,
    config_from_json,
    config_to_json,
    full_table_bytes,
    get_method,
    load_table,
    methods,
    plan,
    register,
    save_table,
)
from rectab.tables.addressing import rows_of
from rectab.tables.fit import FitTarget, reconstruction_error

DIM = 8
METHODS = [pytest.param(m, id=m.name) for m in methods()]
BUDGETED = [pytest.param(m, id=m.name) for m in methods() if m.fills != "one"]
ANY_BUDGET = [pytest.param(m, id=m.name) for m in methods() if m.fills == "any" and not m.size_after_training]


def small(method: TableMethod, vocabularies: list[Vocabulary], options: TableOptions | None = None) -> EmbeddingTable:
    """The method's table at a quarter of the full bytes (or its own size)."""
    budget = None if method.fills == "one" else "25%"
    return plan(method.name, vocabularies, DIM, budget, options=options).build()


def torch_gradient(method: TableMethod) -> str:
    """Dense gradients, which tests can look at, or those that there are."""
    return "row" if method.row_gradients_only else "dense"


def untrained(table: EmbeddingTable) -> bool:
    """Whether a backward pass has left nothing for an optimizer."""
    stores = [store for _, store in table.row_stores() if store.gradient == "row"]
    handles = {id(store.handle) for store in stores}
    rest = (p.grad for p in table.parameters() if id(p) not in handles)
    return not any(rows.numel() for store in stores for rows, _ in store.pending) and all(
        grad is None or torch.count_nonzero(grad) == 0 for grad in rest
    )


def same(method: TableMethod, got: Tensor, expected: Tensor) -> bool:
    """Whether vectors are equal to the bit; those that a network computes may be rounded by the size of its batch."""
    return (
        torch.equal(got, expected) if not method.without_rows else torch.allclose(got, expected, rtol=1e-4, atol=1e-7)
    )


def plan_or_smallest(method: TableMethod, vocabularies: list[Vocabulary], budget: str | int) -> Plan | InfeasibleBudget:
    try:
        return plan(method.name, vocabularies, DIM, budget)
    except InfeasibleBudget as error:
        return error


def ids_of(vocabularies: list[Vocabulary], batch: int = 64, seed: int = 0) -> Tensor:
    """int64 [batch, F] random ids, one column a vocabulary; the first rows hold ids 0, 1 and the last."""
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.randint(v.num_embeddings, (batch,), generator=generator) for v in vocabularies]
    ids = torch.stack(columns, 1)
    ids[0], ids[1] = 0, 1
    ids[2] = torch.tensor([v.num_embeddings - 1 for v in vocabularies])
    return ids


def reachable_storages(module: nn.Module) -> dict[int, int]:
    """Bytes of every tensor storage reachable from a module's attributes, found without the ledger's help."""
    found: dict[int, int] = {}
    seen: set[int] = set()

    def visit(value: object) -> None:
        if id(value) in seen or isinstance(value, (str, bytes, type, torch.Generator)):
            return
        seen.add(id(value))
        if isinstance(value, RowStore) and value.gradient == "row":
            seen.add(id(value.handle))  # two numbers that stand for gradients in a training loop
        if isinstance(value, Tensor):
            found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, dict):
            for item in value.values():
                visit(item)
        elif isinstance(value, (list, tuple, set)):
            for item in value:
                visit(item)
        elif hasattr(value, "__dict__"):
            visit(vars(value))

    visit(module)
    return {key: size for key, size in found.items() if size}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 4), (2, 3, 4), (0, 4)])
def test_shapes(method: TableMethod, shape: tuple[int, ...], vocabularies: list[Vocabulary]) -> None:
    table = small(method, vocabularies)
    assert table(torch.zeros(shape, dtype=torch.int64), 0).shape == (*shape, DIM)


@pytest.mark.parametrize("method", METHODS)
def test_per_column_vocabularies_equal_one_vocabulary_at_a_time(
    method: TableMethod, vocabularies: list[Vocabulary]
) -> None:
    table = small(method, vocabularies).eval()
    ids = ids_of(vocabularies)
    together = table(ids, torch.arange(len(vocabularies)))
    for column in range(len(vocabularies)):
        assert same(method, together[:, column], table(ids[:, column], column))
        assert same(method, together[:, column], table(ids[:, column].to(torch.int32), column))


@pytest.mark.parametrize("method", METHODS)
def test_bad_input_is_refused(method: TableMethod, vocabularies: list[Vocabulary]) -> None:
    table = small(method, vocabularies)
    with pytest.raises(TypeError, match="int64 or int32"):
        table(torch.zeros(3), 0)
    with pytest.raises(IndexError, match="vocabulary 9"):
        table(torch.zeros(3, dtype=torch.int64), 9)
    with pytest.raises(ValueError, match="embedding_dim"):
        build_table(method.name, vocabularies, 0, table.config)
    with pytest.raises(TypeError, match=method.config.__name__):
        build_table(method.name, vocabularies, DIM, object())


@pytest.mark.parametrize("method", METHODS)
def test_ledger_equals_reachable_storages(method: TableMethod, vocabularies: list[Vocabulary]) -> None:
    for table in (small(method, vocabularies), small(method, vocabularies).serving()):
        assert sum(reachable_storages(table).values()) == table.ledger().bytes


@pytest.mark.parametrize("method", METHODS)
def test_plan_counts_what_is_built(method: TableMethod, vocabularies: list[Vocabulary]) -> None:
    planned = plan(method.name, vocabularies, DIM, None if method.fills == "one" else "25%")
    served = planned.build().serving().ledger().bytes
    assert planned.serving.bytes == served or (method.size_after_training and planned.serving.bytes > served)
    assert planned.training.bytes >= planned.serving.bytes


@pytest.mark.parametrize("method", METHODS)
def test_saved_file_is_the_ledger_and_a_header(method: TableMethod, vocabularies: list[Vocabulary], tmp_path) -> None:
    table = small(method, vocabularies).serving().eval()
    path = tmp_path / "table.safetensors"
    save_table(table, path)
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size - header == table.ledger().bytes
    loaded = load_table(path).eval()
    ids = ids_of(vocabularies)
    columns = torch.arange(len(vocabularies))
    assert torch.equal(loaded(ids, columns), table(ids, columns))
    assert loaded.config == table.config


@pytest.mark.parametrize("method", BUDGETED)
@pytest.mark.parametrize("share", ["75%", "50%", "25%", "10%", "5%", "2%"])
def test_budget_is_kept(method: TableMethod, share: str, vocabularies: list[Vocabulary]) -> None:
    planned = plan_or_smallest(method, vocabularies, share)
    if isinstance(planned, InfeasibleBudget):
        assert planned.smallest_bytes is None or planned.smallest_bytes > planned.budget_bytes
        return
    assert planned.budget_bytes is not None
    assert planned.serving.bytes <= planned.budget_bytes
    served = planned.serving.bytes
    if method.size_after_training:  # the plan is a bound; pruned as it was built, the table must keep the budget
        served = planned.build().serving().ledger().bytes
        assert served <= planned.serving.bytes
    if method.fills == "any":
        assert served >= 0.97 * planned.budget_bytes


@pytest.mark.parametrize("method", BUDGETED)
def test_smallest_feasible_budget_is_feasible_and_smallest(method: TableMethod, vocabularies: list[Vocabulary]) -> None:
    with pytest.raises(InfeasibleBudget) as caught:
        plan(method.name, vocabularies, DIM, 1)
    smallest = caught.value.smallest_bytes
    assert smallest is not None
    assert plan(method.name, vocabularies, DIM, smallest).serving.bytes <= smallest
    with pytest.raises(InfeasibleBudget):
        plan(method.name, vocabularies, DIM, smallest - 1)


@pytest.mark.parametrize("method", BUDGETED)
def test_budgets_are_monotone(method: TableMethod, vocabularies: list[Vocabulary]) -> None:
    full = full_table_bytes(vocabularies, DIM)
    achieved = []
    for share in range(5, 100, 5):
        try:
            achieved.append(plan(method.name, vocabularies, DIM, full * share // 100).serving.bytes)
        except InfeasibleBudget:
            assert not achieved, "a larger budget was refused after a smaller one was served"
    assert achieved == sorted(achieved)


@pytest.mark.parametrize("method", METHODS)
def test_unknown_method_option_is_named(method: TableMethod, vocabularies: list[Vocabulary]) -> None:
    with pytest.raises(ValueError, match=r"unknown option.*no_such_option"):
        plan(method.name, vocabularies, DIM, None if method.fills == "one" else "50%", no_such_option=1)


@pytest.mark.parametrize("method", METHODS)
def test_output_has_the_asked_std_at_step_0(method: TableMethod, vocabularies: list[Vocabulary]) -> None:
    table = small(method, vocabularies, TableOptions(init_std=0.05)).eval()
    ids = torch.arange(5000)
    vectors = table(ids, 1).detach()
    if method.table.ids_move:  # no id has a row yet
        assert not vectors.any()
        return
    assert vectors.std().item() == pytest.approx(0.05, rel=0.1)
    assert abs(vectors.mean().item()) < 0.005


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_gives_the_same_table(method: TableMethod, vocabularies: list[Vocabulary]) -> None:
    ids, columns = ids_of(vocabularies), torch.arange(len(vocabularies))
    first = small(method, vocabularies, TableOptions(seed=3)).eval()(ids, columns)
    torch.manual_seed(99)
    again = small(method, vocabularies, TableOptions(seed=3)).eval()(ids, columns)
    other = small(method, vocabularies, TableOptions(seed=4)).eval()(ids, columns)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("method", METHODS)
def test_row_dense_and_sparse_gradients_give_the_same_sgd_step(
    method: TableMethod, vocabularies: list[Vocabulary]
) -> None:
    ids, columns = ids_of(vocabularies), torch.arange(len(vocabularies))
    results = []
    for gradient in ("row", "dense", "sparse"):
        if gradient != "row" and method.row_gradients_only:
            with pytest.raises(ValueError, match=f"{method.name} is trained by row gradients alone"):
                small(method, vocabularies, TableOptions(gradient=gradient))
            continue
        table = small(method, vocabularies, TableOptions(gradient=gradient)).eval()
        stores = list(table.row_stores())
        optimizers: list = []
        if gradient == "row":
            optimizers = [RowSGD(stores, lr=0.5)]
            rest = list(table.dense_parameters())
        else:
            rest = list(table.parameters())
        if rest:
            optimizers.append(torch.optim.SGD(rest, lr=0.5))
        table(ids, columns).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        results.append(table(ids, columns).detach())
    for other in results[1:]:
        torch.testing.assert_close(results[0], other)
    assert not torch.allclose(results[0], small(method, vocabularies).eval()(ids, columns))


@pytest.mark.parametrize("method", METHODS)
def test_target_and_history_of_one_vocabulary_share_vectors(
    method: TableMethod, vocabularies: list[Vocabulary]
) -> None:
    table = small(method, vocabularies).eval()
    history = torch.tensor([7, 0, 7, 1, 4999])
    assert same(method, table(history, 1)[0], table(torch.tensor([[7]]), torch.tensor([1]))[0, 0])


@pytest.mark.parametrize("method", METHODS)
def test_views_keep_torch_contracts(method: TableMethod, vocabularies: list[Vocabulary]) -> None:
    table = small(method, vocabularies).eval()
    view = table.embedding("item", padding_idx=0)
    weight = view.materialize()
    assert weight.shape == (5000, DIM)
    assert not hasattr(view, "weight")
    reference = nn.Embedding.from_pretrained(weight, padding_idx=0)
    ids = torch.tensor([[0, 1, 2], [4999, 0, 7]])
    torch.testing.assert_close(view(input=ids), reference(ids))
    for mode in ("sum", "mean"):
        bag = table.bag("item", mode, padding_idx=0)
        expected = nn.EmbeddingBag.from_pretrained(weight, mode=mode, padding_idx=0)
        values, offsets = torch.tensor([5, 0, 6, 6, 0]), torch.tensor([0, 2, 2, 4])
        torch.testing.assert_close(bag(input=values, offsets=offsets), expected(values, offsets))
        torch.testing.assert_close(bag(ids), expected(ids))
    weights = torch.tensor([0.5, 1.0, 2.0, -1.0, 3.0])
    expected = nn.EmbeddingBag.from_pretrained(weight, mode="sum", padding_idx=0, include_last_offset=True)
    bag = table.bag("item", "sum", padding_idx=0, include_last_offset=True)
    offsets = torch.tensor([0, 2, 2, 4, 5])
    torch.testing.assert_close(bag(values, offsets, weights), expected(values, offsets, weights))
    with pytest.raises(ValueError, match="2-D input"):
        bag(ids)


@pytest.mark.parametrize("method", METHODS)
def test_padding_is_zero_and_untrained(method: TableMethod, vocabularies: list[Vocabulary]) -> None:
    table = small(method, vocabularies, TableOptions(gradient=torch_gradient(method))).eval()
    view = table.embedding("item", padding_idx=0)
    out = view(torch.zeros(4, dtype=torch.int64))
    assert torch.count_nonzero(out) == 0
    out.sum().backward()
    assert untrained(table)


@pytest.mark.parametrize("method", METHODS)
def test_unseen_policies(method: TableMethod, vocabularies: list[Vocabulary], tmp_path) -> None:
    config = small(method, vocabularies).config
    ids, columns = torch.tensor([[7, 4999, 2, 3], [2000, -1, 3, 2**40]]), torch.arange(4)
    inside = torch.tensor([[True] * 4, [False] * 4])
    plain = build_table(method.name, vocabularies, DIM, config).eval()

    def table(unseen: str) -> EmbeddingTable:
        options = TableOptions(unseen=unseen, gradient=torch_gradient(method))
        return build_table(method.name, vocabularies, DIM, config, options).eval()

    for unseen in ("hash", "shared", "zero", "error"):
        torch.testing.assert_close(table(unseen)(ids[0], columns), plain(ids[0], columns))
    assert torch.count_nonzero(table("zero")(ids, columns)[~inside]) == 0
    assert same(method, table("shared")(ids, columns)[1], plain(torch.zeros(4, dtype=torch.int64), columns))
    for column in range(4):
        assert same(method, table("hash")(ids, columns)[:, column], table("hash")(ids[:, column], column))
    known, outside = table("hash")(torch.arange(3), 2), table("hash")(torch.tensor(3), 2)
    assert any(same(method, vector, outside) for vector in known), "an id outside reads the vector of one inside"
    spread, own = (table("hash")(torch.arange(n, n + 50), 0).unique(dim=0).shape[0] for n in (10**6, 0))
    assert spread > 0.4 * own, "ids outside are spread over those inside"
    for wrong, column, name in ((2000, 0, "user"), (-1, 1, "item")):
        with pytest.raises(IndexError, match=f"id {wrong} is outside vocabulary '{name}'"):
            table("error")(torch.tensor([1, wrong]), column)
    zero = table("zero")
    zero(ids[1], columns).sum().backward()
    assert untrained(zero)
    save_table(zero.serving(), tmp_path / "t.safetensors")
    assert load_table(tmp_path / "t.safetensors").options.unseen == "zero"
    with pytest.raises(ValueError, match="unseen must be one of"):
        TableOptions(unseen="drop")


@pytest.mark.parametrize("method", METHODS)
def test_addresses_say_which_rows_a_lookup_reads(
    method: TableMethod, vocabularies: list[Vocabulary], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with what the stores are asked for."""
    table = small(method, vocabularies).eval()
    asked: dict[str, list[Tensor]] = {}
    for name, store in table.row_stores():
        gather = store.forward
        keep = lambda rows, gather=gather, name=name: asked.setdefault(name, []).append(rows) or gather(rows)  # noqa: E731
        monkeypatch.setattr(store, "forward", keep)
    for index, vocabulary in enumerate(vocabularies):
        addresses = [address for address in table.addresses() if address.vocabulary == index]
        ids = torch.arange(vocabulary.num_embeddings)
        asked.clear()
        table(ids, index)
        for name in {address.store for address in addresses}:
            read = torch.cat([rows.reshape(ids.numel(), -1) for rows in asked[name]], -1)
            mine = sorted((a for a in addresses if a.store == name), key=lambda a: a.chunk)
            assert torch.equal(read, torch.stack([rows_of(a, ids, ids.numel()) for a in mine], -1))


@pytest.mark.parametrize("method", METHODS)
def test_a_start_from_its_own_vectors_changes_nothing_or_little(
    method: TableMethod, vocabularies: list[Vocabulary]
) -> None:
    if method.needs_own_trainer:
        return
    table = small(method, vocabularies).eval()
    other = plan(method.name, vocabularies, DIM, table.ledger().bytes, options=TableOptions(seed=5)).build().eval()
    wanted = [table.embedding(v.name).materialize() for v in vocabularies]
    targets = [FitTarget(index, vectors, None, None) for index, vectors in enumerate(wanted)]
    other.start_from(targets)
    errors = [reconstruction_error(other, target) for target in targets]
    closed = other.is_plain_rows or "start_from" in vars(method.table)
    # A network has no place for random vectors, yet comes nearer than zeros.
    assert max(errors) < (1e-3 if closed else 0.9 if not method.without_rows else 0.99)


OUTSIDE = [5000, -1, 2**40, -(2**63)]


@pytest.mark.parametrize("kernel", ["auto", "torch"])
@pytest.mark.parametrize("method", METHODS)
def test_an_id_outside_is_refused_by_name_unless_the_record_says_that_any_is_served(
    method: TableMethod, kernel: str, vocabularies: list[Vocabulary]
) -> None:
    table = small(method, vocabularies)
    columns = torch.arange(4)
    with use_kernel(kernel):
        for each in (table, table.serving()):
            each.eval()
            for wrong in OUTSIDE:
                mixed = torch.tensor([[7, 4999, 2, 3], [7, wrong, 2, 3]])
                for ids, vocabulary in ((torch.tensor([1, wrong]), 1), (mixed, columns), (mixed, columns.expand(2, 4))):
                    if method.serves_any_id:
                        assert torch.isfinite(each(ids, vocabulary)).all()
                    else:
                        with pytest.raises(IndexError, match=f"id {wrong} is outside vocabulary 'item'"):
                            each(ids, vocabulary)


@pytest.mark.parametrize("unseen", [None, "hash", "shared", "zero", "error"])
@pytest.mark.parametrize("method", METHODS)
def test_a_vocabulary_that_the_table_does_not_have_is_refused(
    method: TableMethod, unseen: str | None, vocabularies: list[Vocabulary]
) -> None:
    table = small(method, vocabularies, TableOptions(unseen=unseen)).eval()
    ids = torch.zeros(2, 4, dtype=torch.int64)
    for wrong in (-1, 4, 2**40):
        for vocabulary in (wrong, torch.tensor(wrong), torch.tensor([0, 1, wrong, 2]), torch.full((2, 4), wrong)):
            with pytest.raises(IndexError, match=f"vocabulary {wrong} is not in 0..3"):
                table(ids, vocabulary)
    with pytest.raises(TypeError, match="vocabulary indices must be int64 or int32"):
        table(ids, torch.tensor([True, False, True, False]))
    assert table(ids[:, :0], torch.empty(0, dtype=torch.int64)).shape == (2, 0, DIM)
    assert torch.equal(table(ids, np.int64(1)), table(ids, 1))


def test_unseen_leaves_hashed_vocabularies_alone() -> None:
    mixed = [Vocabulary("any", 50, hashed=True), Vocabulary("city", 20)]
    config = plan("hashed", mixed, DIM, "90%").config
    ids, columns = torch.tensor([[-5, 20], [2**60, 3]]), torch.arange(2)
    plain = build_table("hashed", mixed, DIM, config)
    zero = build_table("hashed", mixed, DIM, config, TableOptions(unseen="zero"))(ids, columns)
    assert torch.equal(zero[:, 0], plain(ids[:, 0], 0))
    assert torch.count_nonzero(zero[0, 1]) == 0
    assert torch.equal(zero[1, 1], plain(ids[1, 1], 1))


@pytest.mark.parametrize("method", METHODS)
def test_config_round_trips_through_json(method: TableMethod, vocabularies: list[Vocabulary]) -> None:
    config = small(method, vocabularies).config
    assert config_from_json(method.name, json.loads(json.dumps(config_to_json(config)))) == config
    with pytest.raises(ValueError, match="unknown key 'no_such_field'"):
        config_from_json(method.name, {"no_such_field": 1})


@pytest.mark.parametrize("method", METHODS)
def test_hashed_vocabularies_are_served_as_the_record_says(method: TableMethod) -> None:
    hashed = [Vocabulary("any", 50, hashed=True, counts=np.ones(50, np.int64))]
    if not method.serves_any_id:
        with pytest.raises(ValueError, match="hashed"):
            plan(method.name, hashed, DIM, None if method.fills == "one" else "50%")
        return
    table = plan(method.name, hashed, DIM, "50%").build()
    ids = torch.tensor([-1, 2**62, -(2**63), 0])
    assert torch.isfinite(table(ids, 0)).all()


@pytest.mark.parametrize("method", METHODS)
def test_same_vectors_in_another_process(method: TableMethod, vocabularies: list[Vocabulary], tmp_path) -> None:
    planned = plan(method.name, vocabularies, DIM, None if method.fills == "one" else "25%")
    script = f"""
import json, sys, torch
from rectab.schema import Vocabulary
from rectab.tables import build_table, config_from_json
vocabularies = [Vocabulary(n, s) for n, s in {[(v.name, v.num_embeddings) for v in vocabularies]!r}]
config = config_from_json({method.name!r}, json.loads({json.dumps(config_to_json(planned.config))!r}))
table = build_table({method.name!r}, vocabularies, {DIM}, config).eval()
print(table(torch.tensor([0, 1, 77]), 1).tolist())
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    if not method.needs_counts:
        assert json.loads(out) == planned.build().eval()(torch.tensor([0, 1, 77]), 1).tolist()


@pytest.mark.parametrize("method", METHODS)
def test_the_format_of_rows_halves_them(method: TableMethod, vocabularies: list[Vocabulary]) -> None:
    config = small(method, vocabularies).config
    if method.without_rows:
        with pytest.raises(ValueError, match=f"{method.name} takes no row format, as it holds"):
            plan(method.name, vocabularies, DIM, "25%", options=TableOptions(rows="bf16"))
        return
    size = {}
    for rows in ("fp32", "bf16"):
        table = build_table(method.name, vocabularies, DIM, config, TableOptions(rows=rows))
        size[rows] = table.ledger().by_kind()["rows"]
    assert size["bf16"] * 2 == size["fp32"]


@pytest.mark.parametrize("method", METHODS)
def test_exports_with_a_dynamic_batch(method: TableMethod, vocabularies: list[Vocabulary]) -> None:
    table = small(method, vocabularies).serving().eval()
    columns = torch.arange(len(vocabularies))

    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = table

        def forward(self, ids: Tensor) -> Tensor:
            return self.table(ids, columns)

    batch = torch.export.Dim("batch", min=2, max=4096)
    with torch.no_grad():
        program = torch.export.export(Lookup(), (ids_of(vocabularies),), dynamic_shapes={"ids": {0: batch}})
        for size in (3, 100):
            ids = ids_of(vocabularies, size, seed=size)
            assert same(method, program.module()(ids), table(ids, columns))


@pytest.mark.parametrize("unseen", ["hash", "shared", "zero"])
@pytest.mark.parametrize("method", METHODS)
def test_unseen_policy_is_exported(method: TableMethod, unseen: str, vocabularies: list[Vocabulary]) -> None:
    table = small(method, vocabularies, TableOptions(unseen=unseen)).serving().eval()
    outside = torch.tensor([5, 4999, 5000, -1, 2**50])

    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = table

        def forward(self, ids: Tensor) -> Tensor:
            return self.table(ids, 1)

    with torch.no_grad():
        program = torch.export.export(Lookup(), (outside[:2],), dynamic_shapes={"ids": {0: torch.export.Dim("batch")}})
        assert same(method, program.module()(outside), table(outside, 1))


def test_registry_names_what_there_is() -> None:
    assert {"full", "hashed", "unified"} <= {m.name for m in methods()}
    with pytest.raises(ValueError, match=r"did you mean 'unified'"):
        get_method("unifed")
    with pytest.raises(ValueError, match="registered already"):
        register(get_method("full"))


def test_registry_refuses_a_name_that_is_not_lower_case() -> None:
    with pytest.raises(ValueError, match="lower-case"):
        register(replace(get_method("full"), name="Full"))
