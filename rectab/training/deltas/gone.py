"""Ids that came to a table and went from it between two runs: what a cache in front of it must forget.

A delta of runs whose table gives its rows to other ids holds the ids that lost theirs (tombstones), by vocabulary, as
compressed differences of their ascending order.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import safe_open

from rectab.tables.base import EmbeddingTable

__all__ = ["Moved", "moved", "read_gone", "write_gone"]


@dataclass(frozen=True)
class Moved:
    """Of one vocabulary.

    Attributes:
        came: int64, ids that have a row of their own and had none; ascending.
        gone: int64, ids that had one and have none.
    """

    came: np.ndarray
    gone: np.ndarray


def moved(files: list[Path], tables: list[EmbeddingTable]) -> dict[str, Moved]:
    """By vocabulary, who came and went from the first model to the second; nothing where ids do not move.

    Args:
        files: two model files.
        tables: what they hold, perhaps without its memory.
    """
    before, after = (_ids_held(path, table) for path, table in zip(files, tables, strict=True))
    return {
        name: Moved(np.setdiff1d(ids, before[name]), np.setdiff1d(before[name], ids))
        for name, ids in after.items()
        if name in before
    }


def _ids_held(path: Path, table: EmbeddingTable) -> dict[str, np.ndarray]:
    if not table.ids_move:
        return {}
    with safe_open(path, framework="pt") as file:
        return table.ids_held(lambda name: file.get_tensor(f"table.{name}"))


def write_gone(found: dict[str, Moved], out: IO[bytes]) -> dict[str, Any]:
    """Write the ids that went; how they were written, by vocabulary."""
    told: dict[str, Any] = {}
    for name, ids in found.items():
        begin = out.tell()
        steps = np.diff(ids.gone.astype("<i8"), prepend=np.int64(0))  # wraps, and so does the sum
        out.write(zlib.compress(steps.astype("<i8").tobytes(), 6))
        told[name] = {"begin": begin, "bytes": out.tell() - begin, "gone": len(ids.gone), "came": len(ids.came)}
    return told


def read_gone(told: dict[str, Any], file: IO[bytes]) -> dict[str, np.ndarray]:
    """By vocabulary, int64, the ids that :func:`write_gone` wrote."""
    found = {}
    for name, how in told.items():
        file.seek(how["begin"])
        steps = np.frombuffer(zlib.decompress(file.read(how["bytes"])), "<i8")
        found[name] = np.cumsum(steps, dtype=np.int64)
    return found
