"""The smallest tables, and sizes by knob, that the VLDB 2024 benchmark's formulas give for the ids of Criteo at D = 16.

Counted on the meta device, so nothing of the 2 GB is allocated. An index of some integers a vocabulary is in our bytes
and not in theirs.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rectab.schema import Vocabulary
from rectab.tables import InfeasibleBudget, TableOptions, build_table, full_table_bytes, plan
from rectab.tables.dhe import DHEConfig
from rectab.tables.qr import QRConfig
from rectab.tables.tt_rec import TTRecConfig

SIZES = [1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194]
SIZES += [27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572]
CRITEO = [Vocabulary(f"C{i}", size) for i, size in enumerate(SIZES, 1)]
FULL = full_table_bytes(CRITEO, 16)
COUNTED = TableOptions(device="meta")


def share(method: str, config: Any) -> float:
    """Bytes over the full table's, in per cent."""
    return 100 * build_table(method, CRITEO, 16, config, COUNTED).ledger().bytes / FULL


def floor(method: str, **options: Any) -> float:
    """The smallest budget, in per cent of the full table."""
    with pytest.raises(InfeasibleBudget) as caught:
        plan(method, CRITEO, 16, 1, **options)
    assert caught.value.smallest_bytes is not None
    return 100 * caught.value.smallest_bytes / FULL


def test_these_are_the_ids_of_criteo() -> None:
    assert sum(SIZES) == 33_762_577


def test_quotient_and_remainder() -> None:
    """With one divisor for all, where ours is smaller: quotients that are not all there need fewer remainders. And with
    a divisor for each, near the root of its ids."""
    divisor = min(range(1400, 1700), key=lambda c: sum(min(c + -(-n // c), n) for n in SIZES))
    rows = sum(min(divisor + -(-n // divisor), n) for n in SIZES)
    assert 100 * rows / sum(SIZES) == pytest.approx(0.138, abs=0.0005)
    ours = share("qr", QRConfig(tuple(divisor if divisor + -(-n // divisor) < n else 1 for n in SIZES)))
    assert 0.130 < ours < 0.1385
    assert floor("qr") == pytest.approx(0.085, abs=0.0005)


@pytest.mark.parametrize(("rank", "expected"), [(1, 0.002), (16, 0.14), (64, 1.9), (128, 6.8)])
def test_ranks_of_tensor_trains(rank: int, expected: float) -> None:
    assert share("tt_rec", TTRecConfig(rank)) == pytest.approx(expected, rel=0.04)


def test_smallest_tables() -> None:
    assert floor("tt_rec") == pytest.approx(0.002, rel=0.04)
    assert floor("mde") == pytest.approx(100 / 16, rel=0.001), "one element an id, and small matrices"
    assert floor("memcom") == pytest.approx(100 / 16, rel=0.001), "one number an id"
    assert floor("memcom", bias=True) == pytest.approx(200 / 16, rel=0.001)
    assert floor("robe") < 1e-4
    assert floor("hash_embedding") < 1e-4
    assert floor("adaptemb") < 2e-4, "a row a vocabulary"


@pytest.mark.parametrize("budget", ["20%", "1%", "0.01%"])
@pytest.mark.parametrize("method", ["robe", "hash_embedding", "adaptemb"])
def test_any_budget_is_used(method: str, budget: str) -> None:
    made = plan(method, CRITEO, 16, budget)
    assert made.budget_share is not None
    assert 0.99 < made.budget_share <= 1
    assert made.on_meta.device == torch.device("meta")


@pytest.mark.parametrize(("width", "expected"), [(1, 0.004), (32, 0.11), (256, 0.93), (1024, 6.6)])
def test_widths_of_deep_hash_embeddings(width: int, expected: float) -> None:
    """A network a vocabulary, where that is less than its rows. Theirs have batch norms besides."""
    sizes = share("dhe", DHEConfig(width, num_hashes=1024, shared=False))
    assert sizes == pytest.approx(expected, rel=0.06)
