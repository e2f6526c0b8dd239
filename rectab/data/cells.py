"""Words and types that raw cells are read by, and the number that a cell is; the same for every format.

Which cells are missing stands in :mod:`rectab.data.missing`, what an id is in :mod:`rectab.data.ids`, what a time is in
:mod:`rectab.data.times`.
"""

from __future__ import annotations

import polars as pl

__all__ = ["INTEGERS", "MISSING", "TRUTH", "is_number", "number", "parsed_numbers"]

INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)  # those that Int64 holds
MISSING = ("", "nan", "NaN")  # texts that are no value in any file
TRUTH = {"true": "1", "True": "1", "TRUE": "1", "false": "0", "False": "0", "FALSE": "0"}


def is_number(dtype: pl.DataType) -> bool:
    """Do columns of ``dtype`` hold numbers? Truth values are 1 and 0; a column without any value may hold anything."""
    return dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)


def number(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Float64: the number that a cell is; null where it is missing, NaN where it is no number.

    Texts may have blanks around them; ``true`` and ``false`` are 1 and 0, as texts and as booleans.

    Raises:
        TypeError: cells of ``dtype`` are no numbers (times, lists); the text goes behind the column's name.
    """
    if dtype == pl.String:
        return value.map_batches(parsed_numbers, return_dtype=pl.Float64, is_elementwise=True)
    if dtype.is_temporal():
        raise TypeError("holds times where a number is needed; make one with [[derived]] (EXTRACT(HOUR FROM ...))")
    if dtype.is_nested():
        raise TypeError("holds lists where a number is needed")
    return value.cast(pl.Float64).fill_nan(None)


def parsed_numbers(texts: pl.Series) -> pl.Series:
    """Float64 [n] of texts [n], as :func:`number`."""
    numbers = texts.cast(pl.Float64, strict=False)
    if numbers.null_count() == texts.null_count() and not numbers.is_nan().any():
        return numbers
    plain = texts.str.strip_chars()
    missing = plain.is_null() | plain.str.to_lowercase().str.strip_chars_start("+-").is_in(MISSING)
    others = plain.replace(TRUTH).cast(pl.Float64, strict=False).fill_null(float("nan")).set(missing, None)
    return numbers.fill_nan(None).fill_null(others)
