"""What a run ran on: device, precision of the dense part, memory of the process."""

from __future__ import annotations

import resource
import sys
from itertools import chain
from pathlib import Path

import torch
from torch import nn

__all__ = ["device_of", "peak_memory_bytes", "reset_peak_memory", "resolve_precision"]


def device_of(module: nn.Module) -> str:
    """Name of the device that holds the tensors: ``cpu``, or a GPU's; several are joined with `` + ``."""
    devices = sorted({tensor.device for tensor in chain(module.parameters(), module.buffers())}, key=str)
    return " + ".join(torch.cuda.get_device_name(d) if d.type == "cuda" else d.type for d in devices)


def resolve_precision(precision: str, device: torch.device) -> tuple[bool, str]:
    """(whether to autocast to bf16 on ``device``, what to write into the result, such as ``bf16 (avx512_bf16)``)."""
    unit = _bf16_unit() if device.type == "cpu" else _bf16_unit_of_gpu(device)
    if precision == "fp32" or (precision == "auto" and unit is None):
        return False, "fp32"
    return True, f"bf16 ({unit or 'emulated'})"


def _bf16_unit() -> str | None:
    """The processor's unit for bf16 products, or None."""
    checks = {"amx": "_is_amx_tile_supported", "avx512_bf16": "_is_avx512_bf16_supported"}
    for unit, check in checks.items():
        if getattr(torch.cpu, check, lambda: False)():
            return unit
    return None


def _bf16_unit_of_gpu(device: torch.device) -> str | None:
    """The GPU's tensor cores, if they take bf16 (Ampere and later), or None."""
    return "tensor cores" if torch.cuda.get_device_capability(device) >= (8, 0) else None


def reset_peak_memory() -> None:
    """Start measuring the peak anew where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory_bytes() -> int:
    """Most memory this process has held at once since :func:`reset_peak_memory` (elsewhere: since it started)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
