"""Batches: every row once, an order that is a function of (seed, epoch), resumable, and a thread that ends."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from data_helpers import HEADER, prepared, raw_lines, write_lines

from rectab.batch import Batch
from rectab.data import Split, batches, num_batches


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """24 rows whose one dense column is the row's number, with a history."""
    (tmp_path / "raw").mkdir()
    write_lines(tmp_path / "raw" / "rows.csv", [[*r, str(i)] for i, r in enumerate(raw_lines())], [*HEADER, "number"])
    history = {"behaviour": "seen", "sequences": [{"name": "seen_item", "column": "item", "target": "item"}]}
    features = [{"name": "item"}, {"name": "number", "type": "dense"}]
    return prepared(tmp_path, features=features, histories=[history]).train


def numbers(produced: list[Batch]) -> list[list[int]]:
    return [batch.dense[:, 0].int().tolist() for batch in produced]


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rectab-batches"]


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_stored_order_without_shuffling(split: Split, prefetch: int) -> None:
    got = numbers(list(batches(split, 10, shuffle_seed=None, prefetch=prefetch)))
    assert got == [list(range(10)), list(range(10, 20)), list(range(20, 24))]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_shuffled_order_is_a_function_of_seed_and_epoch(split: Split, prefetch: int) -> None:
    def epoch(seed: int, number: int) -> list[list[int]]:
        return numbers(list(batches(split, 7, shuffle_seed=seed, epoch=number, prefetch=prefetch)))

    assert epoch(1, 0) == epoch(1, 0)
    assert len({str(epoch(seed, number)) for seed in (1, 2) for number in (0, 1)}) == 4
    assert sorted(chain(*epoch(1, 0))) == list(range(24))


def test_resuming_in_the_middle_gives_the_same_batches(split: Split) -> None:
    whole = numbers(list(batches(split, 5, shuffle_seed=3, epoch=2)))
    for start in range(6):
        assert numbers(list(batches(split, 5, shuffle_seed=3, epoch=2, start=start))) == whole[start:]


@pytest.mark.parametrize("size", [1, 2, 5, 22, 23, 24, 25])
@pytest.mark.parametrize("drop_singleton", [True, False])
def test_number_of_batches_and_merged_singleton(split: Split, size: int, drop_singleton: bool) -> None:
    got = numbers(list(batches(split, size, shuffle_seed=0, drop_singleton=drop_singleton)))
    assert len(got) == num_batches(24, size, drop_singleton)
    assert sorted(chain(*got)) == list(range(24))
    if drop_singleton and size > 1:
        assert all(len(batch) > 1 for batch in got)


def test_max_history_keeps_the_most_recent_events(split: Split) -> None:
    for full, cut in zip(
        batches(split, 8, shuffle_seed=None), batches(split, 8, shuffle_seed=None, max_history=2), strict=True
    ):
        a, b = full.histories["seen_item"], cut.histories["seen_item"]
        for i in range(len(full)):
            events = a.values[a.offsets[i] : a.offsets[i + 1]].tolist()
            assert b.values[b.offsets[i] : b.offsets[i + 1]].tolist() == events[-2:]


def test_thread_ends_when_exhausted_and_when_closed(split: Split) -> None:
    list(batches(split, 5, shuffle_seed=0))
    assert not workers()
    iterator = batches(split, 1, shuffle_seed=0, prefetch=2)
    next(iterator)
    assert len(workers()) == 1
    iterator.close()  # type: ignore[attr-defined]
    assert not workers()


def test_errors_of_the_thread_reach_the_caller(split: Split) -> None:
    broken = replace(split, _ids=split._ids[:12])
    with pytest.raises(IndexError):
        list(batches(broken, 5, shuffle_seed=0))
    assert not workers()


def test_part_of_a_split_is_batched_like_a_split(split: Split) -> None:
    part = split.restrict(np.array([4, 2, 9]))
    assert numbers(list(batches(part, 2, shuffle_seed=None, drop_singleton=False))) == [[4, 2], [9]]
