"""Row formats: how the rows of a store are held. An axis under every table method, not a method.

A format is a frozen record. It says which tensors hold ``num_rows`` rows, reads rows as floats, writes them, and counts
their bytes. Writing rounds: to nearest for values that stay as they are, stochastically for values that training will
write again (rounding to nearest would lose every update smaller than half a step).

The float formats keep their rows in one tensor that the fused kernels read and write. A row in any other format is
updated through a copy: read, apply the optimizer's rule, write (:mod:`rectab.optim.base`). Formats whose steps many
rows share are floats while they train (:mod:`rectab.ops.stepped_formats`).
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rectab.named import find_named
from rectab.ops.coded_formats import GridFormat, Int8Format
from rectab.ops.float_formats import FloatFormat
from rectab.ops.fused_formats import FusedFormat
from rectab.ops.grids import GRIDS
from rectab.ops.stepped_formats import LATENT, STEPPED, CodesFormat, LatentFormat
from rectab.ops.whole_formats import Int16Format

__all__ = [
    "CodesFormat",
    "FloatFormat",
    "FusedFormat",
    "GridFormat",
    "Int8Format",
    "LatentFormat",
    "RowFormat",
    "every_format",
    "float_format",
    "formats",
    "get_format",
    "register_format",
    "served_format",
]

Tensors = dict[str, Tensor]
"""What holds the rows of a store, by name; every tensor's first dimension is the rows."""


@runtime_checkable
class RowFormat(Protocol):
    """How rows are held.

    Attributes:
        name: as users write it (``rows = "int8"``).
        trains: whether rows can be updated in this format.
    """

    @property
    def name(self) -> str: ...

    @property
    def trains(self) -> bool: ...

    def tensors(self, num_rows: int, row_dim: int, device: torch.device | str | None = None) -> Tensors:
        """What holds ``num_rows`` rows of ``row_dim`` elements, not filled. Every byte counts as rows."""
        ...

    def read(self, tensors: Tensors, rows: Tensor, row_dim: int) -> Tensor:
        """int64 [*] row numbers -> float32 [*, row_dim] (float64 for rows held so). Raises IndexError outside."""
        ...

    def write(self, tensors: Tensors, rows: Tensor, values: Tensor, salt: int | None) -> None:
        """Hold ``values`` float [n, D] in the distinct ``rows`` int64 [n].

        Args:
            tensors: of :meth:`tensors`.
            rows: which rows.
            values: what they shall be.
            salt: None rounds to nearest; a number rounds stochastically, with random bits that are a hash of the salt,
                the row and the column (:mod:`rectab.ops.rounding`), whatever else is written with it.
        """
        ...

    def row_bytes(self, row_dim: int) -> float:
        """Bytes of one row, with its share of everything that :meth:`tensors` gives."""
        ...


_FORMATS: dict[str, RowFormat] = {}
_SERVED: dict[str, RowFormat] = {served.name: served for served in STEPPED}


def register_format(row_format: RowFormat) -> None:
    """Make a format known by its name. Raises ValueError for a name that is taken."""
    if row_format.name in _FORMATS:
        raise ValueError(f"a row format named {row_format.name!r} is registered already")
    _FORMATS[row_format.name] = row_format


def formats() -> tuple[RowFormat, ...]:
    """Every registered format, in order of registration, but those that rows are only served in."""
    return tuple(_FORMATS.values())


def get_format(name: str) -> RowFormat:
    """The named format, also one that rows are only served in. Raises ValueError that lists what there is."""
    return _SERVED[name] if name in _SERVED else find_named("row format", _FORMATS, name)


def every_format() -> tuple[RowFormat, ...]:
    """Every registered format, and those that rows are only served in."""
    return (*_FORMATS.values(), *_SERVED.values())


def served_format(name: str) -> RowFormat:
    """What rows of the named format are served in: mostly the same."""
    held = get_format(name)
    return held.served if isinstance(held, LatentFormat) else held


def float_format(dtype: torch.dtype) -> FloatFormat:
    """The format whose elements are of this dtype. Raises ValueError if none is."""
    for row_format in _FORMATS.values():
        if isinstance(row_format, FloatFormat) and row_format.dtype == dtype:
            return row_format
    raise ValueError(f"no row format holds elements of {dtype}")


_OWN: tuple[RowFormat, ...] = (
    FloatFormat("fp32", torch.float32),
    FloatFormat("bf16", torch.bfloat16),
    FloatFormat("fp16", torch.float16),
    FloatFormat("fp64", torch.float64),
    Int16Format(),
    Int8Format(),
    *(GridFormat(grid) for grid in GRIDS.values() if grid.name != "int8"),
    *(FusedFormat(bits) for bits in (8, 4, 2)),
    *LATENT,
)
for _format in _OWN:
    register_format(_format)
