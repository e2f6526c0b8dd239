"""CAFE: rows of their own for the ids that matter most while training, shared rows for all others.

Zhang et al., "CAFE: Towards Compact, Adaptive, and Fast Embedding for Large-scale Recommendation Models", SIGMOD 2024.
A sketch of fixed size (HotSketch: buckets of four slots, each an id and a score) adds up how large the gradients of ids
are. The ids of the highest scores own a row: on promotion it is a copy of the shared row, with the optimizer's state;
on demotion the id reads its shared row again. Scores decay, so that ids can fall behind.
"""

from __future__ import annotations

from rectab.tables.cafe.config import CafeConfig, cafe_family
from rectab.tables.cafe.serving import CompactCafeTable
from rectab.tables.cafe.table import CafeTable
from rectab.tables.registry import TableMethod, register

__all__ = ["CafeConfig", "CafeTable", "CompactCafeTable"]

register(
    TableMethod(
        name="cafe",
        summary="rows of their own for ids of large gradients, others share",
        paper="Zhang et al., SIGMOD 2024",
        config=CafeConfig,
        table=CafeTable,
        family=cafe_family,
        group="dynamic encoding",
        serves_any_id=True,
    )
)
register(TableMethod("cafe.compact", "own rows by key", CafeConfig, CompactCafeTable, serves_any_id=True))
