"""Where the parts run, how large they are there, and how a call is timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Setting", "timed"]

_CALLS = 20
_ROUNDS = 5
_SLEEP_CYCLES = 100_000_000  # some 50 ms: long enough for the host to be far ahead of the device


@dataclass(frozen=True)
class Setting:
    """Attributes:
    device: what is checked: a GPU, or the CPU in a dry run.
    dry: kernels run in triton's interpreter, sizes are tiny and times mean nothing.
    seed: of all random inputs.
    copy_bandwidth: bytes a second, read and written, of a copy on the device.
    """

    device: torch.device
    dry: bool
    seed: int
    copy_bandwidth: float

    def generator(self, number: int = 0) -> torch.Generator:
        """On the CPU: one seed draws the same inputs for every device."""
        return torch.Generator().manual_seed(self.seed * 1000 + number)

    def normal(self, *shape: int, number: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, generator=self.generator(number)).to(self.device, dtype)

    def integers(self, low: int, high: int, *shape: int, number: int = 0) -> Tensor:
        return torch.randint(low, high, shape, generator=self.generator(number)).to(self.device)

    def wait(self) -> None:
        """Until the device has done all that was asked of it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def share(self, moved_bytes: float, milliseconds: float) -> float:
        """Of the copy bandwidth."""
        return moved_bytes / (milliseconds * 1e-3) / self.copy_bandwidth


def copy_bandwidth(device: torch.device, dry: bool) -> float:
    """Bytes a second, read and written, of a copy larger than the caches."""
    source = torch.ones((1 << 16) if dry else (1 << 28), device=device)
    target = torch.empty_like(source)
    setting = Setting(device, dry, 0, 1.0)
    milliseconds = timed(setting, lambda _: target.copy_(source), [None])["device_ms"]
    return 2 * source.numel() * 4 / (milliseconds * 1e-3)


def timed(setting: Setting, run: Callable[[Any], object], inputs: Sequence[Any]) -> dict[str, float]:
    """Milliseconds of one call, inputs in turn; medians over rounds.

    Returns:
        ``ms``: as a loop over it would take, host and device. ``device_ms``: of the device alone: the host hands in
        calls while the device still waits, so that it is not waited for (unless a call waits for the device itself).
    """
    for number in range(1 if setting.dry else 4):
        run(inputs[number % len(inputs)])
    setting.wait()
    rounds, calls = (1, 1) if setting.dry else (_ROUNDS, _CALLS)
    wall, device = np.empty(rounds), np.empty(rounds)
    for number in range(rounds):
        wall[number] = _wall(setting, run, inputs, calls)
        device[number] = wall[number] if setting.device.type == "cpu" else _on_device(run, inputs, calls)
    return {"ms": float(np.median(wall)), "device_ms": float(np.median(device))}


def _wall(setting: Setting, run: Callable[[Any], object], inputs: Sequence[Any], calls: int) -> float:
    setting.wait()
    begin = time.perf_counter()
    for number in range(calls):
        run(inputs[number % len(inputs)])
    setting.wait()
    return (time.perf_counter() - begin) / calls * 1e3


def _on_device(run: Callable[[Any], object], inputs: Sequence[Any], calls: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(_SLEEP_CYCLES)
    begin.record()
    for number in range(calls):
        run(inputs[number % len(inputs)])
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / calls
