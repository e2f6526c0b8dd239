"""A small model on the CPU and on the device, twice on the device, and whether a step waits for the device."""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.gpu_check.comparison import Comparison
from bench.gpu_check.setting import Setting
from bench.gpu_check.small_models import Task, Training, dcnv2_task, din_task
from rectab.ops import use_kernel

__all__ = ["TOLERANCE", "small_models", "waiting"]

TOLERANCE = 1e-3
"""How far a loss on the device may be from that on the CPU, as a share of it, over all steps of the comparison."""


_FORMATS = ("fp32", "int8", "bf16", "int4")


def small_models(setting: Setting) -> list[dict[str, Any]]:
    """DCNv2 and DIN from the same weights: losses on the CPU and on the device, and twice the same bits there."""
    compared = Comparison()
    for name, task in _tasks(setting).items():
        for rows in _FORMATS[: 2 if setting.dry else None]:
            case = f"{name}, rows {rows}"
            compared.case("losses", case, lambda t=task, r=rows, c=case: _compare(setting, compared, t, r, c))
    return compared.rows()


def _tasks(setting: Setting) -> dict[str, Task]:
    steps, size = (2, 4) if setting.dry else (40, 1024)
    return {
        "dcnv2": dcnv2_task(2600, size, steps, hidden=(16,) if setting.dry else (128, 64)),
        "din": din_task(3000, size, steps, mean_length=3 if setting.dry else 20),
    }


def _compare(setting: Setting, compared: Comparison, task: Task, rows: str, case: str) -> None:
    expected, _ = _losses(setting, task, torch.device("cpu"), rows, "auto")
    got, weights = _losses(setting, task, setting.device, rows, "triton")
    compared.near("losses", case, got.cpu(), expected, TOLERANCE * expected.double())
    again, other = _losses(setting, task, setting.device, rows, "triton")
    compared.equal("the same bits again", f"{case}, losses", again, got)
    for name, tensor in weights.items():
        compared.equal("the same bits again", f"{case}, {name}", other[name], tensor)


def _losses(
    setting: Setting, task: Task, device: torch.device, rows: str, kernel: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of every step, and the weights after the last."""
    training = Training(task, device, rows=rows, seed=setting.seed)  # drawn on the CPU
    with use_kernel(kernel):
        losses = torch.stack([training.step(batch.to(device)) for batch in task.batches])
        return losses, training.model.state_dict()


def waiting(setting: Setting) -> list[dict[str, Any]]:
    """Where the host waits for the device within a step; nowhere, it should be."""
    compared = Comparison()
    for name, task in _tasks(setting).items():
        for rows in _FORMATS[: 2 if setting.dry else None]:
            places = _places_of_waiting(setting, task, rows)
            compared.holds("no waiting", f"{name}, rows {rows}: {'; '.join(places)}", not places)
    return compared.rows()


def _places_of_waiting(setting: Setting, task: Task, rows: str) -> list[str]:
    training = Training(task, setting.device, rows=rows, seed=setting.seed)
    with use_kernel("triton"):
        first, second = (batch.to(setting.device) for batch in task.batches[:2])
        training.step(first)
        with _watching(setting) as places:
            training.step(second)
    return [f"{place} ({count} x)" for place, count in Counter(places).most_common(12)]


@contextmanager
def _watching(setting: Setting) -> Iterator[list[str]]:
    """Places in the code that wait for the device, as they are met."""
    places: list[str] = []
    if setting.device.type == "cuda":
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield places
            finally:
                torch.cuda.set_sync_debug_mode("default")
        places += [f"{w.filename}:{w.lineno}" for w in caught if "called a synchronizing" in str(w.message)]
        return
    with _HostReads(places):
        yield places


class _HostReads(TorchDispatchMode):
    """On the CPU nobody waits; operations that would on a GPU are noted instead.

    All but conditions that a GPU asserts by itself (:func:`rectab.ops.dispatch.holds`).
    """

    _WAIT = frozenset(
        {"_local_scalar_dense", "nonzero", "_unique2", "unique_consecutive", "unique_dim", "masked_select", "bincount"}
    )

    def __init__(self, places: list[str]) -> None:
        super().__init__()
        self._places = places

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        indices = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        by_mask = any(isinstance(i, Tensor) and i.dtype == torch.bool for i in indices)
        unsized = name == "repeat_interleave" and kwargs.get("output_size") is None
        if by_mask or unsized or name in self._WAIT:
            place = _place()
            if " holds" not in place:
                self._places.append(f"{place} {name}")
        return func(*args, **kwargs)


def _place() -> str:
    """The innermost line of rectab's in the stack."""
    for frame in reversed(traceback.extract_stack()):
        if "/rectab/" in frame.filename:
            return f"{frame.filename.rpartition('/rectab/')[2]}:{frame.lineno} {frame.name}"
    return "outside rectab"
