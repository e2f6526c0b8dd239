"""Finds the files that a recipe names in the raw folder."""

from __future__ import annotations

from pathlib import Path

from rectab.data.errors import DataError
from rectab.data.raw_bytes import PACKED

__all__ = ["find_file"]


def find_file(path: Path) -> Path:
    """The file itself or, where only that is there, the same name with .gz or .zst.

    Raises:
        DataError: if there is none of them, or both packed ones.
    """
    if path.is_file():
        return path
    packed = [other for ending in PACKED if (other := path.with_name(path.name + ending)).is_file()]
    if not packed:
        raise DataError(f"{path}: no such file; see the recipe's source for where to get it")
    if len(packed) > 1:
        raise DataError(f"{path}: both {packed[0].name} and {packed[1].name} are there; name one in the recipe")
    return packed[0]
