"""Times, compared as instants whatever their unit and format: nothing is lost to float64.

A time is a number (of any unit: seconds since 1970, days, positions), or a moment: a date, a datetime of any unit, or
ISO 8601 text. Moments count nanoseconds since 1970; those with a zone are taken to UTC. Numbers, moments and moments
with a zone are three kinds that are never compared with each other. A date is the first moment of its day, but what
happened on it is known only when the day is over (:meth:`Times.ends`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from rectab.data.cells import INTEGERS
from rectab.data.errors import DataError

if TYPE_CHECKING:
    from rectab.data.staged import StagedTable

__all__ = ["MOMENT", "TIME_NEEDED", "Times", "instant", "parse_time"]

TIME_NEEDED = (
    "a time is needed: a number, or a moment of the years 1678 to 2261, as text like 2024-01-05, 2024-01-05 06:00:00 "
    "or 2024-01-05T06:00:00.5+08:00"
)
_NUMBER, MOMENT, _ZONED, _DAY = range(4)
_KINDS = ("a number", "a date or time without a zone", "a time with a zone", "a date")
_REST_OF_DAY = 86_400_000_000_000 - 1
_STAGED = pl.Struct({"whole": pl.Int64, "fraction": pl.Float64, "kind": pl.UInt8})
_LIMIT = 2**62  # differences of two times stay within int64
_DECIMAL = r"^(?<sign>[+-]?)(?<integer>[0-9]+)\.(?<digits>[0-9]+)$"
_ISO = (
    r"^(?<day>\d{4}-\d\d-\d\d)(?:(?:T| +)(?<minute>\d\d:\d\d)(?::(?<second>\d\d)(?:[.,](?<digits>\d{1,9}))?)?"
    r" *(?<zone>Z|UTC|[+-]\d\d(?::?\d\d)?)?)?$"
)


def instant(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """The staged form of a time: a struct of ``whole`` (Int64), ``fraction`` (in [0, 1)) and ``kind``.

    ``whole`` is null where a cell is missing or no time.

    Raises:
        TypeError: cells of ``dtype`` are no times; the text goes behind the column's name.
    """
    if dtype in (pl.Duration, pl.Time, pl.Boolean) or dtype.is_nested():
        raise TypeError(f"holds {dtype}, where a time is needed: a number, a date, a datetime or ISO 8601 text")
    if dtype in INTEGERS:
        return _struct(value.cast(pl.Int64), _NUMBER)
    if dtype == pl.Date:
        return _struct(_nanoseconds(value), _DAY)
    if isinstance(dtype, pl.Datetime):
        return _struct(_nanoseconds(value), MOMENT if dtype.time_zone is None else _ZONED)
    if dtype.is_float():
        return _struct(value.floor().cast(pl.Int64, strict=False), _NUMBER, value - value.floor())
    # The text of a decimal says exactly what it is.
    return value.cast(pl.String).map_batches(_parsed, return_dtype=_STAGED, is_elementwise=True)


def parse_time(text: str) -> Times | None:
    """The time that ``text`` says, as a :class:`Times` of one; None if it is none."""
    parsed = _parsed(pl.Series([text])).struct.unnest()
    return None if parsed["whole"][0] is None else Times.of(parsed, repr(text))


@dataclass(frozen=True)
class Times:
    """n times of one kind.

    Attributes:
        kind: 0 numbers, 1 moments without a zone, 2 moments with one.
        whole: int64 [n], numbers rounded down, or nanoseconds.
        fraction: float64 [n] in [0, 1), what was rounded away; None if it is 0 for all.
        is_day: bool [n], which moments are dates; None if none is.
        source: file and column, for messages.
    """

    kind: int
    whole: np.ndarray
    fraction: np.ndarray | None
    is_day: np.ndarray | None
    source: str

    @classmethod
    def of(cls, staged: pl.DataFrame, source: str) -> Times:
        """From the unnested fields of :func:`instant`, which must be of one kind."""
        fraction, is_day = staged["fraction"].to_numpy(), (staged["kind"] == _DAY).to_numpy()
        kind = staged["kind"][0] if len(staged) else _NUMBER
        return cls(
            MOMENT if kind == _DAY else kind,
            staged["whole"].to_numpy(),
            fraction if fraction.any() else None,
            is_day if is_day.any() else None,
            source,
        )

    @classmethod
    def read(cls, table: StagedTable, name: str, column: str) -> Times:
        """The times staged as ``name``, of the raw column ``column``.

        Raises:
            DataError: they are of several kinds; names a row of two.
        """
        staged = table.column(name).struct.unnest()
        kinds = staged["kind"].unique().sort().to_list()
        if len(kinds) > 1 and kinds != [MOMENT, _DAY]:
            first, second = (int((staged["kind"] == kind).arg_max() or 0) for kind in (kinds[0], kinds[-1]))
            raise DataError(
                f"column {column!r} holds {_KINDS[kinds[0]]} in {table.place(first)}, but {_KINDS[kinds[-1]]} in "
                f"{table.place(second)}; these cannot be compared: write all of them alike"
            )
        return cls.of(staged, f"{', '.join(str(raw.path) for raw in table.raw)}, column {column!r}")

    def __len__(self) -> int:
        return len(self.whole)

    def keys(self, *others: Times) -> list[np.ndarray]:
        """int64 arrays of these times and of ``others``, in the same order and equal where the times are.

        Raises:
            DataError: another's kind is not this one's.
        """
        everyone = [times for times in (self, *others) if len(times)]
        for times in everyone[1:]:
            everyone[0].must_compare_with(times)
        if all(times.fraction is None for times in everyone):
            return [times.whole for times in (self, *others)]
        fractions = [np.zeros(len(t)) if t.fraction is None else t.fraction for t in (self, *others)]
        whole, fraction = np.concatenate([t.whole for t in (self, *others)]), np.concatenate(fractions)
        order = np.lexsort((fraction, whole))
        new = (np.diff(whole[order]) != 0) | (np.diff(fraction[order]) != 0)
        ranks = np.empty(len(whole), np.int64)
        ranks[order] = np.concatenate([[0], np.cumsum(new)])
        return np.split(ranks, np.cumsum([len(fraction) for fraction in fractions])[:-1])

    def must_compare_with(self, other: Times) -> None:
        """Raises DataError if the two are not of one kind."""
        if self.kind != other.kind:
            raise DataError(
                f"{self.source} is {_KINDS[self.kind]}, but {other.source} is {_KINDS[other.kind]}; these cannot be "
                "compared: write both alike"
            )

    def in_zone_of(self, other: Times) -> Times:
        """These moments, taken to be UTC if they have no zone but ``other`` has one."""
        return replace(self, kind=_ZONED) if (self.kind, other.kind) == (MOMENT, _ZONED) else self

    def take(self, chosen: np.ndarray | None) -> Times:
        """Some of the times, by position; all if None."""
        if chosen is None:
            return self
        fraction = None if self.fraction is None else self.fraction[chosen]
        is_day = None if self.is_day is None else self.is_day[chosen]
        return replace(self, whole=self.whole[chosen], fraction=fraction, is_day=is_day)

    def ends(self) -> Times:
        """When each of these has passed for certain: a date with the last nanosecond of its day."""
        return self if self.is_day is None else replace(self, whole=self.whole + self.is_day * _REST_OF_DAY)

    def measured(self, other: Times) -> tuple[np.ndarray, np.ndarray]:
        """These times and ``other``'s, to take differences of: moments in seconds (float64), numbers in their own unit
        (int64, or float64 where a number is not whole)."""
        if self.kind != _NUMBER:
            return self.whole / 1e9, other.whole / 1e9
        if self.fraction is None and other.fraction is None:
            return self.whole, other.whole
        own, others = (t.whole + (0.0 if t.fraction is None else t.fraction) for t in (self, other))
        return own, others


def _struct(whole: pl.Expr, kind: int | pl.Expr, fraction: pl.Expr | float = 0.0) -> pl.Expr:
    held = pl.when(whole.is_between(-_LIMIT, _LIMIT)).then(whole)
    kind, fraction = (pl.lit(x) if isinstance(x, (int, float)) else x for x in (kind, fraction))
    return pl.struct(held.alias("whole"), fraction.alias("fraction"), kind.cast(pl.UInt8).alias("kind"))


def _nanoseconds(moments: pl.Expr) -> pl.Expr:
    """Int64 since 1970 of dates or datetimes, null where nanoseconds do not reach."""
    held = pl.when(moments.dt.year().is_between(1678, 2261)).then(moments)
    return held.dt.timestamp("ns")


def _parsed(texts: pl.Series) -> pl.Series:
    """What texts say, as :func:`instant` stages it."""
    text = pl.col("text")
    frame = texts.alias("text").to_frame()
    staged = frame.select(_struct(text.cast(pl.Int64, strict=False), _NUMBER)).to_series()
    if staged.struct.field("whole").null_count() > texts.null_count():
        frame = frame.select(text.str.strip_chars())
        for reading in (_integer, _decimal, _float, _moment):
            unread = staged.struct.field("whole").is_null()
            staged = frame.select(reading(text)).to_series().zip_with(unread, staged)
    return staged.alias(texts.name)


def _integer(text: pl.Expr) -> pl.Expr:
    return _struct(text.cast(pl.Int64, strict=False), _NUMBER)


def _decimal(text: pl.Expr) -> pl.Expr:
    part = text.str.extract_groups(_DECIMAL).struct
    size = part.field("integer").cast(pl.Int64, strict=False)
    rest = pl.concat_str(pl.lit("0."), part.field("digits")).cast(pl.Float64)
    below = (part.field("sign") == "-") & (rest > 0)
    whole = pl.when(part.field("sign") == "-").then(-size - below.cast(pl.Int64)).otherwise(size)
    return _struct(whole, _NUMBER, pl.when(below).then(1 - rest).otherwise(rest))


def _float(text: pl.Expr) -> pl.Expr:
    value = text.cast(pl.Float64, strict=False)
    return _struct(value.floor().cast(pl.Int64, strict=False), _NUMBER, value - value.floor())


def _moment(text: pl.Expr) -> pl.Expr:
    part = text.str.extract_groups(_ISO).struct
    clock = pl.concat_str(part.field("minute").fill_null("00:00"), pl.lit(":"), part.field("second").fill_null("00"))
    moment = pl.concat_str(part.field("day"), pl.lit(" "), clock).str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False)
    ticks = _nanoseconds(moment) + part.field("digits").fill_null("0").str.pad_end(9, "0").cast(pl.Int64)
    zone = part.field("zone").replace({"Z": "+00:00", "UTC": "+00:00"}).str.replace(":", "")
    minutes = zone.str.slice(1, 2).cast(pl.Int64) * 60 + zone.str.slice(3).replace("", "0").cast(pl.Int64)
    offset = pl.when(zone.str.starts_with("-")).then(-minutes).otherwise(minutes).fill_null(0)
    kind = pl.when(part.field("minute").is_null()).then(_DAY).when(zone.is_null()).then(MOMENT).otherwise(_ZONED)
    return _struct(ticks - offset * 60_000_000_000, kind)
