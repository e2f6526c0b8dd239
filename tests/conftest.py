"""Shared fixtures: where real rows are, and vocabularies to build tables over."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from rectab.schema import Vocabulary

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; the test is skipped, saying so, where there is none."""
    folder = Path(os.environ.get("RECTAB_DATA", REPOSITORY / ".." / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set RECTAB_DATA")
    return folder


@pytest.fixture
def vocabularies() -> list[Vocabulary]:
    """A user, an item, a tiny and a middling vocabulary, with Zipf counts."""
    sizes = {"user": 2000, "item": 5000, "gender": 3, "city": 150}
    return [Vocabulary(name, n, counts=zipf_counts(n)) for name, n in sizes.items()]


def zipf_counts(num_embeddings: int) -> np.ndarray:
    """int64 counts that fall as 1 / rank; id 0 (unseen or rare) has none."""
    counts = (10_000 / np.arange(1, num_embeddings + 1)).astype(np.int64) + 1
    counts[0] = 0
    return counts
