"""Results beside what they should be: how many cases, and how far off the worst was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Comparison"]


class Comparison:
    """Cases of one part, by the name of what is compared.

    A deviation is told as a share of what is allowed, so that 1 is the limit of everything.
    """

    def __init__(self) -> None:
        self._worst: dict[str, float] = {}
        self._cases: dict[str, int] = {}
        self._wrong: dict[str, list[str]] = {}

    def equal(self, what: str, case: str, got: Tensor, expected: Tensor) -> None:
        """To the bit."""
        same = got.shape == expected.shape and torch.equal(got, expected)
        self._note(what, case, 0.0 if same else float("inf"))

    def near(self, what: str, case: str, got: Tensor, expected: Tensor, allowed: Tensor | float) -> None:
        """Within ``allowed`` (broadcastable to both) of each other, element by element."""
        if got.shape != expected.shape:
            self._note(what, case, float("inf"))
            return
        off = (got.double() - expected.double()).abs() / allowed
        self._note(what, case, float(off.nan_to_num(float("inf")).max()) if off.numel() else 0.0)

    def close(self, what: str, case: str, got: Tensor, expected: Tensor, tolerance: float) -> None:
        """Within ``tolerance`` of the larger of 1 and the value."""
        self.near(what, case, got, expected, tolerance * expected.double().abs().clamp(min=1.0))

    def holds(self, what: str, case: str, true: bool) -> None:
        self._note(what, case, 0.0 if true else float("inf"))

    def case(self, what: str, case: str, check: Callable[[], None]) -> None:
        """Run ``check``; an exception is a wrong case of ``what``, and the part goes on."""
        try:
            check()
        except Exception as error:
            self._note(what, f"{case}: {type(error).__name__}: {str(error)[:300]}", float("inf"))

    def _note(self, what: str, case: str, off: float) -> None:
        self._cases[what] = self._cases.get(what, 0) + 1
        self._worst[what] = max(self._worst.get(what, 0.0), off)
        if off > 1.0:
            self._wrong.setdefault(what, []).append(case)

    def rows(self) -> list[dict[str, Any]]:
        """One row for every name: ``check``, ``cases``, ``worst`` (share of what is allowed) and ``wrong`` cases."""
        return [
            {"check": what, "cases": self._cases[what], "worst": worst, "wrong": self._wrong.get(what, [])[:10]}
            for what, worst in self._worst.items()
        ]
