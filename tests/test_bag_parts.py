"""Bags of many values are pooled a few at a time when nothing is trained: the same sums, fewer vectors held at once."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rectab.schema import Vocabulary
from rectab.tables import EmbeddingTable, TableOptions, build_table, plan, views
from rectab.tables.quantized import QuantizedConfig

VOCABULARY = [Vocabulary("item", 60)]
DIM = 5


def table_of(rows: str) -> EmbeddingTable:
    if rows != "packed":
        return plan("full", VOCABULARY, DIM, options=TableOptions(rows=rows)).build()
    config = QuantizedConfig((0, 0), (0, 9), ("fp16", "int3/block"))
    table = build_table("quantized.packed", VOCABULARY, DIM, config)
    table.payload.copy_(torch.arange(len(table.payload)) % 59)  # finite halves
    return table


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    rows=st.sampled_from(["fp32", "int8", "ternary", "packed"]),
    mode=st.sampled_from(["sum", "mean"]),
    weighted=st.booleans(),
    padding_idx=st.sampled_from([None, 3]),
    most=st.integers(1, 40),
)
@settings(deadline=None, max_examples=40)
def test_parts_give_the_sums_of_the_whole_to_the_bit(
    lengths: list[int],
    rows: str,
    mode: Literal["sum", "mean"],
    weighted: bool,
    padding_idx: int | None,
    most: int,
) -> None:
    table, count = table_of(rows), sum(lengths)
    bag = table.bag("item", mode, padding_idx)
    generator = torch.Generator().manual_seed(count)
    ids = torch.randint(0, 60, (count,), generator=generator)
    offsets = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    weights = torch.randn(count, generator=generator) if weighted else None
    asked: list[int] = []
    lookup = table.lookup
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        whole = bag(ids, offsets, weights)
        patch.setattr(views, "_FLOATS", most * DIM)
        patch.setattr(table, "lookup", lambda ids, v: asked.append(ids.numel()) or lookup(ids, v))  # type: ignore[func-returns-value]
        assert torch.equal(bag(ids, offsets, weights), whole)
    assert max(asked) <= max(most, *lengths), "more vectors at once than a part has"


@pytest.mark.parametrize("offsets", [[0, 7, 5, 50], [1, 5, 50], [0, 60]])
def test_offsets_that_do_not_rise_to_the_end_are_refused(offsets: list[int], monkeypatch: Any) -> None:
    monkeypatch.setattr(views, "_FLOATS", DIM)
    bag = table_of("fp32").bag("item", "sum", include_last_offset=True)
    with torch.no_grad(), pytest.raises(ValueError, match="offsets must rise from 0"):
        bag(torch.zeros(50, dtype=torch.int64), torch.tensor(offsets))
