"""The dynamic table: ids come and go, rows start again with their state, and nothing else moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rectab.ops import use_kernel
from rectab.optim import RowAdam
from rectab.schema import Vocabulary
from rectab.swap import swap_
from rectab.tables import TableOptions, load_table, plan, save_table
from rectab.tables.dynamic import DynamicTable

OPEN = [Vocabulary("user", 400, hashed=True), Vocabulary("item", 600, hashed=True), Vocabulary("day", 7)]
COLUMNS = torch.arange(3)


def table_of(budget: str = "25%", options: TableOptions | None = None, **given: object) -> DynamicTable:
    """Rows of full width, of each vocabulary its own, unless told otherwise."""
    made = plan("dynamic", OPEN, 8, budget, options=options, **{"width": 0, "pool": False} | given).build()
    assert isinstance(made, DynamicTable)
    return made


def ids_at(step: int, batch: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    drifting = torch.randint(step * 5, step * 5 + 200, (batch, 2), generator=generator) * 2**40 + 17
    return torch.cat([drifting, torch.randint(7, (batch, 1), generator=generator)], 1)


def trained(table: DynamicTable, steps: int = 30, first: int = 0, rows: RowAdam | None = None) -> RowAdam:
    rows = rows or RowAdam(table.row_stores(), lr=0.01)
    table.train()
    for step in range(first, first + steps):
        (table(ids_at(step), COLUMNS) - 1).square().sum().backward()
        rows.step()
        rows.zero_grad()
        table.after_step(step + 1, rows)
    return rows


def test_lookups_that_do_not_train_change_nothing() -> None:
    table = table_of()
    before = {name: tensor.clone() for name, tensor in table.state_dict().items()}
    table.train()
    table(ids_at(0), COLUMNS)  # nobody trains these rows
    rows = RowAdam(table.row_stores(), lr=0.1)
    table.eval()(ids_at(0), COLUMNS)
    with torch.no_grad():
        table.train()(ids_at(0), COLUMNS)
    assert all(torch.equal(before[name], tensor) for name, tensor in table.state_dict().items())
    table(ids_at(0), COLUMNS)
    assert table.tallies()["admitted"] > 0
    assert rows is not None


def test_a_row_that_changes_its_id_starts_again_with_its_state() -> None:
    table = table_of(evict="lru", max_probe=4)
    rows = trained(table)
    assert table.tallies()["evicted"] > 50
    table.evicted = []
    moments = rows.rows["store"].state["moment"]
    touched = moments.abs().sum(1) > 0
    table.train()
    table(ids_at(100), COLUMNS)
    lost, gone = (torch.cat(parts) for parts in zip(*table.evicted, strict=True))
    assert lost.numel() > 5
    assert bool(touched[lost].any())
    assert moments[lost].abs().sum() == 0
    assert rows.rows["store"].state["steps"][lost].sum() == 0
    assert table.store.read(lost).abs().max() < 0.06  # as at the start, with a standard deviation of .01
    assert not bool(table.holds(gone[lost < int(table.first_row[1])], 0).any())
    table.zero_grad()


def test_rows_of_a_step_stay_until_it_is_done() -> None:
    table = table_of("10%", max_probe=128)
    rows = RowAdam(table.row_stores(), lr=0.0)
    table.train()
    first = torch.arange(40) + 1000
    held = table(first, 0)
    admitted = table.holds(first, 0)
    table(torch.arange(40) + 5000, 0)  # another lookup of the same step
    assert torch.equal(table.holds(first, 0), admitted)
    held.sum().backward()
    rows.step()
    table.after_step(1, rows)
    table(torch.arange(40) + 5000, 0)
    assert int(table.holds(first, 0).sum()) < int(admitted.sum())


def test_nobody_is_admitted_while_gradients_wait() -> None:
    table = table_of()
    rows = RowAdam(table.row_stores(), lr=0.1)
    table.train()
    table(torch.tensor([1]), 0).sum().backward()
    table(torch.tensor([2]), 0).sum().backward()
    assert table.holds(torch.tensor([1, 2]), 0).tolist() == [True, False]
    rows.step()
    table(torch.tensor([2]), 0)
    assert table.holds(torch.tensor([1, 2]), 0).tolist() == [True, True]


@pytest.mark.parametrize("rows", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize(
    "given",
    [
        {"evict": "lru", "admit": "count", "absent": "rows", "start": "shared"},
        {"evict": "distance_lfu", "admit": "count", "absent": "rows", "start": "shared"},
        {"evict": "lfu", "half_life": 5, "admit": "better", "pool": True, "width": 3, "start": "zero"},
    ],
    ids=["lru", "distance_lfu", "pool"],
)
def test_a_checkpoint_goes_on_where_it_was(rows: str, given: dict[str, Any], tmp_path: Path) -> None:
    options = TableOptions(rows=rows)
    one = table_of(options=options, **given)
    trained(one, 30)
    other = table_of(options=options, **given)
    optimizer = trained(other, 15)
    save_table(other, tmp_path / "t.safetensors")
    loaded = load_table(tmp_path / "t.safetensors")
    assert isinstance(loaded, DynamicTable)
    resumed = RowAdam(loaded.row_stores(), lr=0.01)
    resumed.load_state_dict(optimizer.state_dict())
    trained(loaded, 15, 15, resumed)
    assert all(torch.equal(one.state_dict()[name], tensor) for name, tensor in loaded.state_dict().items())
    assert one.tallies()["evicted"] > 0
    with use_kernel("torch"):
        assert torch.allclose(loaded.eval()(ids_at(29), COLUMNS), one.eval()(ids_at(29), COLUMNS))


def test_the_clock_is_the_callers_and_never_goes_back() -> None:
    table = table_of(evict="ttl", ttl=60, max_probe=2)
    RowAdam(table.row_stores(), lr=0.1)
    table.set_clock(1000)
    with pytest.raises(ValueError, match=r"stands at 1000 and goes up to 2147483647, got 999"):
        table.set_clock(999)
    with pytest.raises(ValueError, match=r"got 2147483648"):
        table.set_clock(2**31)
    table.after_step(1, None)
    assert table.tallies()["now"] == 1000
    kept = RowAdam(table.row_stores(), lr=0.1)
    for minute in range(0, 120, 20):
        table.set_clock(1000 + minute)
        table(torch.arange(200) + minute * 10**6, 0)
        evicted = table.tallies()["evicted"]
        assert (evicted > 0) == (minute > 60), "nobody goes before the time is up"
    assert kept is not None


@pytest.mark.parametrize("absent", ["rows", "zero"])
def test_what_an_id_without_a_row_reads(absent: str) -> None:
    table = table_of(absent=absent, admit="probability", probability=1e-9, options=TableOptions(init_std=0.1))
    rows = RowAdam(table.row_stores(), lr=0.1)
    table.train()
    ids = torch.arange(50) * 10**9
    before = table(ids, 0)
    before.sum().backward()
    rows.step()
    after = table(ids, 0)
    if absent == "zero":
        assert torch.count_nonzero(before) == torch.count_nonzero(after) == 0
    else:
        assert bool((before != after).all()), "the rows that they share are trained"
        assert after.unique(dim=0).shape[0] <= 8
    assert not bool(table.holds(ids, 0).any())


def test_bad_options_are_named() -> None:
    for given, message in (
        ({"evict": "ttl"}, "needs ttl"),
        ({"probability": 0.0}, "probability must be in"),
        ({"reserved_share": 0.9}, "reserved_share must be in"),
        ({"count": 0}, "count must be in"),
        ({"start": "shared", "absent": "zero"}, "needs reserved rows"),
        ({"evict": "oldest"}, "evict"),
        ({"half_life": 3.0}, "half_life is of evict 'lfu'"),
        ({"admit": "better"}, "evict 'lru' keeps none"),
        ({"width": 9}, "width 9 is more than embedding_dim 8"),
    ):
        with pytest.raises(ValueError, match=message):
            table_of(**given)


POOL: dict[str, Any] = {"pool": True, "start": "zero", "absent": "zero", "max_probe": 16}


def test_rows_of_a_pool_go_to_the_ids_that_come_whatever_they_are_of() -> None:
    table, apart = table_of(**POOL), table_of(start="zero", absent="zero", max_probe=16)
    users = torch.arange(100)
    for made in (table, apart):
        rows = RowAdam(made.row_stores(), lr=0.1)
        made.train()
        made(users, 0)
        made(users[:20], 1)
        assert rows is not None
    assert int(table.holds(users, 0).sum()) > 95 > 85 > int(apart.holds(users, 0).sum())
    assert not bool(table.holds(users[20:], 1).any()), "an item has not the row of the user of its number"
    held = table.ids_held(lambda name: getattr(table, name))
    assert held["user"].tolist() == users[table.holds(users, 0)].tolist()
    assert held["item"].tolist() == users[:20][table.holds(users[:20], 1)].tolist()
    assert set(held) == {"user", "item"}


def test_who_loses_a_row_of_a_pool_is_told_by_the_id_that_it_has_outside() -> None:
    table = table_of("10%", **POOL)
    rows = RowAdam(table.row_stores(), lr=0.1)
    table.evicted, before = [], {"user": set(), "item": set()}
    for step in range(12):
        trained(table, 1, step, rows)
        now = {name: set(ids.tolist()) for name, ids in table.ids_held(lambda name: getattr(table, name)).items()}
        gone = {number for _, ids in table.evicted for number in ids.tolist()}
        assert gone == (before["user"] - now["user"]) | (before["item"] - now["item"])
        table.evicted, before = [], now
    assert table.tallies()["evicted"] > 20


def test_rows_are_as_wide_as_was_asked_and_an_id_without_one_reads_zeros() -> None:
    table = table_of(**POOL, width=3)
    rows = RowAdam(table.row_stores(), lr=0.1)
    table.train()
    ids = torch.arange(40)
    assert torch.count_nonzero(table(ids, 0)) == 0, "rows start at zero"
    (table(ids, 0) - 1).square().sum().backward()
    rows.step()
    vectors = table.eval()(torch.arange(80), 0)
    assert bool((vectors[:40][table.holds(ids, 0)][:, :3] > 0).all())
    assert torch.count_nonzero(vectors[:, 3:]) == torch.count_nonzero(vectors[40:]) == 0
    assert table.store.row_dim == 3


def test_a_budget_gives_every_id_a_narrow_row_first_and_wider_ones_then() -> None:
    plans = [plan("dynamic", OPEN, 16, f"{share}%") for share in (5, 10, 25, 40, 60, 80, 100, 130, 180)]
    held = [(sum(made.config.num_rows), made.config.width) for made in plans]
    every = sum(v.num_embeddings for v in OPEN)
    assert all(width == 2 for rows, width in held if rows < every)
    assert [rows for rows, _ in held] == sorted(rows for rows, _ in held)
    assert [width for _, width in held] == sorted(width for _, width in held)
    assert held[0][0] < held[1][0] < every
    assert len({width for rows, width in held if rows == every}) > 3
    assert plan("dynamic", OPEN, 16).config.width == 16


@pytest.mark.parametrize(("embedding_dim", "width"), [(2, 2), (8, 2), (24, 3), (64, 8)])
def test_narrow_is_an_eighth_and_two_elements_at_least(embedding_dim: int, width: int) -> None:
    assert plan("dynamic", OPEN, embedding_dim, 3_000).config.width == width
    assert plan("dynamic", OPEN, embedding_dim, 8_000, width=0).config.width == 0


@pytest.mark.parametrize(("start", "learns"), [("small", True), ("zero", False)])
def test_a_product_of_two_new_ids_can_be_learned_unless_both_start_at_zero(start: str, learns: bool) -> None:
    table = plan("dynamic", OPEN, 8, 4_000, start=start).build()
    rows = RowAdam(table.row_stores(), lr=0.05)
    table.train()
    ids = torch.tensor([[2**40, 2**50]])
    for step in range(60):
        vectors = table(ids, COLUMNS[:2])
        (vectors[:, 0] * vectors[:, 1]).sum().sub(1.0).square().backward()
        rows.step()
        rows.zero_grad()
        table.after_step(step + 1, rows)
    found = table(ids, COLUMNS[:2])
    assert bool(((found[:, 0] * found[:, 1]).sum() - 1.0).abs() < 0.1) == learns


def test_its_bytes_are_rows_map_clock_counters_and_sketch() -> None:
    for given, row in (
        ({"evict": "lru"}, 32 + 12),
        ({"evict": "lfu", "admit": "count"}, 32 + 16 + 2),
        ({"evict": "lfu", "admit": "better", "width": 3, "pool": True}, 12 + 16 + 2 + 1),
    ):
        table = table_of(**given)
        fixed = (32 if "pool" in given else 24) * 3 + 64
        total = sum(table.config.num_rows)
        assert abs(table.ledger().bytes - fixed - row * total) <= 4


def test_a_swapped_model_admits_ids_in_the_hosts_loop() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(500, 8, mode="sum"), nn.Linear(8, 1))
    result = swap_(model, "dynamic", "20%", init="fresh", gradient="row")
    table = result.tables[0]
    assert isinstance(table, DynamicTable)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    result.step_with(optimizer, RowAdam(table.row_stores(), lr=0.01))
    for step in range(20):
        ids = torch.arange(step * 10, step * 10 + 60).view(20, 3) % 500
        loss = model(ids).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert table.tallies()["now"] == 20
    assert table.tallies()["evicted"] > 50
