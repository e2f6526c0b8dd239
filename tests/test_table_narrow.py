"""The full table at the width that a budget holds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from rich.console import Console

from rectab.schema import Vocabulary
from rectab.tables import TableOptions, build_table, full_table_bytes, plan
from rectab.tables.fit import FitTarget, reconstruction_error
from rectab.tables.narrow import NarrowConfig
from rectab.tables.plan_list import plan_all, plan_renderables


def test_the_width_is_the_largest_that_fits(vocabularies: Sequence[Vocabulary]) -> None:
    full, index = full_table_bytes(vocabularies, 16), 8 * len(vocabularies)
    row_bytes = (full - index) // 16
    for width in (1, 2, 7, 15):
        exactly = width * row_bytes + index
        assert plan("narrow", vocabularies, 16, exactly).config == NarrowConfig(width)
        planned = plan("narrow", vocabularies, 16, exactly + row_bytes - 1)
        assert planned.config == NarrowConfig(width)
        assert planned.next_bytes == exactly + row_bytes
    assert plan("narrow", vocabularies, 16).serving.bytes == full


def test_the_plan_says_what_the_next_step_would_take(vocabularies: Sequence[Vocabulary]) -> None:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(*plan_renderables(plan_all(vocabularies, 16, "12.5%", ["narrow"]), 16, "12.5%"), sep="\n")
    assert "width=1" in capture.get()
    assert "the next size takes 55.91 KiB (12.5%)" in " ".join(capture.get().split())


def test_a_narrow_row_has_zeros_at_its_end_and_a_projected_one_a_direction(vocabularies: Sequence[Vocabulary]) -> None:
    ids = torch.arange(2000)
    plain = build_table("narrow", vocabularies, 16, NarrowConfig(3))
    assert torch.count_nonzero(plain(ids, 0)[:, 3:]) == 0
    assert torch.count_nonzero(plain(ids, 0)[:, :3]) == 6000
    projected = build_table("narrow", vocabularies, 16, NarrowConfig(3, project=True))
    assert torch.linalg.matrix_rank(projected(ids, 0).double(), tol=1e-4) == 3
    for width in (1, 3, 16):
        for project in (False, True):
            options = TableOptions(init_std=0.05)
            table = build_table("narrow", vocabularies, 16, NarrowConfig(width, project), options)
            assert table(ids, 0).std().item() == pytest.approx(0.05, rel=0.05)


def test_the_projection_is_trained_outside_the_rows(vocabularies: Sequence[Vocabulary]) -> None:
    table = build_table("narrow", vocabularies, 8, NarrowConfig(2, project=True))
    assert [p.shape for p in table.dense_parameters()] == [(2, 8)]
    assert table.ledger().by_kind()["decoder"] == 4 * 2 * 8
    with pytest.raises(ValueError, match="width 9 is more than embedding_dim 8"):
        build_table("narrow", vocabularies, 8, NarrowConfig(9))


def test_it_starts_from_trained_vectors_with_the_least_error_there_is() -> None:
    vectors = torch.randn(300, 8, generator=torch.Generator().manual_seed(0)) * torch.linspace(2, 0.1, 8)
    vocabulary, target = [Vocabulary("a", 300)], FitTarget(0, vectors, None, None)
    plain = build_table("narrow", vocabulary, 8, NarrowConfig(3))
    plain.start_from([target])
    assert torch.equal(plain(torch.arange(300), 0)[:, :3], vectors[:, :3])
    projected = build_table("narrow", vocabulary, 8, NarrowConfig(3, project=True))
    projected.start_from([target])
    singular = torch.linalg.svdvals(vectors).square()
    assert reconstruction_error(projected, target) == pytest.approx(float(singular[3:].sum() / singular.sum()) ** 0.5)
