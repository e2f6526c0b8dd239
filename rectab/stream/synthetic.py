"""A stream of clicks whose items appear, peak and die, and whose users leave and return; its best AUC is known.

Time is counted in periods. Items are born at a constant rate, and an item of age ``a`` is shown in proportion to
``(1 - exp(-a / rise)) * 2 ** (-a / half_life)``; ``rise`` follows from the share of impressions on items younger than a
period. Users come at a constant rate, stay for ``stay`` periods, and a share of them returns once, ``gap`` periods or
more after they left. A user's taste turns by ``drift`` radians a period. Every row is a function of the seed, so is its
click probability, and no two periods need each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from rectab.data.keyed_random import mix, uniform_of
from rectab.metrics import auc

__all__ = ["Period", "SyntheticStream"]

_GROUP = 64  # items that are born one after the other, of which some are shown much more often than others
_OLDEST = 12.0  # half-lives after which an item is shown no more
_FACTORS = 4
_SALTS = {name: 1000 * number for number, name in enumerate(("user", "item", "advertiser", "category", "hour"), 1)}


@dataclass(frozen=True)
class Period:
    """Rows of one period, in the order of time.

    Attributes:
        ids: int64 [n, F], one column a feature.
        labels: float32 [n].
        times: int64 [n], in thousandths of a period; never falls from one period to the next.
        probability: float64 [n], of a click; None where nobody knows.
    """

    ids: np.ndarray
    labels: np.ndarray
    times: np.ndarray
    probability: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def best_auc(self) -> float | None:
        """AUC of the true probability."""
        return None if self.probability is None else auc(self.labels, self.probability)


@dataclass(frozen=True)
class SyntheticStream:
    """Attributes:
    periods, rows: periods, and rows of each.
    seed: everything follows from it.
    items: born a period.
    users: that come a period.
    advertisers, categories: of items.
    young: share of impressions on items younger than a period.
    half_life: of an item's impressions, in periods.
    stay, gap: periods that a user stays, and those that pass at least before one returns.
    return_share: share of users that return.
    drift: radians that a taste turns in a period.
    user_scale, item_scale, pair_scale, advertiser_scale: standard deviations of what they say, in logits.
    intercept: logit of the average row.
    """

    periods: int = 20
    rows: int = 50_000
    seed: int = 0
    items: int = 2_000
    users: int = 1_500
    advertisers: int = 800
    categories: int = 30
    young: float = 0.2
    half_life: float = 2.0
    stay: float = 3.0
    gap: float = 3.0
    return_share: float = 0.3
    drift: float = 0.15
    user_scale: float = 0.6
    item_scale: float = 0.9
    pair_scale: float = 0.9
    advertiser_scale: float = 0.4
    intercept: float = -1.2

    features = ("user", "item", "advertiser", "category", "hour")

    def __post_init__(self) -> None:
        for name in ("periods", "rows", "items", "users", "advertisers", "categories"):
            if getattr(self, name) < 1:
                raise ValueError(f"stream: {name} must be at least 1, got {getattr(self, name)}")
        if not 0.0 < self.young < self._young(1e-6):
            most = self._young(1e-6)
            raise ValueError(f"stream: young must be in (0, {most:.3f}) at this half_life, got {self.young}")
        if not 0.0 <= self.return_share <= 1.0:
            raise ValueError(f"stream: return_share must be in 0..1, got {self.return_share}")

    def seeded(self, seed: int) -> SyntheticStream:
        """Another stream of the same kind."""
        return replace(self, seed=self.seed + seed)

    @property
    def closed(self) -> dict[str, int]:
        """Features whose ids are few and never change -> how many."""
        return {"category": self.categories, "hour": 24}

    @cached_property
    def rise(self) -> float:
        """Periods in which an item's impressions rise."""
        low, high = 1e-6, 1e3
        for _ in range(80):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self._young(middle) > self.young else (low, middle)
        return low

    def _young(self, rise: float) -> float:
        decay = math.log(2) / self.half_life
        fast = decay + 1 / rise
        shown = (1 - math.exp(-decay)) / decay - (1 - math.exp(-fast)) / fast
        return shown / (1 / decay - 1 / fast)

    def period(self, number: int) -> Period:
        """The rows of period ``number``, from 0."""
        rows = number * self.rows + np.arange(self.rows)
        time = rows / self.rows
        item, user = self._items(rows, time), self._users(rows, time)
        category = (mix(item, self._salt("item", 1)) % np.uint64(self.categories)).astype(np.int64)
        advertiser = (mix(item, self._salt("item", 2)) % np.uint64(self.advertisers)).astype(np.int64)
        hour = (time * 24).astype(np.int64) % 24
        logit = self._logit(user, item, advertiser, category, hour, time)
        probability = 1 / (1 + np.exp(-logit))
        clicks = uniform_of(rows, self._salt("hour", 9)) < probability
        raw = [self._raw("user", user), self._raw("item", item), self._raw("advertiser", advertiser), category, hour]
        return Period(np.stack(raw, 1), clicks.astype(np.float32), (time * 1000).astype(np.int64), probability)

    # Who is shown what.

    @cached_property
    def _ages(self) -> tuple[np.ndarray, np.ndarray]:
        """Shares of impressions below ages, and the ages."""
        ages = np.linspace(0, _OLDEST * self.half_life, 20_001)
        density = (1 - np.exp(-ages / self.rise)) * 2 ** (-ages / self.half_life)
        shares = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
        return shares / shares[-1], ages

    def _items(self, rows: np.ndarray, time: np.ndarray) -> np.ndarray:
        age = np.interp(uniform_of(rows, self._salt("item", 3)), *self._ages)
        born = time - age + _OLDEST * self.half_life
        return _heavy((born * self.items).astype(np.int64), uniform_of(rows, self._salt("item", 4)))

    @cached_property
    def _visits(self) -> np.ndarray:
        """float64 [2, n]: users in the order in which they return, and when."""
        before = self.stay + self.gap + 20
        users = np.arange(int((self.periods + before) * self.users))
        away = self.gap - 2 * np.log1p(-uniform_of(users, self._salt("user", 5)))
        back = users / self.users - before + self.stay + away
        returns = uniform_of(users, self._salt("user", 6)) < self.return_share
        order = np.argsort(back[returns], kind="stable")
        return np.stack([users[returns][order], back[returns][order]])

    def _users(self, rows: np.ndarray, time: np.ndarray) -> np.ndarray:
        """First visits and returns, in proportion to the users that are there for each."""
        before = self.stay + self.gap + 20
        since = time - self.stay * uniform_of(rows, self._salt("user", 3))
        first = ((since + before) * self.users).astype(np.int64)
        users, back = self._visits
        place = np.searchsorted(back, since).clip(0, len(back) - 1) if len(back) else np.zeros(len(rows), np.int64)
        returned = users[place].astype(np.int64) if len(back) else first
        comes_back = uniform_of(rows, self._salt("user", 4)) < self.return_share / (1 + self.return_share)
        return np.where(comes_back & (len(back) > 0), returned, first)

    # Who clicks.

    def _logit(
        self,
        user: np.ndarray,
        item: np.ndarray,
        advertiser: np.ndarray,
        category: np.ndarray,
        hour: np.ndarray,
        time: np.ndarray,
    ) -> np.ndarray:
        logit = self.intercept + self.user_scale * self._of("user", user, 10)
        logit += self.item_scale * self._of("item", item, 10)
        logit += self.advertiser_scale * self._of("advertiser", advertiser, 10) + 0.2 * self._of("hour", hour, 10)
        angle = self.drift * time + 2 * math.pi * uniform_of(user, self._salt("user", 7))
        product = np.zeros(len(time))
        for k in range(_FACTORS):
            taste = np.cos(angle) * self._of("user", user, 20 + k) + np.sin(angle) * self._of("user", user, 40 + k)
            kind = math.sqrt(0.6) * self._of("category", category, 20 + k)
            kind += math.sqrt(0.4) * self._of("item", item, 20 + k)
            product += taste * kind
        return logit + self.pair_scale * product / math.sqrt(_FACTORS)

    def _of(self, name: str, ids: np.ndarray, purpose: int) -> np.ndarray:
        """float64, standard normal: what an id says."""
        radius = np.sqrt(-2 * np.log1p(-uniform_of(ids, self._salt(name, purpose))))
        return radius * np.cos(2 * math.pi * uniform_of(ids, self._salt(name, purpose) + 500))

    def _raw(self, name: str, ids: np.ndarray) -> np.ndarray:
        return (mix(ids, self._salt(name, 8)) >> np.uint64(1)).astype(np.int64)

    def _salt(self, name: str, purpose: int) -> int:
        return (self.seed << 20) + _SALTS[name] + purpose


def _heavy(place: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """int64: one of the group that ``place`` is of, by Zipf's law."""
    rank = np.exp(uniform * math.log(_GROUP + 1)).astype(np.int64) - 1
    return place // _GROUP * _GROUP + rank.clip(0, _GROUP - 1) * 37 % _GROUP
