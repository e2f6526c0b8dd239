"""Budgets in bytes: how they are written, and the full table that shares are of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.registry import bytes_of, get_method

__all__ = ["format_bytes", "full_table_bytes", "is_no_budget", "parse_budget", "resolve_budget"]

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_NO_BUDGET = ("none", "full")


def is_no_budget(budget: str | int | None) -> bool:
    """Whether it asks for no budget: None, or one of the words ``none`` and ``full``."""
    return budget is None or str(budget).strip().lower() in _NO_BUDGET


def resolve_budget(budget: str | int | None, full_bytes: int) -> int | None:
    """Bytes, as :func:`parse_budget` reads and refuses them; None where no budget is asked for."""
    return None if budget is None or is_no_budget(budget) else parse_budget(budget, full_bytes)


def parse_budget(text: str | int | float, full_bytes: int) -> int:
    """Bytes of ``"256KiB"``, ``"1.5GB"``, ``"10%"`` (of ``full_bytes``) or a plain number of bytes.

    Raises:
        ValueError: not a budget, not positive, or text that is a number of at most 100 without a unit.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*|%)\s*", str(text))
    unit = match.group(2).lower() if match else None
    if match is None or (unit != "%" and unit not in _UNITS):
        raise ValueError(f"budget {text!r} is not understood; write bytes (4194304), 4MiB, 1.5GB or 10%")
    number = float(match.group(1))
    if unit == "" and isinstance(text, str) and number <= 100:
        raise ValueError(
            f"budget {text!r} would be {number:g} bytes; write {number:g}% for a share of the full table, or "
            f"{number:g}B if bytes are meant"
        )
    size = int(number / 100 * full_bytes) if unit == "%" else int(number * _UNITS[str(unit)])
    if size < 1:
        raise ValueError(f"budget {text!r} is less than one byte")
    return size


def format_bytes(size: float) -> str:
    """``4.00 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} TiB"


def full_table_bytes(vocabularies: Sequence[Vocabulary], embedding_dim: int) -> int:
    """Serving bytes of the fp32 full table; a hashed vocabulary counts its distinct training ids."""
    return _full_bytes(tuple(v.num_embeddings for v in vocabularies), embedding_dim)


@lru_cache(maxsize=64)
def _full_bytes(sizes: tuple[int, ...], embedding_dim: int) -> int:
    fitted = [Vocabulary(str(index), size) for index, size in enumerate(sizes)]
    return bytes_of("full", fitted, embedding_dim, get_method("full").config(), TableOptions())
