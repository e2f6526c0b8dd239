"""Allocations of a fixed shape: they fill the budget as far as their shape allows, and count as others do."""

from __future__ import annotations

import numpy as np
import pytest

from rectab.quantize.allocate import Allocation
from rectab.quantize.blocks import Block
from rectab.quantize.encodings import Bits, Shared
from rectab.quantize.options import OptionTable
from rectab.quantize.rivals import Shape, smallest_rival, threshold, uniform

SIZES, DIM, HEADER = (5, 160, 700), 4, 3


@pytest.fixture(scope="module")
def held() -> tuple[OptionTable, list[np.ndarray]]:
    random = np.random.default_rng(0)
    counts = [np.r_[0, np.sort(random.zipf(1.5, n - 1))[::-1]] for n in SIZES]
    vectors = [random.normal(0, 1, (n, DIM)).astype(np.float32) for n in SIZES]
    return OptionTable(vectors, [c + 0.5 for c in counts], None, HEADER), counts


def check(options: OptionTable, made: Allocation, budget: int) -> None:
    pairs = list(zip(made.blocks, made.encodings, strict=True))
    assert made.bytes == sum(e.bytes(len(b), DIM) + HEADER for b, e in pairs) <= budget
    assert made.errors.tolist() == pytest.approx([options.error(b, e) for b, e in pairs])
    ids = {v: [0] * n for v, n in enumerate(SIZES)}
    for block in made.blocks:
        for i in range(block.first, block.last):
            ids[block.vocabulary][i] += 1
    assert all(set(seen) == {1} for seen in ids.values()), "every id is in one block"


def test_uniform_is_one_encoding_or_nothing(held: tuple[OptionTable, list[np.ndarray]]) -> None:
    options, _ = held
    size = sum(HEADER + 2 * DIM + n * DIM for n in SIZES)
    made = uniform(options, size)
    assert made is not None
    check(options, made, size)
    assert (made.bytes, set(made.encodings)) == (size, {Bits(8)})
    assert uniform(options, size - 1) is None
    assert uniform(options, size - 1, Bits(4)) is not None


@pytest.mark.parametrize("budget", [100, 400, 1000, 2500, 10_000])
def test_threshold_keeps_as_many_as_fit(held: tuple[OptionTable, list[np.ndarray]], budget: int) -> None:
    options, counts = held
    made = threshold(options, counts, budget)
    assert made is not None
    check(options, made, budget)
    kept = {b.vocabulary: b.last for b, e in zip(made.blocks, made.encodings, strict=True) if e == Bits(8)}
    dropped = [counts[b.vocabulary][b.first : b.last].max() for b in made.blocks if b.first > 0]
    least = min((c[1 : kept[v]].min() for v, c in enumerate(counts) if kept[v] > 1), default=np.inf)
    assert max(dropped, default=0) < least, "one k for all vocabularies"
    if dropped:  # one less does not fit
        lower = [1 + int((c[1:] >= max(dropped)).sum()) for c in counts]
        parts = [(k, n - k) for k, n in zip(lower, SIZES, strict=True)]
        more = sum(Bits(8).bytes(k, DIM) + HEADER + (Shared().bytes(r, DIM) + HEADER if r else 0) for k, r in parts)
        assert more > budget
    else:
        assert made.blocks == tuple(Block(v, 0, n) for v, n in enumerate(SIZES))


def test_threshold_says_when_nothing_fits(held: tuple[OptionTable, list[np.ndarray]]) -> None:
    assert threshold(*held, budget=60) is None


def test_where_ids_are_counted_the_rest_leaves_the_map(held: tuple[OptionTable, list[np.ndarray]]) -> None:
    options, counts = held
    counting = OptionTable(options.vectors, options.weights, None, HEADER, id_bits=[20, 20, 20])
    made = threshold(counting, counts, 3000)
    assert made is not None
    assert {e.name for e, b in zip(made.encodings, made.blocks, strict=True) if b.first > 0} == {"rare"}
    assert made.bytes == sum(counting.bytes(b, e) for b, e in zip(made.blocks, made.encodings, strict=True)) <= 3000


@pytest.mark.parametrize("shape", ["int8", "threshold"])
def test_the_smallest_rival_is_made_and_nothing_smaller(
    held: tuple[OptionTable, list[np.ndarray]], shape: Shape
) -> None:
    options, counts = held
    size = smallest_rival(options, shape)
    made = {"int8": uniform, "threshold": lambda table, budget: threshold(table, counts, budget)}[shape]
    found = made(options, size)
    assert found is not None
    assert found.bytes == size
    assert made(options, size - 1) is None


def test_counts_that_do_not_quite_fall_keep_every_id_that_is_frequent(
    held: tuple[OptionTable, list[np.ndarray]],
) -> None:
    options, counts = held
    uneven = [c.copy() for c in counts]
    uneven[2][300] = 10**6
    made = threshold(options, uneven, 2500)
    assert made is not None
    assert (
        max(b.last for b, e in zip(made.blocks, made.encodings, strict=True) if b.vocabulary == 2 and e == Bits(8))
        > 300
    )
