"""The report's charts of what attention looks at: the weights over a few validation rows' histories (DIN, Figure 5).

Drawn from ``result["attention"]`` of the run files, which the runs of the full table keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rectab.sweep import formatting as fmt
from rectab.sweep.analysis import Section
from rectab.sweep.report_values import Column, ReportTable, Value

__all__ = ["AttentionChart", "attention_charts", "attention_table"]

Attention = Mapping[str, Sequence[Mapping[str, Any]]]
"""What each run keeps (:meth:`rectab.training.explain.Explanation.to_json`), by the run's hash."""

_HEAVIEST = 5


@dataclass(frozen=True)
class AttentionChart:
    """The weights over one row's events of one behaviour.

    Attributes:
        key: of the element in the page, with the section's key before it.
        title, note: above and below it.
        figure: for plotly.js; colours are named as in :mod:`rectab.sweep.charts`.
    """

    key: str
    title: str
    note: str
    figure: dict[str, Any]


def attention_charts(section: Section, attention: Attention) -> list[AttentionChart]:
    """A chart for each row and behaviour that the section's example run kept; none without attention."""
    charts = []
    for place, explained in enumerate(_example(section, attention)):
        for number, behaviour in enumerate(explained["behaviours"]):
            if not behaviour["events"]:
                continue
            title = f"Row {explained['row']} of validation, {behaviour['behaviour']}"
            targets = ", ".join(f"{name} {value}" for name, value in behaviour["targets"].items())
            left_out = behaviour["left_out"]
            note = (
                f"Target: {targets}. Predicted {explained['probability']:.3f}. {explained['weights'].capitalize()} "
                f"weights, sum {fmt.number(behaviour['total'], 3)}"
                + (f"; {left_out} older events are not drawn." if left_out else ".")
            )
            charts.append(AttentionChart(f"attention-{place}-{number}", title, note, _figure(behaviour)))
    return charts


def attention_table(section: Section, attention: Attention) -> ReportTable:
    """The heaviest events of each row and behaviour, in numbers."""
    rows = []
    for explained in _example(section, attention):
        for behaviour in explained["behaviours"]:
            events = behaviour["events"]
            back = {index: len(events) - index for index in range(len(events))}
            order = sorted(back, key=lambda index: -abs(events[index]["weight"]))
            for index in order[:_HEAVIEST]:
                event = events[index]
                rows.append(
                    [
                        Value(str(explained["row"]), explained["row"]),
                        Value(behaviour["behaviour"]),
                        Value(_named(behaviour["targets"])),
                        Value(_named(event["values"])),
                        Value(str(back[index]), back[index]),
                        Value(fmt.number(event["weight"]), event["weight"]),
                    ]
                )
    titles = ("Validation row", "Behaviour", "Target", "Event", "Events back", "Weight")
    return ReportTable(
        "attention",
        "What attention looks at, in numbers",
        f"The {_HEAVIEST} events of largest weight in each history; the last event is 1 back. rectab explain prints "
        "all of them, for any row.",
        tuple(Column(title, title not in ("Behaviour", "Target", "Event")) for title in titles),
        rows,
        folded=True,
    )


def _example(section: Section, attention: Attention) -> Sequence[Mapping[str, Any]]:
    """What the lowest seed of the full table kept."""
    for cell in (section.full, *section.cells):
        for _, row in sorted(cell.rows.items()) if cell is not None else ():
            if attention.get(row["hash"]):
                return attention[row["hash"]]
    return ()


def _named(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _figure(behaviour: Mapping[str, Any]) -> dict[str, Any]:
    """Bars from the oldest event to the most recent; events that share a value with the target are coloured."""
    events, targets = behaviour["events"], behaviour["targets"]
    places = list(range(-len(events), 0))
    shared = [[name for name, value in targets.items() if event["values"].get(name) == value] for event in events]
    ticks = [place for place in places if place in (places[0], -1) or (place % 5 == 0 and place - places[0] > 2)]
    tips = [
        f"<b>{-place} back</b>: {fmt.number(event['weight'])}<br>"
        + "<br>".join(
            f"{escape(name)} {escape(str(value))}{' (as the target)' if name in same else ''}"
            for name, value in event["values"].items()
        )
        for place, event, same in zip(places, events, shared, strict=True)
    ]
    bars = {
        "type": "bar",
        "x": places,
        "y": [event["weight"] for event in events],
        "marker": {"color": ["var(--series-1)" if same else "var(--muted)" for same in shared]},
        "text": tips,
        "textposition": "none",
        "hovertemplate": "%{text}<extra></extra>",
    }
    layout = {
        "xaxis": {"tickvals": ticks, "ticktext": [fmt.number(tick, 0) for tick in ticks]},
        "yaxis": {"title": {"text": "weight"}, "zeroline": True},
        "compact": True,
    }
    return {"data": [bars], "layout": layout}
