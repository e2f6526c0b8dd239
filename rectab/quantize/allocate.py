"""Which block takes which encoding: least error under a budget in bytes.

Errors of blocks add up, so a price of a byte (a Lagrange multiplier) splits the choice: at a price every block picks
the option of least ``error + price * bytes``, and neighbouring blocks are joined where one block picks better than two.
The price is the one at which the picks just fit. What is left of the budget goes where it lowers the error most per
byte, and by exchanges between two blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rectab.quantize.blocks import Block
from rectab.quantize.encodings import Encoding
from rectab.quantize.options import Options, OptionTable

__all__ = ["Allocation", "allocate", "smallest_bytes"]

_ROUNDS = 4  # of joining blocks at a price, and of the price that follows
_EXCHANGES = 64


@dataclass(frozen=True)
class Allocation:
    """What every block is held in.

    Attributes:
        blocks: in order of vocabulary and first id.
        encodings: one a block.
        errors: float64, one a block: mean squared change of the output, to first order.
        bytes: of all blocks, headers included.
    """

    blocks: tuple[Block, ...]
    encodings: tuple[Encoding, ...]
    errors: np.ndarray
    bytes: int

    @property
    def error(self) -> float:
        """Of all blocks."""
        return float(self.errors.sum())


def smallest_bytes(table: OptionTable, blocks: Sequence[Sequence[Block]]) -> int:
    """Bytes of the smallest allocation: a shared vector for every vocabulary."""
    return sum(int(table.of(_whole(parts)).bytes[0]) for parts in blocks)


def allocate(table: OptionTable, blocks: Sequence[Sequence[Block]], budget: int) -> Allocation | None:
    """The allocation of least error within ``budget`` bytes; None if there is none.

    Args:
        table: of the options.
        blocks: the finest blocks of every vocabulary; neighbours may be joined.
        budget: bytes of all blocks, headers included.
    """
    layout = [list(parts) for parts in blocks]
    best: Allocation | None = None
    for _ in range(_ROUNDS):
        flat = [block for parts in layout for block in parts]
        options = [table.of(block) for block in flat]
        picks, price = _within(options, budget)
        if picks is not None:
            found = _allocation(flat, options, _spend(options, picks, budget))
            if best is not None and found.error >= best.error:
                break
            best = found
        joined = [_join(table, parts, price) for parts in blocks]
        if joined == layout:
            break
        layout = joined
    return best if best is not None else _of_wholes(table, blocks, budget)


def _of_wholes(table: OptionTable, blocks: Sequence[Sequence[Block]], budget: int) -> Allocation | None:
    flat = [_whole(parts) for parts in blocks]
    options = [table.of(block) for block in flat]
    picks, _ = _within(options, budget)
    return None if picks is None else _allocation(flat, options, _spend(options, picks, budget))


def _whole(parts: Sequence[Block]) -> Block:
    return parts[0].joined(parts[-1])


def _allocation(blocks: Sequence[Block], options: Sequence[Options], picks: np.ndarray) -> Allocation:
    chosen = list(zip(options, picks.tolist(), strict=True))
    return Allocation(
        tuple(blocks),
        tuple(o.encodings[p] for o, p in chosen),
        np.array([o.errors[p] for o, p in chosen]),
        sum(int(o.bytes[p]) for o, p in chosen),
    )


def _join(table: OptionTable, parts: Sequence[Block], price: float) -> list[Block]:
    """Join neighbours, the pair that gains most first, while error plus price of the bytes falls.

    A pair is measured only where its gain may be the largest.
    """
    layout, measured, joint = list(parts), set[Block](), dict[Block, float]()
    costs = [table.of(block).cost(price) for block in layout]
    while len(layout) > 1:
        pairs = [(one, two, one.joined(two)) for one, two in pairwise(layout)]
        for one, two, pair in pairs:
            if pair not in joint:
                joint[pair] = table.least_cost_of_two(one, two, price)
        gains = [a + b - joint[pair] for a, b, (_, _, pair) in zip(costs, costs[1:], pairs, strict=False)]
        at = int(np.argmax(gains))
        if gains[at] <= 0:
            break
        one, two, pair = pairs[at]
        if pair not in measured:  # what it costs is known now, and may be too much
            measured.add(pair)
            joint[pair] = table.cost_of_two(one, two, price, costs[at] + costs[at + 1])
        else:
            layout[at : at + 2], costs[at : at + 2] = [pair], [joint[pair]]
    return layout


def _within(options: Sequence[Options], budget: int) -> tuple[np.ndarray | None, float]:
    """(picks at the lowest price at which they fit, that price); picks None if even the smallest do not fit."""
    low, high = -40.0, 20.0  # logarithms

    def picks(price: float) -> np.ndarray:
        return np.array([o.best(price) for o in options])

    def size(chosen: np.ndarray) -> int:
        return sum(int(o.bytes[p]) for o, p in zip(options, chosen, strict=True))

    if size(picks(np.exp(high))) > budget:
        return None, float(np.exp(high))
    if size(picks(np.exp(low))) <= budget:
        return picks(np.exp(low)), float(np.exp(low))
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if size(picks(np.exp(middle))) <= budget else (middle, high)
    return picks(np.exp(high)), float(np.exp(high))


def _spend(options: Sequence[Options], picks: np.ndarray, budget: int) -> np.ndarray:
    """Spend what is left: single upgrades by error per byte, then exchanges, in turns."""
    owner = np.repeat(np.arange(len(options)), [len(o.bytes) for o in options])
    place = np.concatenate([np.arange(len(o.bytes)) for o in options])
    sizes, errors = np.concatenate([o.bytes for o in options]), np.concatenate([o.errors for o in options])
    first = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    at = first + picks
    for _ in range(_EXCHANGES):
        at = _upgrade(owner, sizes, errors, at, budget)
        swapped = _exchange(owner, sizes, errors, at, budget)
        if swapped is None:
            break
        at = swapped
    return place[at]


def _upgrade(owner: np.ndarray, sizes: np.ndarray, errors: np.ndarray, at: np.ndarray, budget: int) -> np.ndarray:
    at = at.copy()
    while True:
        left = budget - int(sizes[at].sum())
        more, gain = sizes - sizes[at][owner], errors[at][owner] - errors
        fits = (more <= left) & (gain > 0) & (more > 0)
        if not fits.any():
            return at
        chosen = int(np.argmax(np.where(fits, gain / np.maximum(more, 1), -1.0)))
        at[owner[chosen]] = chosen


def _exchange(
    owner: np.ndarray, sizes: np.ndarray, errors: np.ndarray, at: np.ndarray, budget: int
) -> np.ndarray | None:
    """One block takes less, another one more, and the error falls: the best such pair, or None."""
    left = budget - int(sizes[at].sum())
    more, gain = sizes - sizes[at][owner], errors[at][owner] - errors
    down, up = np.flatnonzero(more < 0), np.flatnonzero(more > 0)
    if not len(down) or not len(up):
        return None
    near = down[np.argsort(gain[down] / more[down])][:256]  # those that lose least error a byte
    total = gain[near][:, None] + gain[up][None]
    fits = (more[near][:, None] + more[up][None] <= left) & (owner[near][:, None] != owner[up][None])
    total = np.where(fits, total, -np.inf)
    worse, better = np.unravel_index(int(np.argmax(total)), total.shape)
    if total[worse, better] <= 1e-12 * errors[at].sum():
        return None
    at = at.copy()
    at[owner[near[worse]]], at[owner[up[better]]] = near[worse], up[better]
    return at
