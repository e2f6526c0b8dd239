"""How rows are held: every format reads what it wrote, counts its bytes, rounds fairly, and trains where it says so."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rectab.ops import FloatFormat, RowStore, every_format, formats, get_format, served_format, use_kernel
from rectab.ops.formats import LatentFormat, RowFormat, register_format
from rectab.optim import RowAdagrad, RowAdam, RowSGD
from rectab.schema import Vocabulary
from rectab.tables import TableOptions, build_table, load_table, plan, save_table

FORMATS = [pytest.param(f, id=f.name) for f in formats()]
LOST = {"int4": 0.03, "fused4": 0.03, "int3": 0.12, "int2": 0.4, "fused2": 0.4, "ternary": 0.6, "int1": 0.6}
"""Of the loss at the start, what so few levels may leave when every row has a target of random elements."""
LATENT = [f.name for f in formats() if isinstance(f, LatentFormat)]  # tests/test_ops_steps.py
TRAINED = [f.name for f in formats() if f.trains and f.name not in ("fp64", *LATENT)]
COARSEST = {"fp64": 0.0, "fp32": 0.0, "fp16": 2.0**-11, "bf16": 2.0**-8, "int16": 1 / 32511, "int8": 1 / 127}
COARSEST |= {"int6": 1 / 31, "int4": 1 / 7, "int3": 1 / 3, "int2": 2 / 3, "ternary": 1.0, "int1": 2.0}
COARSEST |= dict.fromkeys(LATENT, 0.0) | {"fused8": 2 / 255, "fused4": 2 / 15, "fused2": 2 / 3}
"""Largest step between neighbours, as a share of the row's largest element."""


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def held(row_format: RowFormat, values: Tensor, salt: int | None = None) -> dict[str, Tensor]:
    tensors = row_format.tensors(*values.shape)
    row_format.write(tensors, torch.arange(len(values)), values, salt)
    return tensors


@pytest.mark.parametrize("row_format", FORMATS)
@pytest.mark.parametrize("dim", [1, 3, 8, 10])
def test_bytes_of_a_row_are_those_of_the_tensors(row_format: RowFormat, dim: int) -> None:
    tensors = row_format.tensors(1000, dim, "meta")
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert size == 1000 * row_format.row_bytes(dim)
    assert all(tensor.shape[0] == 1000 for tensor in tensors.values())


@pytest.mark.parametrize("row_format", FORMATS)
@pytest.mark.parametrize("salt", [None, 7])
def test_what_is_read_is_near_what_was_written(row_format: RowFormat, salt: int | None) -> None:
    values = torch.randn(50, 6, generator=drawn(0)) * torch.logspace(-4, 2, 50).unsqueeze(1)
    values[3] = 0.0
    tensors = held(row_format, values, salt)
    rows = torch.tensor([[49, 0], [3, 3]])
    read = row_format.read(tensors, rows, 6)
    assert read.shape == (2, 2, 6)
    error = (read - values[rows]).abs() / values[rows].abs().amax(-1, keepdim=True).clamp(min=1e-9)
    assert float(error.max()) <= COARSEST[row_format.name] * 1.01
    assert read[1].count_nonzero() == 0


@pytest.mark.parametrize("row_format", FORMATS)
@pytest.mark.parametrize("salt", [None, 1, 2])
def test_a_row_that_is_written_back_as_it_was_read_stays_what_it_is(row_format: RowFormat, salt: int | None) -> None:
    tensors = held(row_format, torch.randn(40, 7, generator=drawn(1)) * 1e-3)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    rows = torch.arange(40)
    row_format.write(tensors, rows, row_format.read(tensors, rows, 7), salt)
    for name, tensor in tensors.items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("name", [name for name, steps in COARSEST.items() if steps])
def test_stochastic_rounding_is_right_on_average_and_differs_by_row_and_salt(name: str) -> None:
    row_format, values = get_format(name), torch.tensor([[1.0, 0.3003, -0.1234567, 0.77]]).expand(4000, 4).contiguous()
    read = row_format.read(held(row_format, values, 5), torch.arange(4000), 4)
    steps = COARSEST[name]
    # Of few levels, what lies beyond the last is clipped.
    low, high = (float(read.min()), float(read.max())) if steps > 0.15 else (-1.0, 1.0)
    torch.testing.assert_close(read.mean(0), values[0].clamp(low, high), rtol=0, atol=4 * steps / 4000**0.5)
    assert read[:, 1].unique().numel() == 2
    again = row_format.read(held(row_format, values, 6), torch.arange(4000), 4)
    assert not torch.equal(read, again)


@pytest.mark.parametrize("name", TRAINED)
def test_what_lay_in_memory_before_the_first_write_is_not_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row_format, values, empty = get_format(name), torch.randn(300, 5, generator=drawn(0)), torch.empty
    written = []
    for byte in (0, 60, 127, 255):

        def used(*shape: int, byte: int = byte, **options: Any) -> Tensor:
            memory = empty(*shape, **options)
            memory.view(torch.uint8).fill_(byte)
            return memory

        monkeypatch.setattr(torch, "empty", used)
        tensors = held(row_format, values, 5)
        written.append({key: tensor.view(torch.uint8).clone() for key, tensor in tensors.items()})
    for other in written[1:]:
        assert all(torch.equal(tensor, other[key]) for key, tensor in written[0].items())


def test_rounding_of_int8_keeps_its_numbers() -> None:
    """Golden: a checkpoint that is trained on rounds as it would have done before."""
    values = torch.tensor([[0.5, -0.25, 0.1, 0.013], [3.0, 1.0, -2.0, 0.7]])
    tensors = get_format("int8").tensors(9, 4)
    get_format("int8").write(tensors, torch.tensor([8, 2]), values, 1234)
    assert tensors["codes"][[8, 2]].tolist() == [[127, -63, 25, 4], [127, 42, -85, 30]]
    assert tensors["scale"][[8, 2]].view(torch.int16).tolist() == [7177, 9741]


@pytest.mark.parametrize("row_format", FORMATS)
def test_a_row_outside_is_refused(row_format: RowFormat) -> None:
    store = RowStore(4, 2, rows=row_format.name, gradient="row")
    with torch.no_grad(), pytest.raises(IndexError):
        store(torch.tensor([4]))


@pytest.mark.parametrize(
    "row_format", [pytest.param(f, id=f.name) for f in every_format() if not isinstance(f, FloatFormat)]
)
@pytest.mark.parametrize("dim", [1, 3, 8, 10, 16, 17, 33])
def test_kernels_read_the_same_floats_as_torch(row_format: RowFormat, dim: int) -> None:
    """Also the last rows of the arrays, behind which there is nothing to read."""
    for num_rows in (1, 2, 500):
        tensors = held(row_format, torch.randn(num_rows, dim, generator=drawn(dim)) * 0.05)
        rows = torch.cat([torch.arange(num_rows), torch.randint(num_rows, (700,), generator=drawn(1))]).view(-1, 1)
        read = {}
        for kernel in ("torch", "numba"):
            with use_kernel(kernel):  # type: ignore[arg-type]
                read[kernel] = row_format.read(tensors, rows, dim)
        assert read["torch"].shape == (*rows.shape, dim)
        assert torch.equal(read["numba"], read["torch"])


def test_values_that_are_not_finite_stay_visible() -> None:
    for row_format in formats():
        for bad in (float("nan"), float("inf")):
            tensors = held(row_format, torch.tensor([[1.0, bad, 0.5], [1.0, 2.0, 3.0]]))
            read = row_format.read(tensors, torch.arange(2), 3)
            assert not torch.isfinite(read[0]).all()
            assert torch.isfinite(read[1]).all()


def test_names_are_checked() -> None:
    with pytest.raises(ValueError, match=r"no row format 'int9'; did you mean 'int8'\?"):
        TableOptions(rows="int9")
    with pytest.raises(ValueError, match="registered already"):
        register_format(FloatFormat("fp32", torch.float32))
    with pytest.raises(ValueError, match="gradient 'row'"):
        RowStore(3, 2, rows="int8", gradient="dense")


# In a store.


@pytest.mark.parametrize("rows", TRAINED)
@pytest.mark.parametrize("optimizer", [RowSGD, RowAdagrad, RowAdam])
def test_rows_of_every_format_learn_the_same(rows: str, optimizer: Any) -> None:
    final = {}
    for name in ("fp32", rows):
        store = RowStore(30, 6, init_std=0.1, generator=drawn(1), rows=name)
        step = optimizer([("t", store)], lr=0.05)
        targets = torch.randn(30, 6, generator=drawn(2))
        for count in range(150):
            read = torch.randint(0, 30, (16,), generator=drawn(count))
            step.zero_grad()
            (store(read) - targets[read]).square().sum().mul(0.2).backward()
            step.step()
        final[name] = (store.read(slice(None)) - targets).square().mean()
    start = targets.square().mean()
    assert float(final[rows]) < float(final["fp32"]) + LOST.get(rows, 0.03) * float(start)


def test_untouched_rows_of_int8_do_not_move() -> None:
    store = RowStore(10, 4, rows="int8", generator=drawn(0))
    before = {name: tensor.clone() for name, tensor in store.tensors.items()}
    optimizer = RowAdam([("t", store)], lr=0.1)
    store(torch.tensor([2, 5, 5])).sum().backward()
    optimizer.step()
    moved = {
        row for name, tensor in store.tensors.items() for row in range(10) if (tensor[row] != before[name][row]).any()
    }
    assert moved == {2, 5}


@pytest.mark.parametrize("rows", TRAINED)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_step_whose_lookups_were_empty_moves_nothing(rows: str, decay: float) -> None:
    store = RowStore(10, 4, rows=rows, generator=drawn(0))
    before = store.read(slice(None))
    optimizer = RowAdam([("t", store)], lr=0.1, weight_decay=decay)
    store(torch.zeros(0, 3, dtype=torch.int64)).sum().backward()
    optimizer.step()
    assert torch.equal(store.read(slice(None)), before)


def test_what_is_trained_is_a_switch() -> None:
    store = RowStore(5, 2, rows="int8", generator=drawn(0))
    assert store.trained
    store.trained = False
    assert not store(torch.tensor([1])).requires_grad
    frozen = RowStore(5, 2).requires_grad_(False)
    assert not frozen.trained


@pytest.mark.parametrize("rows", TRAINED)
def test_a_store_is_copied_moved_and_loaded_with_its_format(rows: str) -> None:
    store = RowStore(6, 3, rows=rows, generator=drawn(3), init_std=1.0)
    everything = torch.arange(6)
    for other in (copy.deepcopy(store), RowStore(6, 3, rows=rows), store.to("cpu")):
        other.load_state_dict(store.state_dict())
        assert torch.equal(other(everything), store(everything))
    assert store(everything).dtype == torch.float32
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        converted = copy.deepcopy(store).to(dtype)
        if rows == "int8":
            assert torch.equal(converted(everything), store(everything).to(dtype))
            assert torch.equal(converted.scale, store.scale)


# In a table.


@pytest.mark.parametrize("rows", [f.name for f in formats()])
@pytest.mark.parametrize("method", ["full", "unified", "hashed"])
def test_a_table_is_planned_held_and_saved_in_its_format(rows: str, method: str, tmp_path: Path) -> None:
    vocabularies = [Vocabulary("a", 700), Vocabulary("b", 90)]
    planned = plan(method, vocabularies, 8, None if method == "full" else "20%", options=TableOptions(rows=rows))
    table = planned.build().serving()
    assert table.ledger().bytes == planned.serving.bytes
    assert set(table.ledger().by_kind()) == {"rows", "index"}
    if planned.budget_bytes is not None:
        row, every = table.options.row_bytes(8), method == "hashed" and planned.config.num_rows == (700, 90)
        assert planned.budget_bytes - row < planned.serving.bytes or every
        assert planned.serving.bytes <= planned.budget_bytes
    save_table(table, tmp_path / "table")
    loaded = load_table(tmp_path / "table")
    assert loaded.options.rows == served_format(rows).name
    assert loaded.ledger() == table.ledger()
    ids, columns = torch.randint(0, 90, (50, 2), generator=drawn(0)), torch.arange(2)
    assert torch.equal(loaded(ids, columns), table(ids, columns))


@pytest.mark.parametrize("method", ["full", "unified", "hashed"])
def test_int8_tables_train(method: str) -> None:
    vocabularies = [Vocabulary("a", 50), Vocabulary("b", 40)]
    config = plan(method, vocabularies, 8, None if method == "full" else "60%").config
    wanted, columns, last = torch.randn(50, generator=drawn(0)), torch.arange(2), {}
    for rows in ("fp32", "int8"):
        table = build_table(method, vocabularies, 8, config, TableOptions(rows=rows))
        assert [name for name, _ in table.row_stores()] == ["store"]
        assert list(table.dense_parameters()) == []
        optimizer, losses = RowAdam(table.row_stores(), lr=0.02), []
        for step in range(120):
            ids = torch.randint(0, 40, (64, 2), generator=drawn(step))
            loss = (table(ids, columns).sum((1, 2)) - wanted[ids].sum(1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        last[rows] = sum(losses[-10:]) / sum(losses[:10])
    assert last["int8"] < last["fp32"] + 0.02 < 1
