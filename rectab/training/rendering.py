"""What ``rectab train`` prints of a run, ``rectab evaluate`` of raw rows, and ``rectab explain`` of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rectab.tables.budget import format_bytes
from rectab.training.explain import BehaviourAttention, Explanation
from rectab.training.result import RunResult
from rectab.training.selected import Neuron
from rectab.training.served import Evaluation

__all__ = ["render_evaluation", "render_explanation", "render_result"]

_BAR_WIDTH = 30
_NEURONS_SHOWN = 40


def render_result(result: RunResult) -> RenderableType:
    """Metrics on validation and test, AUC by id frequency, bytes, times."""
    title = f"{result.dataset}: {result.method}, {result.model['interaction']}, history {result.model['history']}"
    if weights := result.model["history_options"].get("weights"):
        title += f" ({weights} weights)"
    metrics = Table(title=title, title_justify="left", box=box.SIMPLE)
    metrics.add_column("")
    for name in result.valid:
        metrics.add_column(name.replace("_", " "), justify="right")
    encoded = result.encoded or {}
    before = (("validation, full table", encoded.get("full_valid")), ("validation, predicted", encoded.get("expected")))
    for split, values in (*before, ("validation", result.valid), ("test", result.test)):
        if values is not None:
            metrics.add_row(split, *(_number(values.get(name)) for name in result.valid))
    told = [Text(f"{sentence[0].upper()}{sentence[1:]}", style="yellow") for sentence in result.advice()]
    return Group(metrics, *_slices("Test", result.slice_by, result.slices), _costs(result), *told)


def render_evaluation(evaluation: Evaluation) -> RenderableType:
    """Metrics of the rows, and AUC by id frequency."""
    title = f"{evaluation.rows:,} rows, {evaluation.positive_rate:.4f} positive on average"
    metrics = Table(box=box.SIMPLE)
    for name in evaluation.metrics:
        metrics.add_column(name.replace("_", " "), justify="right")
    metrics.add_row(*map(_number, evaluation.metrics.values()))
    return Group(Text(title, style="italic"), metrics, *_slices("Rows", evaluation.slice_by, evaluation.slices))


def _slices(what: str, slice_by: str | None, slices: Mapping[str, Mapping[str, object]]) -> list[RenderableType]:
    if not slices:
        return []
    title = f"{what} by how often the id of {slice_by or 'a row'} occurs in training"
    table = Table(box=box.SIMPLE)
    columns = list(next(iter(slices.values())))
    table.add_column("slice")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for name, values in slices.items():
        table.add_row(name, *(_number(values.get(column)) for column in columns))
    return [Text(title, style="italic"), table]  # a title of the table itself would be wrapped to its width


def _costs(result: RunResult) -> Table:
    table = Table(title="Bytes and times", title_justify="left", show_header=False, box=box.SIMPLE)
    budget = "none" if result.budget_bytes is None else format_bytes(result.budget_bytes)
    within = result.bytes_within_budget
    share = "" if result.budget_bytes is None else f", {within / result.budget_bytes:.1%} of the budget"
    of_full = f"{result.serving_bytes / result.table['full_bytes']:.1%} of the full table"
    kernels = f"{result.precision}, gradient {result.gradient}, kernel {result.kernel}"
    rows = {
        "budget": budget,
        "table, serving": f"{format_bytes(result.serving_bytes)} ({of_full}{share})",
        "table, training": format_bytes(result.training_bytes),
        "id map": _map_text(result),
        "model beside the table": format_bytes(result.dense_bytes),
        "peak memory of the process": format_bytes(result.peak_memory_bytes),
        "training": f"{result.train_seconds:.1f} s, {result.samples_per_second:,.0f} rows/s",
        **_encoding(result),
        "evaluation": f"{result.evaluation_seconds + result.test_seconds:.1f} s",
        "how": f"{result.device}, {result.threads} thread{'s' if result.threads != 1 else ''}, {kernels}",
    }
    for name, text in rows.items():
        if text:
            table.add_row(name, text)
    return table


def _map_text(result: RunResult) -> str:
    if result.map_bytes is None:  # of before it was counted
        return ""
    counted = result.table.get("count_ids") and result.budget_bytes is not None
    return format_bytes(result.map_bytes) + (", within the budget" if counted else "")


def _encoding(result: RunResult) -> dict[str, str]:
    """Of a table that was encoded after training; nothing of any other."""
    if result.encoded is None:
        return {}
    seconds, width = sum(result.encoded["seconds"].values()), result.encoded["embedding_dim"]
    several = f", embedding_dim {width} chosen" if len(result.encoded["widths"]) > 1 else ""
    return {"encoding": f"{seconds:.1f} s; the training is the same for every budget{several}"}


def _number(value: object) -> str:
    if isinstance(value, float):
        return "-" if value != value else f"{value:.5f}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def render_explanation(explanation: Explanation) -> RenderableType:
    """The row, and for each behaviour its events with their weights as numbers and bars, the most recent last."""
    e = explanation
    row = Table(show_header=False, box=box.SIMPLE)
    for name, value in e.features.items():
        row.add_row(escape(name), escape(value))
    parts: list[RenderableType] = [
        # A table's own title would be wrapped to the width of the table.
        Text(
            f"{e.dataset}: row {e.row} of {e.split}, label {e.label:g}, predicted {e.probability:.4f}", style="italic"
        ),
        row,
    ]
    for behaviour in e.behaviours:
        against = ", ".join(f"{name} = {value}" for name, value in behaviour.targets.items())
        number = f"{len(behaviour.events)} event{'s' if len(behaviour.events) != 1 else ''}"
        heading = f"{behaviour.behaviour}: {number}, {e.weights} weights, sum {behaviour.total:+.4f}; target {against}"
        parts.append(Text(heading, style="italic"))
        if behaviour.events:
            parts.append(_attention(behaviour))
    if e.neurons:
        parts += _neurons(e.neurons)
    return Group(*parts)


def _neurons(neurons: Sequence[Neuron]) -> list[RenderableType]:
    """The fields that neurons select, those with the largest powers first."""
    shown = sorted(neurons, key=lambda neuron: -sum(abs(field.weight) for field in neuron.fields))[:_NEURONS_SHOWN]
    mean = sum(len(neuron.fields) for neuron in neurons) / len(neurons)
    heading = f"{len(neurons)} neurons; one selects {mean:.1f} fields on average. A field's gate, and its power:"
    table = Table(box=box.SIMPLE)
    table.add_column("neuron", justify="right")
    table.add_column("fields")
    for neuron in shown:
        fields = (f"{escape(field.field)} {field.gate:.2f} ({field.weight:+.2f})" for field in neuron.fields)
        table.add_row(str(neuron.neuron), ", ".join(fields))
    left = len(neurons) - len(shown)
    rest = [Text(f"{left} more with smaller powers; --json prints all", style="italic")] if left else []
    return [Text(heading, style="italic"), table, *rest]


def _attention(behaviour: BehaviourAttention) -> Table:
    table = Table(box=box.SIMPLE)
    table.add_column("back", justify="right")
    names = list(behaviour.events[0].values)
    for name in names:
        table.add_column(escape(name))
    table.add_column("weight", justify="right")
    table.add_column("")
    largest = max(abs(event.weight) for event in behaviour.events) or 1.0
    for index, event in enumerate(behaviour.events):
        bar = ("█" if event.weight >= 0 else "░") * round(_BAR_WIDTH * abs(event.weight) / largest)
        # What the event has in common with the target stands out.
        shown = [
            Text(event.values[name], style="bold" if event.values[name] == behaviour.targets.get(name) else "")
            for name in names
        ]
        table.add_row(str(len(behaviour.events) - index), *shown, f"{event.weight:+.4f}", bar)
    return table
