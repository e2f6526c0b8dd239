"""The packed quantized table on the device, block encodings of every kind, beside the reference on the CPU."""

from __future__ import annotations

from typing import Any

import torch

from bench.gpu_check.comparison import Comparison
from bench.gpu_check.setting import Setting
from rectab.ops import use_kernel
from rectab.ops.grids import GRIDS
from rectab.schema import Vocabulary
from rectab.tables.quantized.table import QuantizedConfig, QuantizedTable

__all__ = ["packed_tables"]

ENCODINGS = (
    "fp16",
    "shared",
    *(f"{grid}/{steps}" for grid in GRIDS for steps in ("block", "dimension", "row")),
    *(
        f"codebook/{part}x{codes}/{entries}"
        for part, codes in ((2, 16), (5, 256), (4, 2))
        for entries in ("int8", "fp16")
    ),
)


def packed_tables(setting: Setting) -> list[dict[str, Any]]:
    """Vectors of random payloads: the same bits on the CPU by the reference and on the device."""
    compared = Comparison()
    for dim in (5,) if setting.dry else (5, 16, 64):
        compared.case("packed table", f"{dim}", lambda d=dim: _compare(setting, compared, d))
    return compared.rows()


def _compare(setting: Setting, compared: Comparison, dim: int) -> None:
    num_ids = 40
    vocabularies = tuple(Vocabulary(f"v{i}", 2 * num_ids) for i in range(len(ENCODINGS)))
    config = QuantizedConfig(
        tuple(i for i in range(len(ENCODINGS)) for _ in range(2)),
        tuple(first for _ in ENCODINGS for first in (0, num_ids)),
        tuple(encoding for name in ENCODINGS for encoding in (name, "rare")),
    )
    table = QuantizedTable(vocabularies, dim, config)
    table.payload.copy_(torch.randint(0, 59, table.payload.shape, generator=setting.generator(40), dtype=torch.uint8))
    ids = torch.randint(0, 2 * num_ids, (50, len(ENCODINGS)), generator=setting.generator(41))
    columns = torch.arange(len(ENCODINGS))
    with use_kernel("torch"):
        expected = table(ids, columns)
    with use_kernel("triton"):
        got = table.to(setting.device)(ids.to(setting.device), columns.to(setting.device))
    compared.equal("packed table", f"{dim}", got.cpu(), expected)
