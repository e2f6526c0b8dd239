"""SQL expressions of a recipe, as polars reads them, but that comparisons mean the same for every file.

Polars takes NaN for the largest number, so that ``0 / 0 >= 4`` would hold. Columns have no NaN once they are read
(:mod:`rectab.data.missing`); what is worked out within an expression may be one. And it compares no text with numbers,
though columns of text files are text.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import polars as pl

from rectab.data.cells import parsed_numbers
from rectab.data.errors import RecipeError

__all__ = ["alike_in_every_file", "expression", "first_line"]

_COMPARISONS: tuple[Callable[[pl.Expr, pl.Expr], pl.Expr], ...] = (
    operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne
)  # fmt: skip


def _case(then: pl.Expr, otherwise: pl.Expr, when: pl.Expr) -> pl.Expr:
    return pl.when(when).then(then).otherwise(otherwise)


_COMBINATIONS: dict[int, tuple[Callable[..., pl.Expr], ...]] = {2: (operator.and_, operator.or_), 3: (_case,)}


def expression(text: str, what: str) -> pl.Expr:
    """An SQL expression.

    Raises:
        RecipeError: polars does not understand it; ``what`` says where it stands.
    """
    try:
        return pl.sql_expr(text)
    except pl.exceptions.PolarsError as error:
        raise RecipeError(f"{what}: {text!r} is not an SQL expression polars understands: {error}") from None


def first_line(error: Exception) -> str:
    """What polars says, without the plan that it prints below."""
    return str(error).strip().split("\n")[0]


def alike_in_every_file(sql: pl.Expr, frame: pl.LazyFrame) -> pl.Expr:
    """``sql`` with every comparison the same for all files: text is taken as a number where a number stands beside it,
    and to compare with NaN gives null, which NOT, AND, OR and CASE treat as SQL does."""
    inputs = sql.meta.pop()[::-1]
    if len(inputs) == 1:
        inner = alike_in_every_file(inputs[0], frame)
        if sql.meta.eq(~inputs[0]):
            return ~inner
        return inner.cast(pl.Boolean) if sql.meta.eq(inputs[0].cast(pl.Boolean)) else sql
    if len(inputs) == 2:
        for compare in _COMPARISONS:
            if sql.meta.eq(compare(*inputs)):
                return compare(*_comparable([alike_in_every_file(i, frame) for i in inputs], frame))
    for combine in _COMBINATIONS.get(len(inputs), ()):
        if sql.meta.eq(combine(*inputs)):
            return combine(*(alike_in_every_file(part, frame) for part in inputs))
    return sql


def _comparable(operands: list[pl.Expr], frame: pl.LazyFrame) -> list[pl.Expr]:
    dtypes = [frame.select(operand.alias("operand")).collect_schema()["operand"] for operand in operands]
    if any(dtype.is_numeric() for dtype in dtypes):
        operands = [
            operand.map_batches(_numbers, return_dtype=pl.Float64, is_elementwise=True)
            if dtype == pl.String
            else operand
            for operand, dtype in zip(operands, dtypes, strict=True)
        ]
    are_floats = [dtype.is_float() for dtype in dtypes]
    return [o.fill_nan(None) if is_float else o for o, is_float in zip(operands, are_floats, strict=True)]


def _numbers(texts: pl.Series) -> pl.Series:
    numbers = parsed_numbers(texts)
    wrong = texts.filter(numbers.is_nan())
    if len(wrong):
        raise pl.exceptions.ComputeError(f"{wrong[0]!r} is compared with a number, but is none")
    return numbers
