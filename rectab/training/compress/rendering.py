"""What ``rectab compress`` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rectab.tables.budget import format_bytes
from rectab.training.compress.curve import Curve, Point
from rectab.training.compress.held import HeldRows

__all__ = ["render_curve", "render_held"]


def render_held(made: Sequence[HeldRows]) -> list[RenderableType]:
    """Every format of the rows of a run: bytes, and AUC on validation before and after."""
    table = _table("AUC on validation", ("rows", "table", "of full", "AUC", "lost"))
    for one in made:
        lost = one.before["auc"] - one.valid["auc"]
        table.add_row(
            one.rows, format_bytes(one.serving_bytes), f"{one.share:.2%}", f"{one.valid['auc']:.4f}", f"{lost:.4f}"
        )
    return [table, *(Text(f"{one.rows}: test AUC {one.test['auc']:.4f}") for one in made if one.test is not None)]


def render_curve(curve: Curve) -> list[RenderableType]:
    """Every budget: bytes, and metrics on validation before, predicted and after; then what took how long."""
    first = curve.sources[0]
    title = f"{curve.dataset}: full table {format_bytes(curve.full_bytes)}, embedding_dim {first.embedding_dim}"
    losses = _table(
        f"{title}; AUC on validation", ("budget", "table", "of full", "id map", "dim", "AUC", "lost", "predicted")
    )
    full = (
        format_bytes(first.serving_bytes),
        "100%",
        format_bytes(first.map_bytes),
        str(first.embedding_dim),
        f"{first.valid['auc']:.4f}",
        "",
        "",
    )
    losses.add_row("full", *full)
    others = _table(
        "Logloss and calibration (predicted over actual clicks) on validation",
        ("budget", "logloss", "predicted", "calibration", "predicted"),
    )
    others.add_row("full", f"{first.valid['logloss']:.4f}", "", f"{first.valid['calibration']:.4f}", "")
    for point in curve.points:
        losses.add_row(*_loss_row(point))
        valid, expected = point.valid, point.expected
        pairs = [(valid[name], expected[name]) for name in ("logloss", "calibration")]
        others.add_row(point.budget, *(f"{number:.4f}" for pair in pairs for number in pair))
    return [losses, *(Text(note) for note in _notes(curve)), others, _times(curve), *_tests(curve)]


def _notes(curve: Curve) -> list[str]:
    first = curve.sources[0]
    notes = ["lost, predicted: AUC of the full model less this one's, as measured and as foretold"]
    if curve.count_ids:
        notes.append("budgets are for table and id map together")
    if len(curve.sources) > 1:
        notes.append(f"budgets are shares of the full table at embedding_dim {first.embedding_dim}, the first run's")
    for point in curve.points:
        if point.finetune is not None:
            before, after, kept = (point.finetune[key] for key in ("before", "after", "kept"))
            what = "kept" if kept else "not kept"
            notes.append(f"{point.budget}: fine-tuned {before['auc']:.4f} -> {after['auc']:.4f}, {what}")
    for source in curve.sources:
        if source.further is not None:
            notes.append(
                f"{source.run}: full, trained as far, {source.valid['auc']:.4f} -> {source.further['auc']:.4f}"
            )
    if curve.loss is not None:
        measured = ", ".join(f"{format_bytes(size)} {auc:.4f}" for size, auc in sorted(curve.measured.items()))
        notes.append(f"measured for a loss of {curve.loss:g}, in {curve.loss_seconds:.1f} s: {measured}")
    return notes


def _loss_row(point: Point) -> tuple[str, ...]:
    auc = (f"{point.valid['auc']:.4f}", f"{point.lost:+.4f}", f"{point.expected_lost:+.4f}")
    sizes = (format_bytes(point.serving_bytes), f"{point.share:.2%}", format_bytes(point.map_bytes))
    return (point.budget, *sizes, str(point.embedding_dim), *auc)


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for position, column in enumerate(columns):
        table.add_column(column, justify="right" if position else "left", no_wrap=True)
    return table


def _times(curve: Curve) -> Table:
    parts = ("sensitivity", "options", "prediction", "allocation", "encoding", "validation")
    table = _table("Seconds", ("", "training", *parts))

    def row(seconds: Mapping[str, float]) -> list[str]:
        return [f"{seconds[part]:.1f}" if part in seconds else "" for part in parts]

    for source in curve.sources:
        told = source.seconds | {"validation": source.seconds.get("full validation", 0.0)}
        table.add_row(f"dim {source.embedding_dim}", f"{source.train_seconds:.1f}", *row(told))
    for point in curve.points:
        total: Counter[str] = Counter()
        for attempt in point.attempts:
            total.update(attempt.seconds)
        table.add_row(point.budget, "", *row(total))
    return table


def _tests(curve: Curve) -> list[RenderableType]:
    first = curve.sources[0]
    if first.test is None:
        return []
    table = _table("Test", ("budget", "AUC", "lost", "logloss", "calibration"))
    for name, test in [("full", first.test), *((p.budget, p.test or {}) for p in curve.points)]:
        lost = "" if name == "full" else f"{first.test['auc'] - test['auc']:+.4f}"
        table.add_row(name, f"{test['auc']:.4f}", lost, f"{test['logloss']:.4f}", f"{test['calibration']:.4f}")
    return [table]
