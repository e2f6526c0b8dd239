"""Rules around another rule, for large batches, second passes and streams: each changes what a row feels, or how much.

``CowClip``: Zheng et al., AAAI 2023 (arXiv 2204.06240), algorithm 1. ``AdaptiveForget``: AdamAR, arXiv 2511.06374.
``FrequencyRate``: "slower" is FAL (arXiv 2505.05605): rare rows learn slower; "faster" goes the other way, as FA-SGD
(arXiv 2110.04844) does, by the root of the frequency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from rectab.ops.replay import Clock
from rectab.ops.step import Step
from rectab.optim.rule import RowRule, State, state_of_rows

__all__ = ["AdaptiveForget", "AroundRule", "CowClip", "FrequencyRate", "Nested", "with_counts"]

_FASTEST = 10.0


class AroundRule(RowRule):
    """Another rule, and something before or after it. Its state is beside that of the other.

    Args:
        inner: the rule that updates; :meth:`around` sets it.
    """

    def __init__(self, inner: RowRule | None = None) -> None:
        self.inner = inner or RowRule()
        self.held, self.roots = self.inner.held, self.inner.roots  # type: ignore[misc]  # of a rule, not of the class
        self.shared = (*type(self).shared, *self.inner.shared)  # type: ignore[misc]

    def _with(self, inner: RowRule) -> AroundRule:
        """The same around another rule."""
        raise NotImplementedError

    def around(self, rule: RowRule) -> RowRule:
        return self._with(rule)

    def own_state(self, num_rows: int, device: Any) -> State:
        """What it keeps itself."""
        return {}

    def new_state(self, num_rows: int, row_dim: int, dtype: torch.dtype, device: Any, replays: bool) -> State:
        return self.inner.new_state(num_rows, row_dim, dtype, device, replays) | self.own_state(num_rows, device)

    def replay(self, values: Tensor, state: State, seen: Tensor, clock: Clock) -> Tensor:
        return self.inner.replay(values, state, seen, clock)

    @property
    def replays(self) -> bool:
        return self.inner.replays

    def check(self, lr: float, clock: Clock) -> None:
        self.inner.check(lr, clock)


class CowClip(AroundRule):
    """A row's gradient is at most as long as ``count * max(ratio * ||row||, floor)``, count being how often the step
    looked it up.

    Args:
        floor: for rows near zero; 1e-5 on Criteo, 1e-4 on Avazu.
        ratio: of the row's own length.
    """

    counts = True

    def __init__(self, floor: float, ratio: float = 1.0, inner: RowRule | None = None) -> None:
        if floor < 0 or ratio < 0:
            raise ValueError(f"cowclip: floor and ratio must be at least 0, got {floor} and {ratio}")
        super().__init__(inner)
        self.floor, self.ratio = floor, ratio

    def _with(self, inner: RowRule) -> CowClip:
        return CowClip(self.floor, self.ratio, inner)

    def update(self, values: Tensor, gradients: Tensor, state: State, step: Step) -> Tensor:
        assert step.counts is not None
        longest = step.counts * (self.ratio * values.norm(dim=1)).clamp(min=self.floor)
        factor = (longest / gradients.norm(dim=1).clamp(min=1e-30)).clamp(max=1.0)
        return self.inner.update(values, gradients * factor.unsqueeze(1), state, step)


class AdaptiveForget(AroundRule):
    """Before a row's update it loses ``min(1, alpha * I)`` of itself, I being the steps since its last one.

    Args:
        alpha: a step.
    """

    def __init__(self, alpha: float, inner: RowRule | None = None) -> None:
        if alpha < 0:
            raise ValueError(f"row_forget must be at least 0, got {alpha}")
        super().__init__(inner)
        self.alpha = alpha

    def _with(self, inner: RowRule) -> AdaptiveForget:
        return AdaptiveForget(self.alpha, inner)

    def own_state(self, num_rows: int, device: Any) -> State:
        return {"updated": state_of_rows(num_rows, dtype=torch.int32, device=device)}

    def update(self, values: Tensor, gradients: Tensor, state: State, step: Step) -> Tensor:
        updated = state["updated"]
        away = torch.where(updated > 0, step.number - updated, 0)
        state["updated"] = torch.full_like(updated, step.number)
        kept = 1 - (self.alpha * away).clamp(max=1.0)
        return self.inner.update(values * kept.unsqueeze(1), gradients, state, step)


class FrequencyRate(AroundRule):
    """A row's learning rate follows how often it has been looked up, F.

    Args:
        how: ``slower`` for rare rows: times ``log(F + 1) / max log(F + 1)``; ``faster``: times
            ``sqrt(mean F of the step's rows / F)``, at most 10.
    """

    counts = True
    shared = ("most",)

    def __init__(self, how: Literal["slower", "faster"], inner: RowRule | None = None) -> None:
        if how not in ("slower", "faster"):
            raise ValueError(f"row_frequency must be 'slower' or 'faster', got {how!r}")
        super().__init__(inner)
        self.how = how

    def _with(self, inner: RowRule) -> FrequencyRate:
        return FrequencyRate(self.how, inner)

    def own_state(self, num_rows: int, device: Any) -> State:
        frequency = state_of_rows(num_rows, dtype=torch.int32, device=device)
        return {"frequency": frequency, "most": torch.zeros(1, dtype=torch.int32, device=device)}

    def update(self, values: Tensor, gradients: Tensor, state: State, step: Step) -> Tensor:
        assert step.counts is not None
        state["frequency"] = frequency = state["frequency"] + step.counts.to(torch.int32)
        state["most"] = torch.maximum(state["most"], frequency.max())
        if self.how == "slower":
            scale = torch.log1p(frequency.float()) / torch.log1p(state["most"].float())
        else:
            scale = (frequency.float().mean() / frequency).sqrt().clamp(max=_FASTEST)
        return values + scale.unsqueeze(1) * (self.inner.update(values, gradients, state, step) - values)


class Nested(RowRule):
    """Rules around a table's own rule for a store, itself around the optimizer's; for ``RowOptimizer(rules=...)``.

    Args:
        rules: from the outermost.
        named: the table's; None for none.
    """

    def __init__(self, rules: Sequence[AroundRule], named: RowRule | None = None) -> None:
        self.rules, self.named = tuple(rules), named

    def around(self, rule: RowRule) -> RowRule:
        made = rule if self.named is None else self.named.around(rule)
        for outer in reversed(self.rules):
            made = outer.around(made)
        return made


def with_counts(step: Step, looked_up: Sequence[Tensor]) -> Step:
    """The step with how often each of its rows was looked up, at least once."""
    if not looked_up:
        return replace(step, counts=torch.ones(step.rows.numel(), device=step.rows.device))
    rows, times = torch.cat([part.reshape(-1) for part in looked_up]).unique(return_counts=True)
    place = torch.searchsorted(rows, step.rows).clamp(max=rows.numel() - 1)
    counts = torch.where(rows[place] == step.rows, times[place], 1)
    return replace(step, counts=counts.to(torch.float32))
