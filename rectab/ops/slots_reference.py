"""The slot map in plain torch and plain Python: what the kernels are held against, and what graphs hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rectab.ops.dispatch import is_eager
from rectab.ops.hashing import mix
from rectab.ops.murmur import murmur, unsigned_remainder

if TYPE_CHECKING:
    from rectab.ops.slots import Blocks, SlotRule, SlotState

__all__ = ["find", "sketch_places", "take"]

_EMPTY = -1
_SKETCH_ROWS = 4
_NOW, _LOOKUPS, _ABSENT, _ADMITTED, _EVICTED, _ASKED, _AGED = 0, 2, 3, 4, 5, 6, 7


def find(ids: Tensor, vocabulary: Tensor, blocks: Blocks, identities: Tensor, max_probe: int, shared: bool) -> Tensor:
    """As :func:`rectab.ops.slots.find_rows`; every slot that may hold an id is looked at, at once."""
    first, rows, reserved = (
        t.to(torch.int64)[vocabulary] for t in (blocks.first_row, blocks.num_rows, blocks.reserved)
    )
    whole = rows < 0
    if is_eager(ids, rows):
        outside = whole & ((ids < 0) | (ids >= -rows))
        if bool(outside.any()):
            raise IndexError(f"id {int(ids[outside.expand_as(ids)][0])} is outside its vocabulary")
    hashed, slots = murmur(ids), (rows.abs() - reserved)
    home = unsigned_remainder(hashed, slots.clamp(min=1))
    steps = torch.arange(max_probe, device=ids.device)
    probed = (home.unsqueeze(-1) + steps) % slots.clamp(min=1).unsqueeze(-1)
    there = (identities[probed + first.unsqueeze(-1)] == ids.unsqueeze(-1)) & (slots > 0).unsqueeze(-1)
    there = there & (ids != _EMPTY).unsqueeze(-1)
    place = there.to(torch.int64).argmax(-1, keepdim=True)
    found = torch.gather(probed, -1, place).squeeze(-1)
    missing = torch.full_like(home, -1) if not shared else first + _fallback(hashed, home, slots, reserved)
    return torch.where(whole, first + ids, torch.where(there.any(-1), first + found, missing))


def _fallback(hashed: Tensor, home: Tensor, slots: Tensor, reserved: Tensor) -> Tensor:
    return torch.where(reserved > 0, slots + unsigned_remainder(hashed, reserved.clamp(min=1)), home)


def sketch_places(number: int, salt: int, width: int) -> list[int]:
    """The cell in each row of a sketch ``width`` wide that counts the id."""
    bits = int(mix(torch.tensor([number]), salt)) % 2**64
    low, high = bits & 0xFFFFFFFF, bits >> 32
    return [((low + row * high) % 2**32) * width >> 32 for row in range(_SKETCH_ROWS)]


def take(
    ids: Tensor, columns: Tensor, blocks: tuple[np.ndarray, ...], state: SlotState, rule: SlotRule
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`rectab.ops.slots.take_rows`, one id after the other; ids that have a slot go first."""
    return _Taking(blocks, state, rule).run(ids, columns)


class _Taking:
    def __init__(self, blocks: tuple[np.ndarray, ...], state: SlotState, rule: SlotRule) -> None:
        self.first, self.rows, self.reserved = blocks
        self.identities, self.last, self.count, self.sketch, self.tally = (t.numpy() for t in state.tensors())
        self.rule, self.now = rule, int(self.tally[_NOW])
        self.fades = rule.evict == "lfu" and rule.half_life > 0
        self.unit = 256 if self.fades else 1
        self.admitted: list[int] = []
        self.replaced: list[int] = []

    def run(self, ids: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hashed = [bits % 2**64 for bits in murmur(ids).tolist()]
        numbers, vocabularies = ids.tolist(), columns.tolist()
        block_of = [vocabularies[i % len(vocabularies)] for i in range(len(numbers))]
        rows = [self._find(n, h, v) for n, h, v in zip(numbers, hashed, block_of, strict=True)]
        for row in rows:
            if row >= 0:
                self._use(row)
        for i, row in enumerate(rows):
            if row < 0:
                rows[i] = self._ask(numbers[i], hashed[i], block_of[i])
        self.tally[_LOOKUPS] += len(rows)
        return tuple(torch.tensor(x, dtype=torch.int64) for x in (rows, self.admitted, self.replaced))  # type: ignore[return-value]

    def _window(self, hashed: int, block: int) -> list[int]:
        slots = int(self.rows[block] - self.reserved[block])
        probes = min(self.rule.max_probe, slots)
        return [int(self.first[block]) + (hashed % slots + step) % slots for step in range(probes)]

    def _find(self, number: int, hashed: int, block: int) -> int:
        if self.rows[block] < 0:
            if not 0 <= number < -self.rows[block]:
                raise IndexError(f"id {number} is outside its vocabulary")
            return int(self.first[block]) + number
        if number == _EMPTY:
            return -1
        for slot in self._window(hashed, block):
            if self.identities[slot] in (number, _EMPTY):
                return slot if self.identities[slot] == number else -1
        return -1

    def _use(self, row: int) -> None:
        if self.count.size:
            self.count[row] = int(min(self._worth(row) + self.unit, 2**31 - 1))
        self.last[row] = self.now

    def _worth(self, row: int) -> float:
        """What the count of a slot is worth now."""
        age = np.float64(self.now - self.last[row])
        fades = self.fades and age > 0
        return float(np.float64(self.count[row]) * 2.0 ** (-age / self.rule.half_life) if fades else self.count[row])

    def _ask(self, number: int, hashed: int, block: int) -> int:
        row = self._find(number, hashed, block)  # it may have come earlier among these
        seen = self._admitted(number, block) if row < 0 and number != _EMPTY else None
        if seen is not None:
            row = self._place(number, hashed, block, seen)
        if row >= 0:
            self._use(row)
            return row
        self.tally[_ABSENT] += 1
        slots, reserved = int(self.rows[block] - self.reserved[block]), int(self.reserved[block])
        return int(self.first[block]) + (slots + hashed % reserved if reserved else hashed % slots)

    def _admitted(self, number: int, block: int) -> int | None:
        """What the sketch has seen of an id that may look for a slot; None for one that may not."""
        rule = self.rule
        self.tally[_ASKED] += 1
        if rule.admit == "always":
            return 0
        if rule.admit == "probability":
            drawn = int(mix(torch.tensor([number]), rule.salt + int(self.tally[_ASKED]))) % 2**64
            return 0 if drawn >> 1 < rule.codes[4] else None
        seen = self._counted(number, block)
        return seen if rule.admit == "better" or seen >= rule.count else None

    def _counted(self, number: int, block: int) -> int:
        width = self.sketch.shape[1]
        places = sketch_places(number, self.rule.salt + block, width)
        seen = min(int(self.sketch[row, place]) for row, place in enumerate(places)) + 1
        for row, place in enumerate(places):
            self.sketch[row, place] = max(int(self.sketch[row, place]), min(seen, 255))
        self.tally[_AGED] += 1
        aged = int(self.tally[_AGED]) * 2
        if aged % 5 < 2:
            self.sketch.reshape(-1)[aged // 5 % self.sketch.size] //= 2
        return seen

    def _place(self, number: int, hashed: int, block: int, seen: int) -> int:
        chosen: int | None = None
        lowest: tuple[Any, ...] = ()
        for slot in self._window(hashed, block):
            if self.identities[slot] == _EMPTY:
                if self.rule.evict != "ttl" or chosen is None:
                    chosen = slot
                break
            score = self._score(slot)
            if score is not None and (chosen is None or score < lowest):
                chosen, lowest = slot, score
        if chosen is None or (self.rule.admit == "better" and self._is_worth_more(chosen, seen)):
            return -1
        before = int(self.identities[chosen])
        self.admitted.append(chosen)
        self.replaced.append(before)
        self.tally[_ADMITTED] += 1
        self.tally[_EVICTED] += before != _EMPTY
        self.identities[chosen] = number
        if self.count.size:
            self.count[chosen] = 0
        return chosen

    def _is_worth_more(self, slot: int, seen: int) -> bool:
        """Than an id that was seen so often."""
        return bool(self.identities[slot] != _EMPTY and seen * self.unit <= self._score(slot)[0])  # type: ignore[index]

    def _score(self, slot: int) -> tuple[Any, ...] | None:
        """Less for what makes place sooner; None for what stays. Of equals the first stays chosen."""
        last, rule = int(self.last[slot]), self.rule
        if last >= self.now or rule.evict == "never":
            return None
        if rule.evict == "ttl":
            return () if self.now - last > rule.ttl else None
        if rule.evict == "lru":
            return (last,)
        if rule.evict == "lfu":
            return (self._worth(slot), last)
        age = np.float64(self.now - last + 1)
        return (np.float64(self.count[slot]) / age**rule.decay, last)
