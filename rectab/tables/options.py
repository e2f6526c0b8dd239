"""How a table is held and trained: options that every method has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rectab.ops import CodesFormat, Gradient, RowStore, get_format, served_format
from rectab.ops.steps import HeldSteps, StepsFrom
from rectab.tables.unseen import Unseen, check_unseen

__all__ = ["TableOptions"]


@dataclass(frozen=True)
class TableOptions:
    """How a table is held and trained, the same for every method; what it looks like is its config.

    Attributes:
        gradient: how gradients reach an optimizer, see :mod:`rectab.ops.rows`.
        init_std: standard deviation of the table's *output* at step 0, whatever it sums or multiplies.
        seed: of the initial values.
        rows: name of the format that rows are held in (``fp32``, ``bf16``, ``int8``, ``int4``, ...), see
            :mod:`rectab.ops.formats`.
        device: where the table is built; ``meta`` allocates nothing and still counts bytes.
        unseen: what an id outside its fitted vocabulary reads, see :mod:`rectab.tables.unseen`. None leaves it to the
            method: one whose record says ``serves_any_id`` serves it like any other id, any other raises IndexError.
    """

    gradient: Gradient = "row"
    init_std: float = 0.01
    seed: int = 0
    rows: str = "fp32"
    device: torch.device | str = "cpu"
    unseen: Unseen | None = None

    def row_bytes(self, row_dim: int) -> float:
        """Bytes of a row of ``row_dim`` elements as it is served, with a scale of its own if it has one."""
        return served_format(self.rows).row_bytes(row_dim)

    def step_bytes(self, num_groups: int) -> int:
        """Bytes of the steps that ``num_groups`` groups of rows of one store share, as it is served; 0 where rows have
        scales of their own."""
        return HeldSteps.bytes_of(num_groups) if isinstance(served_format(self.rows), CodesFormat) else 0

    def row_store(
        self,
        num_rows: int,
        row_dim: int,
        *,
        init_std: float,
        generator: torch.Generator | None = None,
        groups: Sequence[int] | None = None,
        steps: StepsFrom = "start",
    ) -> RowStore:
        """A store held and trained so; arguments as for :class:`rectab.ops.RowStore`."""
        return RowStore(
            num_rows,
            row_dim,
            init_std=init_std,
            generator=generator,
            gradient=self.gradient,
            rows=self.rows,
            device=self.device,
            groups=groups,
            steps=steps,
        )

    def __post_init__(self) -> None:
        check_unseen(self.unseen)
        get_format(self.rows)
