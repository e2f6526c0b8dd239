"""What pruned tables are made of: id sets, partitions and rows of several widths."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from rectab.ops import KernelName, RowStore, use_kernel
from rectab.optim import RowAdam
from rectab.tables import TableOptions
from rectab.tables.compact import RaggedRows, index_dtype
from rectab.tables.idset import IdSet
from rectab.tables.learned import Curve
from rectab.tables.ledger import parameters_held
from rectab.tables.partition import IdPartition


def draw(num_ids: int, count: int, seed: int = 0) -> Tensor:
    """int64 [count], ascending."""
    return torch.randperm(num_ids, generator=torch.Generator().manual_seed(seed))[:count].sort().values


def buffer_bytes(module: nn.Module) -> int:
    return sum(buffer.untyped_storage().nbytes() for buffer in module.buffers())


@pytest.mark.parametrize("kernel", ["numba", "torch"])
@pytest.mark.parametrize(
    ("num_ids", "count", "form"),
    [
        (1, 0, "none"),
        (1, 1, "all"),
        (300, 299, "bitmap"),
        (256, 100, "bitmap"),
        (257, 1, "shorts"),
        (70_000, 20_000, "bitmap"),
        (70_000, 5_000, "bytes"),
        (70_000, 200, "shorts"),
        (70_000, 70_000, "all"),
        (70_000, 0, "none"),
    ],
)
def test_ranks_equal_a_count(num_ids: int, count: int, form: str, kernel: KernelName) -> None:
    members = draw(num_ids, count)
    ids = IdSet(num_ids, count).fill(members)
    assert ids.form == form
    expected = torch.zeros(num_ids, dtype=torch.bool)
    expected[members] = True
    with use_kernel(kernel):
        rank, member = ids.rank(torch.arange(num_ids))
    assert torch.equal(member, expected)
    assert torch.equal(rank, expected.long().cumsum(0) - expected.long())
    assert buffer_bytes(ids) == IdSet.bytes_of(num_ids, count)


@pytest.mark.parametrize("first", [0, 256, 40_000, 69_999])
@pytest.mark.parametrize("count", [1, 255, 256, 257, 900])
def test_ranks_where_members_lie_side_by_side(first: int, count: int) -> None:
    """As they do where ids are numbered by frequency: buckets that are full, long lists, the list's very end."""
    run = torch.arange(first, min(first + count, 70_000))
    few, many = torch.tensor([0, 300, 65_536, 69_998]), draw(70_000, 3_000)
    for members in (run, torch.cat([run, few]).unique(), torch.cat([run, many]).unique()):
        ids = IdSet(70_000, len(members)).fill(members)
        every = torch.arange(70_000)
        with use_kernel("torch"):
            expected = ids.rank(every)
        with use_kernel("numba"):
            found = ids.rank(every)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("kernel", ["numba", "torch"])
@pytest.mark.parametrize("span", [2, 16, 300])
@pytest.mark.parametrize("count", [0, 60, 3_000, 40_000, 69_999, 70_000])
def test_members_of_a_range(count: int, span: int, kernel: KernelName) -> None:
    num_ids, members = 70_000, draw(70_000, count)
    ids = IdSet(num_ids, count, span=span).fill(members)
    starts = torch.arange(0, num_ids - span + 1, 7)
    with use_kernel(kernel):
        rank, offset, filled = ids.between(starts, span)
        listed = ids.list_between(starts, span)
    found = torch.full((len(starts), span + 1), -1).scatter(1, torch.where(filled, offset, span), rank)[:, :span]
    rank_of = torch.full((num_ids,), -1)
    rank_of[members] = torch.arange(count)
    expected = rank_of[starts.unsqueeze(1) + torch.arange(span)]
    assert torch.equal(found, expected)
    place, rank = listed
    assert torch.equal(place, (expected.view(-1) >= 0).nonzero().squeeze(1))
    assert torch.equal(rank, expected.view(-1)[place])


@pytest.mark.parametrize("span", [2, 16, 200])
@pytest.mark.parametrize("count", [60, 3_000, 40_000, 69_999])
def test_values_of_a_range(count: int, span: int) -> None:
    num_ids, members = 70_000, draw(70_000, count)
    members[: min(span, count) - 1] = torch.arange(min(span, count) - 1)  # a range that is full but for one
    members = members.unique()
    ids = IdSet(num_ids, len(members), span=span).fill(members)
    values = torch.randn(len(members), generator=torch.Generator().manual_seed(1))
    dense = torch.zeros(num_ids)
    dense[members] = values
    starts = torch.cat([torch.arange(0, num_ids - span + 1, 7), torch.tensor([num_ids - span])])
    found = ids.gather(starts, span, values)
    assert found is not None
    assert torch.equal(found, dense[starts.unsqueeze(1) + torch.arange(span)])


def test_rows_outside_their_group_are_refused() -> None:
    rows = RaggedRows([5, 3], [(0, 1, 2, 3), (0, 1)], 8, TableOptions())
    group, kept = torch.tensor([0, 1]), torch.tensor([True, True])
    with torch.no_grad():
        assert torch.count_nonzero(rows(group, torch.tensor([4, 99]), kept & torch.tensor([True, False]))) == 0
        for place in (3, -1):
            with pytest.raises(IndexError, match=f"row {place} is outside"):
                rows(group, torch.tensor([4, place]), kept)


def test_a_set_is_never_larger_than_packed_ints_or_an_int32_remap() -> None:
    for num_ids in (1_000, 100_000, 10_000_000):
        for share in (0.001, 0.01, 0.1, 0.5, 0.9):
            count = int(num_ids * share)
            packed = num_ids * max(count.bit_length(), 1) // 8
            assert IdSet.bytes_of(num_ids, count) <= min(packed + 64, num_ids * 4 // 28 + 64)


def test_a_set_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(ValueError, match=r"0\.\.10 members"):
        IdSet(10, 11)
    with pytest.raises(ValueError, match="expected 3 members"):
        IdSet(10, 3).fill(torch.tensor([1, 2]))


@pytest.mark.parametrize("sizes", [[10, 20, 30], [0, 60, 0], [59, 1], [1000, 5, 0, 3000, 2000]])
def test_a_partition_gives_part_and_position(sizes: list[int]) -> None:
    num_ids = sum(sizes)
    parts = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    parts = parts[torch.randperm(num_ids, generator=torch.Generator().manual_seed(1))]
    partition = IdPartition(num_ids, sizes)
    partition.fill(parts)
    part, position = partition(torch.arange(num_ids))
    assert torch.equal(part, parts)
    for index, size in enumerate(sizes):
        assert torch.equal(position[parts == index], torch.arange(size))
    assert buffer_bytes(partition) == IdPartition.bytes_of(num_ids, sizes)
    with pytest.raises(ValueError, match="the parts hold"):
        IdPartition(num_ids + 1, sizes)


RAGGED = [
    pytest.param([5, 3, 0], [(0, 1, 2, 3), (0, 1), ()], id="prefixes"),
    pytest.param([5, 3], [(0, 1, 2), (0, 1, 2)], id="equal"),
    pytest.param([4, 2, 0, 7], [(1, 5), (0, 2, 3, 4), (), (7,)], id="any"),
    pytest.param([4, 2, 3], [(1, 17, 36), tuple(range(37)), (2, 16)], id="wide"),
]


@pytest.mark.parametrize(("num_rows", "columns"), RAGGED)
def test_ragged_rows_give_what_was_put_in(num_rows: list[int], columns: list[tuple[int, ...]]) -> None:
    dim, options = max(8, 1 + max(max(kept, default=0) for kept in columns)), TableOptions(gradient="row")
    rows = RaggedRows(num_rows, columns, dim, options)
    held = [p for _, p in parameters_held(rows)]
    assert sum(p.numel() for p in held) == sum(n * len(c) for n, c in zip(num_rows, columns, strict=True))
    full = [torch.randn(n, dim, generator=torch.Generator().manual_seed(n)) for n in num_rows]
    for group, vectors in enumerate(full):
        if num_rows[group]:
            rows.fill(group, vectors)
    group = torch.repeat_interleave(torch.arange(len(num_rows)), torch.tensor(num_rows))
    position = torch.cat([torch.arange(n) for n in num_rows])
    kept = torch.arange(len(group)) % 3 != 0
    mask = torch.zeros(len(num_rows), dim)
    for index, chosen in enumerate(columns):
        mask[index, list(chosen)] = 1.0
    expected = torch.cat(full) * mask[group] * kept.unsqueeze(1)
    with torch.no_grad():
        assert torch.equal(rows(group, position, kept), expected)
    assert torch.equal(
        rows._masked(rows.width[group].where(kept, 0), rows.first[group] + position),
        rows._sorted(rows.width[group].where(kept, 0), rows.first[group] + position),
    ), "exports look rows up another way"
    square = (slice(0, 4), None)
    assert torch.equal(rows(group[square], position[square], kept[square]), expected[square]), "of any shape"
    total = sum(p.untyped_storage().nbytes() for p in [*held, *rows.buffers()])
    assert total == RaggedRows.bytes_of(num_rows, columns, dim, options)


def test_training_touches_only_rows_that_were_read() -> None:
    rows = RaggedRows([2, 2], [(0, 1), (0, 1, 2, 3)], 4, TableOptions(gradient="row"))
    stores = {name: store for name, store in rows.stores.items() if isinstance(store, RowStore)}
    for store in stores.values():
        store.weight.data.fill_(1.0)
    optimizer = RowAdam(stores.items(), lr=0.1)
    for _ in range(3):
        kept = torch.tensor([True, False])
        rows(torch.tensor([1, 0]), torch.tensor([1, 0]), kept).sum().backward()
        optimizer.step()
    changed = {name: (store.weight != 1.0).all(1).tolist() for name, store in stores.items()}
    assert changed == {"2": [False, False], "4": [False, True]}


def test_ragged_rows_refuse_impossible_groups() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        RaggedRows([0], [()], 4, TableOptions())
    with pytest.raises(ValueError, match="exactly if it has rows"):
        RaggedRows([2, 1], [(), (0,)], 4, TableOptions())
    with pytest.raises(ValueError, match="ascending"):
        RaggedRows([2], [(1, 0)], 4, TableOptions())
    with pytest.raises(ValueError, match="ascending"):
        RaggedRows([2], [(0, 4)], 4, TableOptions())


@pytest.mark.parametrize(("largest", "dtype"), [(127, "int8"), (128, "int16"), (32_768, "int32"), (2**31, "int64")])
def test_indexes_are_as_narrow_as_they_can_be(largest: int, dtype: str) -> None:
    assert index_dtype(largest) == getattr(torch, dtype)


def test_a_curve_keeps_evenly_spread_points_and_survives_a_state_dict() -> None:
    curve = Curve(1, capacity=8)
    for step in range(1, 101):
        curve.add(step, torch.tensor([float(step)]))
    steps, values = curve.points()
    assert 4 <= len(steps) <= 8
    assert [float(step) for step in steps] == [value for (value,) in values]
    gaps = {b - a for a, b in itertools.pairwise(steps)}
    assert len(gaps) == 1
    restored = Curve(1, capacity=8)
    restored.load_state_dict(curve.state_dict())
    assert restored.points() == (steps, values)
