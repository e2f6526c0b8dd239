"""ALPT: rows of whole numbers while they train, each with a step that is learned.

Li et al., "Adaptive Low-Precision Training for Embeddings in Click-Through Rate Prediction", AAAI 2023. A row is codes
of 8 or 4 bits and a step. A training step reads it, takes the optimizer's step in fp32, learns the row's step from what
rounding would do to the result, and rounds stochastically with the new one. There is no fp32 copy of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rectab.ops.dispatch import find_kernel
from rectab.ops.replay import Clock
from rectab.ops.rows import RowStore
from rectab.ops.step import Step
from rectab.ops.whole_formats import learned_format
from rectab.optim import RowRule
from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.family import Family
from rectab.tables.hashed import allocate_rows
from rectab.tables.ranges import RangeTable
from rectab.tables.registry import TableMethod, register

__all__ = ["AlptConfig", "AlptTable", "LearnedStep"]

_BETAS, _EPS = (0.9, 0.999), 1e-16  # gradients of steps are sums of small differences
_SMALLEST = 2.0**-14  # the smallest normal fp16


@dataclass(frozen=True)
class AlptConfig:
    """Attributes:
    num_rows: rows of every vocabulary, in schema order; a vocabulary with a row an id is not hashed.
    bits: of a code: 8, 6 or 4.
    step_lr: learning rate of the steps, as a share of :attr:`first_step`.
    first_step: of every row; 0: twice the mean size of an element over the root of the largest code.
    seed: of the hash.
    """

    num_rows: tuple[int, ...]
    bits: int = 8
    step_lr: float = 0.002
    first_step: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bits not in (4, 6, 8) or self.step_lr < 0 or self.first_step < 0:
            raise ValueError(f"alpt: bits must be 4, 6 or 8, step_lr and first_step at least 0, got {self}")

    @property
    def top(self) -> int:
        """The largest code."""
        return (1 << (self.bits - 1)) - 1

    def step_at(self, std: float) -> float:
        """What steps start from, where elements are normal of standard deviation ``std`` (Esser et al., ICLR 2020)."""
        return self.first_step or max(2 * 0.8 * std / self.top**0.5, _SMALLEST)


class LearnedStep(RowRule):
    """Another rule's step, then one of the row's own step ``scale``, by Adam.

    With the new values w and the step s, a loss has the gradient ``sum(g * (round(w / s) - w / s))`` with respect to s,
    where g is its gradient with respect to the row; of what is clipped the round bracket is the largest code.

    Args:
        top: the largest code.
        lr: learning rate of steps.
        inner: the rule of the values; :meth:`around` sets it.
    """

    held = ("scale",)

    def __init__(self, top: int, lr: float, inner: RowRule | None = None) -> None:
        self.top, self.lr, self.inner = top, lr, inner or RowRule()
        self.roots, self.shared = self.inner.roots, self.inner.shared  # type: ignore[misc]  # of a rule, not of the class

    def around(self, rule: RowRule) -> LearnedStep:
        return LearnedStep(self.top, self.lr, rule)

    def new_state(
        self, num_rows: int, row_dim: int, dtype: torch.dtype, device: Any, replays: bool
    ) -> dict[str, Tensor]:
        state = self.inner.new_state(num_rows, row_dim, dtype, device, replays)
        return state | {f"scale_{key}": torch.zeros(num_rows, device=device) for key in ("moment", "square")}

    def update(self, values: Tensor, gradients: Tensor, state: dict[str, Tensor], step: Step) -> Tensor:
        values = self._inner_update(values, gradients, state, step)
        scale = state["scale"].unsqueeze(1)
        codes = values / scale
        slope = torch.where(codes.abs() < self.top, codes.round() - codes, codes.sign() * self.top)
        gradient = (gradients * slope).sum(1)
        (beta_1, beta_2), number = _BETAS, step.number
        state["scale_moment"] = m = beta_1 * state["scale_moment"] + (1 - beta_1) * gradient
        state["scale_square"] = v = beta_2 * state["scale_square"] + (1 - beta_2) * gradient.square()
        root = (v / (1 - beta_2**number)).sqrt() + _EPS
        state["scale"] = (state["scale"] - self.lr * m / (1 - beta_1**number) / root).clamp(min=_SMALLEST)
        return values

    def _inner_update(self, values: Tensor, gradients: Tensor, state: dict[str, Tensor], step: Step) -> Tensor:
        kernel = find_kernel(self.inner.kernel, "update", values.device)
        if kernel is None:
            return self.inner.update(values, gradients, state, step)
        kernel(values, state, step.after_penalty(gradients), self.inner)
        return values

    def replay(self, values: Tensor, state: dict[str, Tensor], seen: Tensor, clock: Clock) -> Tensor:
        kernel = find_kernel(self.inner.kernel, "refresh", values.device)
        if kernel is None:
            return self.inner.replay(values, state, seen, clock)
        kernel(values, state, torch.arange(seen.numel(), device=seen.device), clock, 0, self.inner)
        return values

    @property
    def replays(self) -> bool:
        return self.inner.replays

    def check(self, lr: float, clock: Clock) -> None:
        self.inner.check(lr, clock)


class AlptTable(RangeTable[AlptConfig]):
    """Memory: (sum of num_rows) rows of D codes and an fp16 step (28.1 % of fp32 rows at D = 16 and 8 bits, 15.6 % at
    4), and three integers a vocabulary.
    """

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: AlptConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options, config.num_rows, config.seed)

    def _new_store(self, num_rows: int, row_dim: int, init_std: float, generator: torch.Generator) -> RowStore:
        row_format = learned_format(self.config.bits, self.config.step_at(init_std))
        gradient, device = self.options.gradient, self.options.device
        return RowStore(
            num_rows,
            row_dim,
            init_std=init_std,
            generator=generator,
            gradient=gradient,
            rows=row_format,
            device=device,
        )

    def rules(self) -> dict[str, RowRule]:
        first = self.config.step_at(self.options.init_std)
        return {"store": LearnedStep(self.config.top, self.config.step_lr * first)}


def alpt_family(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: TableOptions,
    *,
    bits: int = 8,
    step_lr: float = 0.002,
    first_step: float = 0.0,
    whole_below: int = 100,
    seed: int = 0,
) -> Family[AlptConfig]:
    """By rows, as :mod:`rectab.tables.hashed`; all ids' rows without a budget."""
    sizes = [v.num_embeddings for v in vocabularies]
    return Family(
        lambda total: AlptConfig(allocate_rows(sizes, total, whole_below), bits, step_lr, first_step, seed),
        low=len(sizes),
        high=sum(sizes),
        smallest="one row a vocabulary",
    )


register(
    TableMethod(
        name="alpt",
        summary="rows of whole numbers with learned steps, all ids' or hashed",
        paper="Li et al., AAAI 2023",
        config=AlptConfig,
        table=AlptTable,
        family=alpt_family,
        fills="steps",
        group="quantisation",
        serves_any_id=True,
        holds="whole numbers of 8, 6 or 4 bits with learned steps (option bits)",
        row_gradients_only=True,
    )
)
