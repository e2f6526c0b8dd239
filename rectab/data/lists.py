"""Lists that are written as text: ``1|2|3``, ``1, 2``, and lists in brackets as JSON, Python or numpy print them."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from functools import partial

import polars as pl

from rectab.data.jsonl import cell_text
from rectab.data.missing import present

__all__ = ["LIST_NEEDED", "lists_of", "split_lists"]

LIST_NEEDED = "a list is needed: '[1, 2]', or say what is between its elements, separator = '...' in [[histories]]"
_LISTS = pl.List(pl.String)


def lists_of(column: str, dtype: pl.DataType, separator: str | None, null_values: Sequence[str]) -> pl.Expr:
    """The lists of a column, written as text or not; null where there is none, or the text is no list.

    Args:
        column: its name.
        dtype: of the column as read.
        separator: as for :func:`split_lists`.
        null_values: texts that mean "no value", of elements as well.
    """
    value = pl.col(column)
    if isinstance(dtype, pl.List):
        return value
    if dtype == pl.Null:
        return value.cast(_LISTS)
    split = partial(split_lists, separator=separator)
    lists = value.cast(pl.String).map_batches(split, return_dtype=_LISTS, is_elementwise=True)
    return lists.list.eval(present(pl.element(), pl.String(), null_values))


def split_lists(texts: pl.Series, separator: str | None) -> pl.Series:
    """List(String) [n]: the elements of each text [n] (String), null where it is null or no list.

    A text in brackets is a list whatever the separator. In another one, blanks around separators do not count, and a
    separator at the end adds no element; one between two others does, an empty one.

    Args:
        texts: cells.
        separator: of lists without brackets; None: there are none.
    """
    texts = texts.str.strip_chars()
    in_brackets = texts.str.starts_with("[") & texts.str.ends_with("]")
    cells = pl.DataFrame({"text": texts, "in_brackets": in_brackets.fill_null(False)})
    cells = cells.with_columns(plain=_split(texts, separator))
    if not in_brackets.any():
        return cells["plain"].alias(texts.name)
    bracketed = _in_brackets(texts.set(~in_brackets, None), separator)
    chosen = pl.when("in_brackets").then("bracketed").otherwise("plain")
    return cells.with_columns(bracketed=bracketed).select(chosen.alias(texts.name)).to_series()


def _split(texts: pl.Series, separator: str | None) -> pl.Series:
    if separator is None:
        return pl.Series([None], dtype=_LISTS).new_from_index(0, len(texts))
    if not separator.strip():  # any number of blanks
        return texts.str.replace_all(r"\s+", " ").str.split(" ") if separator == " " else texts.str.split(separator)
    separator = separator.strip()
    is_cut = texts.str.starts_with("[") & (texts.str.count_matches(r"\[") > texts.str.count_matches(r"\]"))
    return texts.set(is_cut, None).str.strip_suffix(separator).str.split(separator)


def _in_brackets(texts: pl.Series, separator: str | None) -> pl.Series:
    if not texts.str.contains("\\", literal=True).any():  # polars takes half of a surrogate pair for NUL
        try:
            return texts.str.json_decode(_LISTS)
        except pl.exceptions.PolarsError:
            pass
    lists = [None if text is None else _elements(text, separator) for text in texts]
    return pl.Series(texts.name, lists, dtype=_LISTS)


def _elements(text: str, separator: str | None) -> list[str | None] | None:
    for parse in (json.loads, ast.literal_eval):
        try:
            content = parse(text)
            return None if any(isinstance(e, (list, tuple, dict)) for e in content) else [cell_text(e) for e in content]
        except UnicodeEncodeError:  # half of a surrogate pair
            return None
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    within = text[1:-1]
    if set(within) & set("[]"):  # [a]|[b] is a list only by its separator
        return list(text.split(separator)) if separator and separator in text else None
    for mark in (separator, ","):
        if mark and mark in within:
            return [element.strip().strip("'\"") for element in within.rstrip().removesuffix(mark).split(mark)]
    return list(within.split()) if all(map(_is_number, within.split())) else [within.strip()]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
