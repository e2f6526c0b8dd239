"""What row formats there are: what a row takes, how it is trained, and which methods cannot be held so, and why."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from rectab.ops.formats import FloatFormat, RowFormat, formats, served_format
from rectab.tables.registry import methods

__all__ = ["formats_renderable", "formats_to_json"]

_WIDTH = 16


def formats_to_json() -> list[dict[str, Any]]:
    """One entry a format; ``refused_by`` gives the reason by method."""
    return [
        {
            "name": row_format.name,
            "row_bytes_at_16": served_format(row_format.name).row_bytes(_WIDTH),
            "trains": row_format.trains,
            "gradients": _gradients(row_format),
            "refused_by": _refusals(row_format),
        }
        for row_format in formats()
    ]


def _gradients(row_format: RowFormat) -> list[str]:
    if not row_format.trains:
        return []
    return ["row", "sparse", "dense"] if isinstance(row_format, FloatFormat) else ["row"]


def _refusals(row_format: RowFormat) -> dict[str, str]:
    reasons = {}
    for method in methods():
        try:
            method.check_rows(row_format.name)
        except ValueError as error:
            reasons[method.name] = str(error)
    return reasons


def formats_renderable() -> list[Table | str]:
    """For a terminal: one row a format, which methods take none, and which other pairs are refused and why."""
    without = {method.name: method.holds for method in methods() if method.without_rows}
    entries = formats_to_json()
    for entry in entries:
        entry["refused_by"] = {name: why for name, why in entry["refused_by"].items() if name not in without}
    table = Table(title="Row formats", title_justify="left", box=box.SIMPLE)
    for column in ("rows", f"bytes of a row, D = {_WIDTH}", "of fp32", "gradients", "refused by"):
        table.add_column(column)
    for entry in entries:
        size = entry["row_bytes_at_16"]
        table.add_row(
            entry["name"],
            f"{size:g}",
            f"{size / (4 * _WIDTH):.1%}",
            ", ".join(entry["gradients"]),
            ", ".join(entry["refused_by"]),
        )
    coded = "Rows of few bits have no gradient that torch's own optimizers could take: row gradients only."
    latent = "ptq*, lsq*: floats while they train; bytes are of the codes that they are served in."
    refused = [(reason, entry["name"]) for entry in entries for reason in entry["refused_by"].values()]
    names = {reason: ", ".join(name for r, name in refused if r == reason) for reason, _ in refused}
    pairs = [f"{reason} ({those})." for reason, those in names.items()]
    told = [f"{name} takes no row format, as it holds {holds}." for name, holds in without.items()]
    return [table, coded, latent, *told, f"Refused pairs of method and format: {len(refused)}.", *pairs]
