"""What training decided about a table, in a form that a report can draw without knowing the method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Finding", "by_decile", "by_vocabulary", "curve", "grid"]

Kind = Literal["by decile", "by vocabulary", "grid", "curve"]


@dataclass(frozen=True)
class Finding:
    """One thing that was learned. Functions of the kinds' names make them.

    Attributes:
        kind: how it is drawn. ``by decile`` and ``by vocabulary`` are drawn for every size side by side, as means over
            seeds; so is a ``curve`` of one line, of the lowest seed. A ``grid`` and a ``curve`` of several lines are
            those of one run, since their lines need not mean the same in another.
        title: names it among the findings of a method.
        note: a sentence or two on how to read it.
        values: plain data, by kind.
    """

    kind: Kind
    title: str
    note: str
    values: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def by_decile(title: str, note: str, unit: str, shares: Sequence[float]) -> Finding:
    """A share (0..1) of ``unit`` in every tenth of the ids, the most frequent first."""
    return Finding("by decile", title, note, {"unit": unit, "values": list(shares)})


def by_vocabulary(title: str, note: str, unit: str, values: Mapping[str, float], share: bool = False) -> Finding:
    """A number of ``unit`` for every vocabulary; if it is a ``share`` (0..1), drawn in per cent."""
    names = {"names": list(values), "values": list(values.values())}
    return Finding("by vocabulary", title, note, {"unit": unit, "share": share, **names})


def grid(
    title: str,
    note: str,
    unit: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Any,
    largest: float = 1.0,
) -> Finding:
    """Numbers in 0..``largest``, ``values[row][column]``."""
    told = {"rows": list(rows), "columns": list(columns), "values": values, "largest": largest}
    return Finding("grid", title, note, {"unit": unit, **told})


def curve(
    title: str, note: str, axes: tuple[str, str], steps: Sequence[int], names: Sequence[str], values: Any
) -> Finding:
    """A line for every name over the steps, ``values[step][name]``; ``axes`` are the words at x and y."""
    lines = {"steps": list(steps), "names": list(names), "values": values}
    return Finding("curve", title, note, {"x": axes[0], "y": axes[1], **lines})
