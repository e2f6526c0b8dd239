"""Which raw cells are missing: one rule for csv, parquet and jsonl, put before everything else that reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import polars as pl

from rectab.data.cells import INTEGERS, MISSING
from rectab.data.ids import canonical_ids, identifier

__all__ = ["as_read", "present", "with_missing"]


def with_missing(frame: pl.LazyFrame, columns: Iterable[str], null_values: Sequence[str] = ()) -> pl.LazyFrame:
    """``frame`` with null in every missing cell of ``columns`` (see :func:`present`), and with those columns as they
    were under the names of :func:`as_read`."""
    schema = frame.collect_schema()
    changed = [name for name in columns if null_values or schema[name] not in INTEGERS]
    before = [pl.col(name).alias(as_read(name)) for name in changed]
    return frame.with_columns(*before, *(present(pl.col(name), schema[name], null_values) for name in changed))


def as_read(column: str) -> str:
    """Under which name a frame keeps a column in which missing cells became null, for messages."""
    return f"__read:{column}"


def present(value: pl.Expr, dtype: pl.DataType, null_values: Sequence[str] = ()) -> pl.Expr:
    """The cells of ``value``, null where they are missing.

    Missing are null, NaN, the texts of :data:`~rectab.data.cells.MISSING`, and ``null_values``: in a column that is
    not text, the cells that are the same id as one of them. Dictionaries and bytes become text on the way (bytes that
    are no UTF-8 in hexadecimal, ``0x...``). Of a list, the elements are treated so.

    Args:
        value: an expression of type ``dtype``.
        dtype: of the column in its file.
        null_values: texts that mean "no value" in this file.
    """
    if isinstance(dtype, (pl.List, pl.Array)):
        lists = value if isinstance(dtype, pl.List) else value.arr.to_list()
        inner = cast("pl.DataType", dtype.inner)
        if inner in INTEGERS and not null_values:
            return lists
        return lists.list.eval(present(pl.element(), inner, null_values))
    if dtype == pl.Binary:
        value, dtype = value.map_batches(_decoded, return_dtype=pl.String, is_elementwise=True), pl.String()
    elif dtype in (pl.Categorical, pl.Enum):
        value, dtype = value.cast(pl.String), pl.String()
    if dtype == pl.String:
        if null_values:
            value = value.str.strip_chars()
            null_values = [*null_values, *(f"{text}.0" for text in null_values)]  # as floats write -999
        return pl.when(~value.is_in([*MISSING, *null_values])).then(value)
    if dtype.is_float():
        value = value.fill_nan(None)
    if null_values and not dtype.is_nested() and dtype != pl.Duration:
        nulls = canonical_ids(pl.Series(null_values, dtype=pl.String)).to_list()
        value = pl.when(~identifier(value, dtype).cast(pl.String).is_in(nulls)).then(value)
    return value


def _decoded(cells: pl.Series) -> pl.Series:
    try:
        return cells.cast(pl.String)
    except pl.exceptions.PolarsError:  # somewhere bytes that are no UTF-8, such as the 16 of a UUID
        return pl.Series(cells.name, [None if cell is None else _text(cell) for cell in cells], pl.String)


def _text(cell: bytes) -> str:
    try:
        return cell.decode("utf-8")
    except UnicodeDecodeError:
        return f"0x{cell.hex()}"
