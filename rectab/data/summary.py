"""What ``rectab prepare`` tells about a data set: plain data for ``schema.json``, and the same as terminal tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from rectab.data.dataset import PreparedDataset

__all__ = ["render_summary"]


def render_summary(dataset: PreparedDataset) -> RenderableType:
    """Rows and positive rates by split, cardinality and unseen rates by column, histories, and what was dropped."""
    summary = dataset.summary
    parts: list[RenderableType] = [Text(f"{dataset.name}: {summary['description']}".rstrip(": "), style="bold")]
    parts.append(_splits(summary))
    if negatives := dataset.description["recipe"].get("negatives"):
        parts.append(_negatives(negatives, redrawn="negatives" in dataset.description))
    parts.append(_columns(summary))
    if summary["histories"]:
        parts.append(_histories(summary))
    if summary["dropped"]["rows"]:
        parts.append(Text(f"dropped {summary['dropped']['rows']:,} bad rows, the first of them:", style="yellow"))
        parts += [Text(f"  {problem}", style="yellow") for problem in summary["dropped"]["first"]]
    return Group(*parts)


def _names(heading: str) -> Column:
    """A column of names, which go on in the next line where they are long, and are never cut."""
    return Column(heading, overflow="fold")


def _splits(summary: dict[str, Any]) -> Table:
    table = Table("split", title="rows", title_justify="left")
    known = all(split.get("best_auc") is not None for split in summary["splits"].values())  # synthetic rows only
    ratings = any(not 0.0 <= split["positive_rate"] <= 1.0 for split in summary["splits"].values())
    for heading in ("rows", "mean label" if ratings else "positive", *(["best possible AUC"] if known else [])):
        table.add_column(heading, justify="right")
    for name, split in summary["splits"].items():
        best = [f"{split['best_auc']:.4f}"] if known else []
        rate = f"{split['positive_rate']:.3f}" if ratings else f"{split['positive_rate']:.2%}"
        table.add_row(name, f"{split['rows']:,}", rate, *best)
    return table


def _negatives(recipe: dict[str, Any], redrawn: bool) -> Text:
    training = "training gets others in every epoch" if redrawn else "training has the same in every epoch"
    return Text(f"negatives: {recipe.get('ratio', 1)} a positive, {recipe.get('draw', 'uniform')}; {training}")


def _columns(summary: dict[str, Any]) -> Table:
    table = Table(_names("column"), _names("vocabulary"), title="columns", title_justify="left")
    for heading in ("ids", "unseen in valid", "unseen in test"):
        table.add_column(heading, justify="right")
    for column in summary["columns"]:
        table.add_row(
            column["name"],
            column["vocabulary"] + (" (hashed)" if column["hashed"] else ""),
            f"{column['cardinality']:,}",
            f"{column['unseen']['valid']:.2%}",
            f"{column['unseen']['test']:.2%}",
        )
    for name in summary["dense"]:
        table.add_row(name, "a number", "", "", "")
    return table


def _histories(summary: dict[str, Any]) -> Table:
    table = Table(_names("behaviour"), title="histories", title_justify="left")
    for heading in ("events", "mean length", "longest", "empty in train", "empty in test"):
        table.add_column(heading, justify="right")
    for history in summary["histories"]:
        table.add_row(
            history["behaviour"],
            f"{history['events']:,}",
            f"{history['mean_length']:.1f}",
            f"{history['longest']:,}",
            f"{history['empty']['train']:.2%}",
            f"{history['empty']['test']:.2%}",
        )
    return table
