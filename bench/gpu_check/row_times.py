"""Times of lookups, row formats and row optimizers beside torch's, as shares of the copy bandwidth."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.gpu_check.setting import Setting, timed
from bench.workloads import Workload
from rectab.ops import FloatFormat, RowStore, every_format
from rectab.optim import RowAdagrad, RowAdam

__all__ = ["format_times", "row_times", "sizes"]

DIM = 16
_Run = Callable[[Tensor], object]
_ADAM_STATE, _ADAGRAD_STATE = 8 * DIM + 4, 4


def sizes(setting: Setting) -> tuple[int, ...]:
    """Rows of the tables that are timed."""
    return (2600,) if setting.dry else (1_400_000, 14_000_000, 100_000_000)


def _batches(setting: Setting, num_rows: int) -> list[Tensor]:
    """int64 [B, 26] row numbers, by a Zipf law over every feature."""
    workload = Workload(num_rows, DIM, batch_size=16 if setting.dry else 65_536)
    return [batch.to(setting.device) for batch in workload.batches(1 if setting.dry else 3)]


def row_times(setting: Setting) -> list[dict[str, Any]]:
    """Lookups and whole steps (lookup, backward, update) of fp32 rows, and the update alone."""
    rows = []
    for num_rows in sizes(setting):
        batches = _batches(setting, num_rows)
        lookups = batches[0].numel()
        distinct = sum(batch.unique().numel() for batch in batches) / len(batches)
        for name, moved, make in _contenders(setting, num_rows, lookups, distinct):
            rows.append({"rows": num_rows, "name": name, **_measured(setting, make, batches, moved)})
    return rows


def _measured(
    setting: Setting, make: Callable[[list[Tensor]], _Run], batches: list[Tensor], moved: float
) -> dict[str, Any]:
    """Times and the share of the copy bandwidth; or why there are none."""
    try:
        found = timed(setting, make(batches), batches)
        return {**found, "moved_bytes": moved, "copy_share": setting.share(moved, found["device_ms"])}
    except (torch.OutOfMemoryError, ImportError) as error:
        return {"left_out": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    finally:
        gc.collect()
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()


def _contenders(
    setting: Setting, num_rows: int, lookups: int, distinct: float
) -> Iterator[tuple[str, float, Callable[[list[Tensor]], _Run]]]:
    """(name, bytes that must at least be moved, what makes the call).

    A lookup reads its numbers and a row, and writes a vector. An update reads a gradient, and reads and writes a row
    and its state, of every distinct row. A step is both, and reads the gradients of all vectors.
    """
    device, row = setting.device, 4 * DIM
    lookup = lookups * (8 + 2 * row)

    def update(state: int) -> float:
        return distinct * (8 + row + 2 * (row + state))

    def step(state: int) -> float:
        return lookup + lookups * row + update(state)

    shape = (num_rows, DIM)
    yield "RowStore lookup", lookup, lambda _: RowStore(*shape, device=device)
    yield "nn.Embedding lookup", lookup, lambda _: nn.Embedding(*shape, device=device)
    for name, optimizer, state in (("RowAdagrad", RowAdagrad, _ADAGRAD_STATE), ("RowAdam", RowAdam, _ADAM_STATE)):
        yield f"{name} update", update(state), partial(_update, device, shape, optimizer)
        yield f"{name} step", step(state), partial(_step, device, shape, optimizer)
    yield "RowAdam + L2 step", step(_ADAM_STATE), partial(_step, device, shape, partial(RowAdam, weight_decay=1e-5))
    yield "Embedding + SparseAdam step", step(_ADAM_STATE), partial(_torch_step, device, shape, True)
    dense = step(_ADAM_STATE) + num_rows * (3 * row + 2 * _ADAM_STATE)
    yield "Embedding + fused Adam step", dense, partial(_torch_step, device, shape, False)
    yield "FBGEMM TBE Adagrad step", step(_ADAGRAD_STATE), partial(_tbe_step, device, shape)


def _update(device: torch.device, shape: tuple[int, int], optimizer: Any, batches: list[Tensor]) -> _Run:
    """Of the distinct rows of each batch, whose gradients are summed already."""
    store = RowStore(*shape, device=device)
    rows = optimizer([("rows", store)])
    summed = {id(b): (b.unique(), torch.randn(b.unique().numel(), shape[1], device=device)) for b in batches}
    return lambda batch: rows.rows["rows"].update(*summed[id(batch)], 1e-3)


def _step(device: torch.device, shape: tuple[int, int], optimizer: Any, batches: list[Tensor]) -> _Run:
    store = RowStore(*shape, device=device)
    rows = optimizer([("rows", store)])
    gradient = torch.randn(*batches[0].shape, shape[1], device=device) * 0.01

    def step(batch: Tensor) -> None:
        store(batch).backward(gradient)
        rows.step()

    return step


def _torch_step(device: torch.device, shape: tuple[int, int], sparse: bool, batches: list[Tensor]) -> _Run:
    module = nn.Embedding(*shape, sparse=sparse, device=device)
    parameters = [module.weight]
    optimizer = torch.optim.SparseAdam(parameters) if sparse else torch.optim.Adam(parameters, fused=True)
    gradient = torch.randn(*batches[0].shape, shape[1], device=device) * 0.01

    def step(batch: Tensor) -> None:
        optimizer.zero_grad()
        module(batch).backward(gradient)
        optimizer.step()

    return step


def _tbe_step(device: torch.device, shape: tuple[int, int], batches: list[Tensor]) -> _Run:
    """FBGEMM's fused table-batched embedding: one table, bags of one."""
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    cpu = device.type == "cpu"
    place = (EmbeddingLocation.HOST, ComputeDevice.CPU) if cpu else (EmbeddingLocation.DEVICE, ComputeDevice.CUDA)
    tables = SplitTableBatchedEmbeddingBagsCodegen([(*shape, *place)], optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD)
    offsets = torch.arange(batches[0].numel() + 1, device=device)
    gradient = torch.randn(batches[0].numel(), shape[1], device=device) * 0.01
    return lambda batch: tables(batch.flatten(), offsets).backward(gradient)


def format_times(setting: Setting) -> list[dict[str, Any]]:
    """Lookups from rows of every format, a row Adam step of those that are trained, and, of rows that are not floats,
    the writing of a batch's distinct rows alone."""
    num_rows = sizes(setting)[min(1, len(sizes(setting)) - 1)]
    batches = _batches(setting, num_rows)
    lookups, rows = batches[0].numel(), []
    distinct = sum(batch.unique().numel() for batch in batches) / len(batches)
    for row_format in every_format():
        name = row_format.name
        if name == "fp64":
            continue
        moved = lookups * (8 + row_format.row_bytes(DIM) + 4 * DIM)
        make = partial(_store, setting.device, num_rows, name)
        rows.append({"rows": num_rows, "name": f"{name} lookup", **_measured(setting, make, batches, moved)})
        if not row_format.trains:
            continue
        make = partial(_format_step, setting.device, num_rows, name)
        rows.append({"rows": num_rows, "name": f"{name} step", **_measured(setting, make, batches, moved)})
        if not isinstance(row_format, FloatFormat):
            moved = distinct * (8 + 4 * DIM + 2 * row_format.row_bytes(DIM))
            make = partial(_format_write, setting.device, num_rows, name)
            rows.append({"rows": num_rows, "name": f"{name} write", **_measured(setting, make, batches, moved)})
    return rows


def _store(device: torch.device, num_rows: int, name: str, batches: list[Tensor]) -> _Run:
    return RowStore(num_rows, DIM, rows=name, init_std=0.0, device=device)


def _format_write(device: torch.device, num_rows: int, name: str, batches: list[Tensor]) -> _Run:
    store = RowStore(num_rows, DIM, rows=name, device=device)
    written = {id(b): (b.unique(), torch.randn(b.unique().numel(), DIM, device=device) * 0.01) for b in batches}
    return lambda batch: store.write(*written[id(batch)], 7)


def _format_step(device: torch.device, num_rows: int, name: str, batches: list[Tensor]) -> _Run:
    store = RowStore(num_rows, DIM, rows=name, device=device)
    rows = RowAdam([("rows", store)])
    gradient = torch.randn(*batches[0].shape, DIM, device=device) * 0.01

    def step(batch: Tensor) -> None:
        store(batch).backward(gradient)
        rows.step()

    return step
