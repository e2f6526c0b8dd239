"""Codes whose step many rows share: what floats are trained for, and what they are served as.

``codes8``, ``codes4`` and ``codes2`` hold the codes of a grid (:mod:`rectab.ops.grids`), a stream a row, and one step a
group of rows (:mod:`rectab.ops.steps`), so that narrow rows pay nothing for a scale of their own. They are served and
not trained. Two kinds of formats end in them (:meth:`rectab.tables.EmbeddingTable.serving`), both floats until then:

* ``ptq8``, ... : post-training quantisation: trained as fp32, encoded afterwards;
* ``lsq8``, ... : quantisation-aware training: every lookup sees the codes' values, and gradients pass straight through
  to the floats and to the steps, which are learned (Esser et al., Learned Step Size Quantization, ICLR 2020).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rectab.ops.coded_formats import coded_kernel
from rectab.ops.float_formats import FloatFormat
from rectab.ops.grids import GRIDS, Grid
from rectab.ops.memory import empty_rows

__all__ = ["CodesFormat", "LatentFormat"]


@dataclass(frozen=True)
class CodesFormat:
    """Codes of a grid; what is read and written here is in units of the step.

    Attributes:
        grid: its levels.
        trains: False.
    """

    grid: Grid
    trains: bool = False

    @property
    def name(self) -> str:
        return f"codes{self.grid.bits}"

    def tensors(self, num_rows: int, row_dim: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
        return {"codes": empty_rows(num_rows, self.grid.bytes(row_dim), dtype=torch.uint8, device=device)}

    def read(self, tensors: dict[str, Tensor], rows: Tensor, row_dim: int) -> Tensor:
        codes = tensors["codes"]
        kernel = coded_kernel(codes, rows)
        if kernel is not None:
            one = torch.ones(1, dtype=torch.float16, device=codes.device)
            found: Tensor = kernel(codes, one, rows, row_dim, self.grid.bits, self.grid.offset)
            return found
        packed = torch.nn.functional.embedding(rows, codes)
        return self.grid.unpack(packed, row_dim).to(torch.float32) - self.grid.offset

    def write(self, tensors: dict[str, Tensor], rows: Tensor, values: Tensor, salt: int | None) -> None:
        """Rounds to nearest, whatever ``salt`` is: nothing is trained here."""
        codes = self.grid.nearest(values.float(), torch.ones((), device=values.device))
        tensors["codes"][rows] = self.grid.pack(codes)

    def row_bytes(self, row_dim: int) -> float:
        return self.grid.bytes(row_dim)


@dataclass(frozen=True)
class LatentFormat(FloatFormat):
    """Floats that training ends with in codes.

    Attributes:
        served: in what.
        learned: lookups see the codes' values while they train, by steps that are learned.
    """

    served: CodesFormat = CodesFormat(GRIDS["int8"])
    learned: bool = False


STEPPED = tuple(CodesFormat(GRIDS[f"int{bits}"]) for bits in (8, 4, 2))
LATENT = tuple(
    LatentFormat(f"{kind}{served.grid.bits}", torch.float32, True, served, kind == "lsq")
    for kind in ("ptq", "lsq")
    for served in STEPPED
)
