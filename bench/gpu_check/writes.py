"""Updated rows of few bits, written by the kernels on the device, beside the reference on the CPU.

On the CPU because torch divides by a number otherwise on CUDA, where scales may be the next ones.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from bench.gpu_check.comparison import Comparison
from bench.gpu_check.setting import Setting
from rectab.ops import formats, use_kernel
from rectab.ops.dispatch import kernels_for
from rectab.ops.formats import FloatFormat, FusedFormat, RowFormat
from rectab.ops.grids import GRIDS
from rectab.ops.whole_formats import learned_format

__all__ = ["writes"]

_BY_SUMS = ("int3", "int2", "ternary", "int1", "fused2")
_SELDOM = 0.05


def writes(setting: Setting) -> list[dict[str, Any]]:
    """Bytes of rows after three writes, of every format that is not floats; and codes that reach across bytes read."""
    compared = Comparison()
    dims = (5,) if setting.dry else (1, 5, 16, 64, 130)
    named = [(f.name, f) for f in formats() if not isinstance(f, FloatFormat)]
    learned = [(f"learned{bits}", learned_format(bits, 0.01)) for bits in (8, 6, 4)]
    for (name, row_format), dim in product([*named, *learned], dims):
        compared.case("writes", f"{name}, {dim}", partial(_write, setting, compared, name, row_format, dim))
    for name, dim in product(("int6", "int3"), (5, 16) if setting.dry else (5, 8, 16, 24, 64, 130)):
        compared.case("codes across bytes", f"{name}, {dim}", partial(_across_bytes, setting, compared, name, dim))
    return compared.rows()


def _write(setting: Setting, compared: Comparison, name: str, row_format: RowFormat, dim: int) -> None:
    got, expected = (_written(setting, kernel, row_format, dim) for kernel in ("triton", "torch"))
    if name not in _BY_SUMS:
        for key, tensor in expected.items():
            compared.equal("writes", f"{name}, {dim}, {key}", got[key], tensor)
        return
    # A sum over the row chooses its scale: of two that are equally good it may be either.
    differs = torch.stack([(got[key] != t).flatten(1).any(1) for key, t in _by_row(expected)]).any(0)
    allowed = max(_SELDOM, 2 / differs.numel())
    compared.near("rows written otherwise", f"{name}, {dim}", differs.double().mean(), torch.zeros(()), allowed)


def _by_row(tensors: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    return [(key, tensor.view(tensor.shape[0], -1)) for key, tensor in tensors.items()]


def _written(setting: Setting, kernel: Any, row_format: RowFormat, dim: int) -> dict[str, Tensor]:
    """On the CPU, whatever wrote it."""
    device = torch.device("cpu") if kernel == "torch" else setting.device
    num_rows, count = (40, 30) if setting.dry else (20_000, 15_000)
    tensors = row_format.tensors(num_rows, dim, device)
    for key, tensor in tensors.items():
        if key != "scale":
            tensor.zero_()
    rows = torch.randperm(num_rows, generator=setting.generator(50))[:count].to(device)
    values = setting.normal(count, dim, number=51).to(device)
    values *= 10.0 ** (3 * torch.rand(count, 1, generator=setting.generator(52)).to(device) - 2)
    for number, factor in enumerate((1.0, 0.96875, -0.25)):
        if kernel == "triton":
            _by_kernel(setting, row_format, tensors, rows, values * factor, 60 + number)
        else:
            with use_kernel("torch"):
                row_format.write(tensors, rows, values * factor, 60 + number)
    return {key: tensor.view(num_rows, -1).cpu() for key, tensor in tensors.items()}


def _by_kernel(
    setting: Setting, row_format: Any, tensors: dict[str, Tensor], rows: Tensor, values: Tensor, salt: int
) -> None:
    """By the kernel itself: on CUDA codes that reach across bytes are not yet written by it."""
    kernels = kernels_for(setting.device, "triton")
    if isinstance(row_format, FusedFormat):
        kernels.fused_write(tensors["fused"], rows, values, salt, row_format.bits)
    else:
        kernels.coded_write(tensors, rows, values, salt, row_format.rule)


def _across_bytes(setting: Setting, compared: Comparison, name: str, dim: int) -> None:
    """By the kernel itself, for the same reason."""
    grid, num_rows, count = GRIDS[name], 1000, 300 if setting.dry else 100_000
    codes = torch.randint(0, 256, (num_rows, grid.bytes(dim)), generator=setting.generator(53), dtype=torch.uint8)
    scale, rows = torch.rand(num_rows, generator=setting.generator(54)).half(), setting.integers(0, num_rows, count)
    expected = grid.values(grid.unpack(codes, dim), scale.float().unsqueeze(1))[rows.cpu()]
    held = (codes.to(setting.device), scale.to(setting.device))
    got = kernels_for(setting.device, "triton").coded_gather(*held, rows, dim, grid.bits, grid.offset)
    compared.equal("codes across bytes", f"{name}, {dim}", got.cpu(), expected)
