"""When two raw cells are the same id: 7 is the same as an integer, a float, a decimal and a text, in every file.

Staged ids are Int64 where a file has integers and text elsewhere. The texts of numbers are put in canonical form row by
row, those of text columns only once their distinct values are known: it costs more than reading them.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from rectab.data.cells import INTEGERS, MISSING, TRUTH

__all__ = ["canonical_ids", "id_problem", "identifier", "plain_digits", "whole_numbers"]

_ZERO_FRACTION = r"^(-?(?:0|[1-9][0-9]*))\.0+$"
# From here on, a float is the nearest one to several integers.
_EXACT: dict[Any, int] = {pl.Float32: 2**24, pl.Float64: 2**53}
if hasattr(pl, "Float16"):  # newer versions of polars
    _EXACT[pl.Float16] = 2**11


def canonical_ids(cells: pl.Series) -> pl.Series:
    """The ids of ``cells`` [n]: Int64 for (small) integers, else text. Equal ids are equal, whatever their dtype:

    * whole numbers are their digits (``7``, ``7.0``, a decimal ``7.00``, the text ``7.0``; -0 is 0), true is 1 and
      false is 0, also as texts (``true``, ``True``, ``TRUE``);
    * other numbers are the shortest text that tells them apart, decimals without zeros at the end;
    * dates are ``2024-01-05``, times of day ``06:00:00.5``, moments ``2024-01-05 06:00:00`` (a date at midnight), with
      a zone those of UTC and ``+00:00``;
    * texts lose the blanks around them; a blank text, ``nan`` and ``NaN`` are missing. ``007`` and ``1.50`` stay.
    """
    dtype = cells.dtype
    if dtype in INTEGERS:
        return cells.cast(pl.Int64)
    if dtype == pl.String:
        return _canonical_texts(cells)
    if dtype == pl.Boolean:
        return cells.cast(pl.Int8).cast(pl.String)
    if dtype.is_float():
        cells = cells.fill_nan(None)
        cells = cells.set(cells.abs() >= _EXACT[dtype.base_type()], None)  # these are refused: see id_problem
        digits = cells.cast(pl.Int64, strict=False).cast(pl.String)
        return digits.zip_with(cells == cells.floor(), cells.cast(pl.String))
    if isinstance(dtype, pl.Decimal):
        texts = cells.cast(pl.String)
        return texts if dtype.scale == 0 else texts.str.strip_chars_end("0").str.strip_chars_end(".")
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is None:
            return cells.dt.to_string("%Y-%m-%d %H:%M:%S%.f").str.strip_suffix(" 00:00:00")
        return cells.dt.convert_time_zone("UTC").dt.to_string("%Y-%m-%d %H:%M:%S%.f+00:00")
    if dtype == pl.Time:
        return cells.dt.to_string("%H:%M:%S%.f")
    return cells.cast(pl.String)


def _canonical_texts(texts: pl.Series) -> pl.Series:
    texts = texts.str.strip_chars()
    texts = texts.set(texts.is_in(MISSING), None)
    odd = texts.str.contains(r"\.0+$")
    if odd.any():
        texts = texts.str.replace(_ZERO_FRACTION, "$1").zip_with(odd.fill_null(False), texts)
    return texts.replace({**TRUTH, "-0": "0"})


def identifier(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """The ids of ``value`` as :func:`canonical_ids` gives them, text included.

    Raises:
        TypeError: values of ``dtype`` are no ids (lists, durations); what to say of it.
    """
    if dtype.is_nested():
        raise TypeError("holds lists; use it in a history with source = 'list'")
    if dtype == pl.Duration:
        raise TypeError("holds durations, which are no ids; make numbers of them with [[derived]]")
    if dtype in INTEGERS:
        return value.cast(pl.Int64)
    return value.map_batches(canonical_ids, return_dtype=pl.String, is_elementwise=True)


def id_problem(value: pl.Expr, dtype: pl.DataType) -> tuple[pl.Expr, str] | None:
    """(true where a cell is no id, what to say of it), or None where every cell is one."""
    if dtype not in _EXACT:
        return None
    limit = _EXACT[dtype.base_type()]
    size = f"2^{limit.bit_length() - 1}"
    problem = f"a float of {size} and more may stand for several ids; write the column as integers or text"
    return (value.abs() >= limit).fill_null(False), problem


def plain_digits(ids: pl.Expr) -> pl.Expr:
    """Ids as text, whole numbers among them without a plus sign or zeros in front: 007 is 7 where numbers are meant."""
    return ids.str.replace(r"^\+?(-?)0*([0-9]+)(\.0+)?$", "$1$2").replace("-0", "0")


def whole_numbers(ids: pl.Series) -> pl.Series:
    """``ids`` as Int64 (or lists of them) if all are the digits of whole numbers that it holds, else as they are."""
    as_lists = isinstance(ids.dtype, pl.List)
    numbers = ids.cast(pl.List(pl.Int64) if as_lists else pl.Int64, strict=False)
    before, after = (ids.explode(), numbers.explode()) if as_lists else (ids, numbers)
    same = after.cast(pl.String).eq_missing(before.cast(pl.String))  # 007 is not 7
    return numbers if same.all() else ids
