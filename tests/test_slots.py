"""The slot map: torchrec's hash and probing, kernels against the reference, and the reference against a plain one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rectab.ops import use_kernel
from rectab.ops.murmur import murmur, unsigned_remainder
from rectab.ops.slots import TALLY, Blocks, SlotRule, SlotState, find_rows, take_rows

EVICT = ("lru", "lfu", "distance_lfu", "ttl", "never")
ADMIT = ("always", "probability", "count")


def state_of(rows: int, counted: bool = True, width: int = 16) -> SlotState:
    return SlotState(
        torch.full((rows,), -1),
        torch.zeros(rows, dtype=torch.int32),
        torch.zeros(rows if counted else 0, dtype=torch.int32),
        torch.zeros(4, width, dtype=torch.uint8),
        torch.zeros(len(TALLY), dtype=torch.int64),
    )


def blocks_of(*blocks: tuple[int, int, int]) -> Blocks:
    first, rows, reserved = (torch.tensor(column) for column in zip(*blocks, strict=True))
    return Blocks(first, rows, reserved)


ONE = torch.tensor(0)


def test_slots_are_those_of_torchrec() -> None:
    """Measured with ``torch.ops.fbgemm.zero_collision_hash`` of fbgemm-gpu 1.8.0 on empty identities."""
    hashed = murmur(torch.tensor([5, 6, 7]))
    assert unsigned_remainder(hashed, torch.tensor(16)).tolist() == [10, 15, 4]
    assert [bits % 2**64 % 1_000_003 for bits in hashed.tolist()] == unsigned_remainder(
        hashed, torch.tensor(1_000_003)
    ).tolist()
    state = state_of(16)
    assert take_rows(torch.tensor([5, 6, 7]), ONE, blocks_of((0, 16, 0)), state, SlotRule()).rows.tolist() == [
        10,
        15,
        4,
    ]


def batches(steps: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    spread = [torch.randint(-60, 60, (25,), generator=generator) * (10**12 // 7) for _ in range(2 * steps)]
    whole = [torch.randint(10, (25,), generator=generator) for _ in range(steps)]
    return [torch.stack([spread[2 * t], whole[t], spread[2 * t + 1]], 1) for t in range(steps)]


RULES = [(evict, admit, 0.0) for evict in EVICT for admit in ADMIT]
RULES += [("lfu", "better", 0.0), ("distance_lfu", "better", 0.0), ("lfu", "always", 3.0), ("lfu", "better", 3.0)]


@pytest.mark.parametrize(("evict", "admit", "half_life"), RULES)
def test_kernels_do_what_the_reference_does(evict: str, admit: str, half_life: float) -> None:
    rule = SlotRule(evict, 2, 0.7, admit, 0.5, 2, 8, 12345, half_life)  # type: ignore[arg-type]
    blocks, columns = blocks_of((0, 40, 4), (40, -10, 0), (50, 60, 0)), torch.arange(3)
    results = []
    for kernel in ("torch", "numba"):
        state, seen = state_of(110), []
        with use_kernel(kernel):
            for now, ids in enumerate(batches(12)):
                state.tally[0] = now
                made = take_rows(ids, columns, blocks, state, rule)
                seen += [made.rows.flatten(), made.admitted, made.replaced]
                seen += [
                    find_rows(ids, columns, blocks, state.identities, 8, shared).flatten() for shared in (True, False)
                ]
        results.append([*seen, *state.tensors()])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    tally = dict(zip(TALLY, results[0][-1].tolist(), strict=True))
    assert tally["lookups"] == 12 * 75
    assert tally["admitted"] > 50
    assert (tally["evicted"] > 0) == (evict != "never")


class Plain:
    """LRU and TTL of one block without counters, as a dict from slots to (id, time): written apart from the package."""

    def __init__(self, size: int, probes: int, ttl: int | None) -> None:
        self.size, self.probes, self.ttl = size, probes, ttl
        self.held: dict[int, tuple[int, int]] = {}

    def take(self, ids: list[int], now: int) -> list[int]:
        rows = {}
        for value in ids:  # who is there is used before anybody new is let in
            slot = next((s for s, (held, _) in self.held.items() if held == value), None)
            if slot is not None:
                self.held[slot], rows[value] = (value, now), slot
        for value in ids:
            rows[value] = rows[value] if value in rows else self.enter(value, now)
        return [rows[value] for value in ids]

    def enter(self, value: int, now: int) -> int:
        home = int(murmur(torch.tensor([value]))) % 2**64 % self.size
        window = [(home + step) % self.size for step in range(self.probes)]
        upto = next((i for i, s in enumerate(window) if s not in self.held), len(window))
        old = [s for s in window[:upto] if self.held[s][1] < now]
        if self.ttl is None:
            chosen = window[upto] if upto < len(window) else min(old, key=lambda s: self.held[s][1], default=None)
        else:
            expired = [s for s in old if now - self.held[s][1] > self.ttl]
            chosen = expired[0] if expired else window[upto] if upto < len(window) else None
        if chosen is None:
            return home
        self.held[chosen] = (value, now)
        return chosen


@pytest.mark.parametrize("ttl", [None, 3])
def test_who_makes_place_is_who_a_plain_map_says(ttl: int | None) -> None:
    plain, state = Plain(50, 8, ttl), state_of(50, counted=False)
    rule = SlotRule("lru" if ttl is None else "ttl", ttl or 0, max_probe=8)
    generator = torch.Generator().manual_seed(1)
    for now in range(40):
        ids = torch.randint(now, 90 + now, (20,), generator=generator).unique()
        state.tally[0] = now
        assert take_rows(ids, ONE, blocks_of((0, 50, 0)), state, rule).rows.tolist() == plain.take(ids.tolist(), now)
        assert {s: held for s, (held, _) in plain.held.items()} == {
            s: held for s, held in enumerate(state.identities.tolist()) if held != -1
        }


@pytest.mark.parametrize("evict", EVICT)
def test_what_was_used_now_stays_and_least_used_goes(evict: str) -> None:
    state, rule = state_of(8), SlotRule(evict, 1, max_probe=8)  # type: ignore[arg-type]
    blocks = blocks_of((0, 8, 0))
    for now, ids in enumerate([[1, 2, 3, 4, 5, 6, 7, 8], [1, 1, 2, 3, 4, 5, 6, 7], [8], [9]]):
        state.tally[0] = now
        take_rows(torch.tensor(ids), ONE, blocks, state, rule)
    held = set(state.identities.tolist())
    assert (9 in held) == (evict != "never")
    if evict in ("lfu", "lru"):  # 2 to 7 were used as often as 8, and longer ago; 1 more often
        assert {1, 8} <= held
    full = SlotState(*(tensor.clone() for tensor in state.tensors()))
    take_rows(torch.arange(100, 108), ONE, blocks, state, rule)  # in the same unit of time
    assert 9 in set(state.identities.tolist()) or evict == "never"
    assert full.identities.numel() == 8


def test_an_id_is_admitted_when_it_was_asked_for_often_enough() -> None:
    state, rule = state_of(100, width=64), SlotRule(admit="count", count=3)
    blocks = blocks_of((0, 100, 10))
    asked = [take_rows(torch.tensor([7]), ONE, blocks, state, rule) for _ in range(4)]
    assert [made.admitted.numel() for made in asked] == [0, 0, 1, 0]
    assert asked[0].rows.item() == asked[1].rows.item() >= 90
    assert asked[2].rows.item() == asked[3].rows.item() < 90


def test_who_is_asked_for_more_often_takes_the_place_of_who_is_asked_for_less() -> None:
    state, rule = state_of(4, width=64), SlotRule("lfu", admit="better", max_probe=4)
    blocks = blocks_of((0, 4, 0))
    for now in range(5):
        state.tally[0] = now
        take_rows(torch.tensor([1, 2, 3] if now else [1, 2, 3, 4]), ONE, blocks, state, rule)
    held = []
    for now in range(5, 9):
        state.tally[0] = now
        take_rows(torch.tensor([1, 2, 3, 7]), ONE, blocks, state, rule)
        held.append(set(state.identities.tolist()))
    assert held == [{1, 2, 3, 4}, {1, 2, 3, 7}, {1, 2, 3, 7}, {1, 2, 3, 7}], "once 4 was used, and 7 asked for twice"


def test_counts_fade() -> None:
    for half_life, goes in ((0.0, 2), (4.0, 1)):
        state, rule = state_of(2), SlotRule("lfu", max_probe=2, half_life=half_life)
        for now, ids in enumerate([[1], [1], [1], [1], *[[]] * 16, [2], [2], [3]]):
            state.tally[0] = now
            take_rows(torch.tensor(ids, dtype=torch.int64), ONE, blocks_of((0, 2, 0)), state, rule)
        assert goes not in state.identities.tolist(), "1 was used four times, and long ago"
        assert 3 in state.identities.tolist()


def test_the_sketch_forgets() -> None:
    state, rule = state_of(4, width=16), SlotRule(admit="count", count=255)
    blocks = blocks_of((0, 4, 2))
    for _ in range(100):
        take_rows(torch.tensor([7]), ONE, blocks, state, rule)
    most = int(state.sketch.max())
    take_rows(torch.arange(1000, 1400), ONE, blocks, state, rule)
    assert most > 30
    assert int(state.sketch.to(torch.int64).sum()) < 4 * 500


def test_probability_is_a_share_and_minus_one_never_gets_a_row() -> None:
    state, rule = state_of(5000, counted=False), SlotRule(admit="probability", probability=0.25, evict="never")
    made = take_rows(torch.arange(-1, 4000), ONE, blocks_of((0, 5000, 100)), state, rule)
    assert 0.22 < made.admitted.numel() / 4000 < 0.28
    assert made.rows[0] >= 4900
    assert find_rows(torch.tensor([-1]), ONE, blocks_of((0, 5000, 100)), state.identities, 128, False).item() == -1


@pytest.mark.parametrize("kernel", ["torch", "numba"])
def test_an_id_outside_a_whole_vocabulary_is_refused(kernel: str) -> None:
    state, blocks = state_of(10), blocks_of((0, -10, 0))
    with use_kernel(kernel):
        for call in (
            lambda ids: find_rows(ids, ONE, blocks, state.identities, 4),
            lambda ids: take_rows(ids, ONE, blocks, state, SlotRule()),
        ):
            with pytest.raises(IndexError, match="id 10 is outside"):
                call(torch.tensor([3, 10]))


def test_shapes_and_vocabularies_broadcast() -> None:
    state, blocks = state_of(40), blocks_of((0, 20, 2), (20, 20, 2))
    ids = torch.arange(12).view(3, 2, 2)
    made = take_rows(ids, torch.tensor([0, 1]), blocks, state, SlotRule())
    assert made.rows.shape == ids.shape
    for column in range(2):
        assert torch.equal(find_rows(ids[..., column], torch.tensor(column), blocks, state.identities, 128),
                           made.rows[..., column])  # fmt: skip
    mixed = find_rows(ids, torch.tensor([[0], [1]]), blocks, state.identities, 128)
    assert torch.equal(mixed[0, 0], find_rows(ids[0, 0], ONE, blocks, state.identities, 128))
