"""The steps a row was away from, and in what portions they are replayed when it comes back.

A dense optimizer with an L2 penalty moves every row at every step. Here a row's missed steps are replayed when it is
next read: the first ``max_replay`` one by one, the rest in portions that grow geometrically, each in closed form.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

__all__ = ["Clock", "chunks_of", "decayed"]


class Clock:
    """What happened at every step so far: enough to replay any stretch of steps.

    Attributes:
        now: number of steps done.
        decay: the L2 coefficient: the penalty is ``decay / 2 * ||row||^2``.
        max_replay: missed steps replayed one by one; -1 replays all of them so.
    """

    def __init__(self, decay: float, max_replay: int) -> None:
        self.now = 0
        self.decay = decay
        self.max_replay = max_replay
        self._lr_sums = np.zeros(1024)
        self._log_kept, self._logged = np.zeros(1024), 0
        self._mirrors: dict[tuple[str, torch.device], _Mirror] = {}

    def tick(self, lr: float) -> None:
        """One more step, taken with ``lr``."""
        if self.now + 1 == self._lr_sums.size:
            self._lr_sums = np.concatenate([self._lr_sums, np.zeros(self._lr_sums.size)])
        self._lr_sums[self.now + 1] = self._lr_sums[self.now] + lr
        self.now += 1

    @property
    def lr_sums(self) -> np.ndarray:
        """fp64 [now + 1]: sum of the learning rates of the steps before each."""
        return self._lr_sums[: self.now + 1]

    def lr_between(self, start: Tensor, end: Tensor) -> Tensor:
        """int [n], int [n] -> fp32 [n]: sum of the learning rates of the steps in ``[start, end)``."""
        sums = torch.from_numpy(self.lr_sums).to(start.device)
        return (sums[end.long().clamp(max=self.now)] - sums[start.long().clamp(max=self.now)]).float()

    def log_kept(self) -> np.ndarray:
        """fp64 [now + 1]: log of what SGD's decay leaves of a row, from step 0 to each step."""
        start, end = self._logged, self.now + 1
        if self._log_kept.size < end:
            self._log_kept = np.concatenate([self._log_kept, np.zeros(self._lr_sums.size - self._log_kept.size)])
        if start + 1 < end:
            added = np.log1p(-self.decay * np.diff(self._lr_sums[start:end]))
            # One running sum from the first step on, in the same order however often this is called.
            self._log_kept[start:end] = np.cumsum(np.concatenate([self._log_kept[start : start + 1], added]))
            self._logged = self.now
        return self._log_kept[:end]

    def load_lr_sums(self, lr_sums: np.ndarray) -> None:
        self.now = lr_sums.size - 1
        self._lr_sums = np.concatenate([lr_sums, np.zeros(1024)])
        self._log_kept, self._logged, self._mirrors = np.zeros(1024), 0, {}

    def lr_sums_on(self, device: torch.device) -> Tensor:
        """fp64, at least [now + 1]: :attr:`lr_sums` on a device, which gets a step's number without waiting."""
        return self._mirror("lr_sums", device).of(self.lr_sums)

    def log_kept_on(self, device: torch.device) -> Tensor:
        """fp64, at least [now + 1]: :meth:`log_kept` on a device."""
        return self._mirror("log_kept", device).of(self.log_kept())

    def _mirror(self, name: str, device: torch.device) -> _Mirror:
        return self._mirrors.setdefault((name, device), _Mirror(device))


class _Mirror:
    """Numbers on a device, of a list that only grows."""

    def __init__(self, device: torch.device) -> None:
        self._held, self._filled = torch.zeros(0, dtype=torch.float64, device=device), 0

    def of(self, values: np.ndarray) -> Tensor:
        if values.size > self._held.numel():
            longer = torch.zeros(2 * values.size + 1024, dtype=torch.float64, device=self._held.device)
            longer[: self._filled] = self._held[: self._filled]
            self._held = longer
        if values.size == self._filled + 1:
            self._held[self._filled :][:1].fill_(float(values[-1]))
        elif values.size > self._filled:
            self._held[self._filled : values.size].copy_(torch.from_numpy(values[self._filled :]))
        self._filled = values.size
        return self._held


def chunks_of(seen: Tensor, clock: Clock) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Portions of the steps each row missed, all rows at once.

    Args:
        seen: int32 [n], the steps each row has had.

    Yields:
        (first step int64 [n], number of steps int64 [n], at least 1, and bool [n]: whether the row is still behind).
    """
    gap = clock.now - seen.long()
    done = torch.zeros_like(gap)
    while bool((done < gap).any()):
        length = torch.ones_like(gap)
        if clock.max_replay >= 0:
            long = torch.minimum(gap - done, (done // 4).clamp(min=2))
            length = torch.where(done >= clock.max_replay, long, length).clamp(min=1)
        active = done < gap
        yield seen.long() + done, length, active
        done = torch.where(active, done + length, done)


def decayed(rate: Tensor) -> Tensor:
    """What many small steps of together ``rate`` leave: exp(-rate) to second order, and never below 0."""
    return 1.0 / (1.0 + rate * (1.0 + 0.5 * rate))
