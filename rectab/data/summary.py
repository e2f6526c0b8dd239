"""What ``prepare`` and ``describe`` tell of a data set: plain data for ``schema.json``, and as terminal tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from rectab.id_bytes import map_bytes
from rectab.schema import Schema

if TYPE_CHECKING:
    from rectab.data.dataset import PreparedDataset

__all__ = ["describe_ids", "render_summary"]


def describe_ids(schema: Schema) -> dict[str, Any]:
    """How many ids there are, how rare they are, and what it takes to find them, as plain data.

    ``ids`` (rows of the full table, one a vocabulary for unseen values among them), ``vocabularies``, ``seen_once``
    (the share of the training values that occur once in training; None where counts are not known), ``map_bytes`` (of
    the map from raw values to ids) and ``mapped_values`` (values in it).
    """
    counts = [v.counts if v.hashed or v.counts is None else v.counts[1:] for v in schema.vocabularies]
    known = [c for c in counts if c is not None]
    values = sum(len(c) for c in known)
    return {
        "ids": sum(v.num_embeddings for v in schema.vocabularies),
        "vocabularies": len(schema.vocabularies),
        "seen_once": sum(int((c == 1).sum()) for c in known) / values if values and len(known) == len(counts) else None,
        "map_bytes": map_bytes(schema),
        "mapped_values": sum(v.num_embeddings - 1 for v in schema.mapped_vocabularies),
    }


def render_summary(dataset: PreparedDataset) -> RenderableType:
    """Rows and positive rates by split, cardinality and unseen rates by column, histories, and what was dropped."""
    summary = dataset.summary
    parts: list[RenderableType] = [Text(f"{dataset.name}: {summary['description']}".rstrip(": "), style="bold")]
    parts.append(_splits(summary))
    if negatives := dataset.description["recipe"].get("negatives"):
        parts.append(_negatives(negatives, redrawn="negatives" in dataset.description))
    parts.append(_columns(summary))
    parts.append(_ids(describe_ids(dataset.schema)))
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


def _ids(told: dict[str, Any]) -> Text:
    parts = [f"{told['ids']:,} ids in {told['vocabularies']} vocabularies"]
    if told["seen_once"] is not None:
        parts.append(f"{told['seen_once']:.1%} of the values seen once in training")
    if told["mapped_values"]:
        each = told["map_bytes"] / told["mapped_values"]
        parts.append(f"id map {told['map_bytes']:,} bytes, {each:.1f} a value")
    return Text("; ".join(parts))


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
