"""The commands ``rectab delta`` and ``rectab apply-delta``: what changed from one run to the next, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from rectab.cli_support import Json, print_json

__all__ = ["apply_delta", "delta"]


def delta(
    old: Annotated[Path, typer.Argument(help="Folder of the run that is deployed.")],
    new: Annotated[Path, typer.Argument(help="Folder of the run that follows it.")],
    out: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it on Python 3.10
        typer.Option(help="File to write, from which rectab apply-delta makes NEW of OLD."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Say what changed from one run to the next, and write it."""
    from rectab.tables.budget import format_bytes
    from rectab.training.deltas.delta import save_delta
    from rectab.training.deltas.told import what_changed

    parts = what_changed(old, new)
    made = None if out is None else save_delta(old, new, out)
    if json_output:
        print_json({"parts": [vars(part) for part in parts], "delta": None if made is None else made.to_json()})
        return
    table = Table(title=f"From {old} to {new}", title_justify="left", box=box.SIMPLE)
    table.add_column("part", no_wrap=True)
    for column in ("bytes", "changed", "share"):
        table.add_column(column, justify="right", no_wrap=True)
    for part in parts:
        share = f"{part.changed / part.bytes:.1%}" if part.bytes else ""
        table.add_row(part.name, f"{part.bytes:,}", f"{part.changed:,}" if part.alike else "all", share)
    Console().print(table)
    if made is not None:
        whole = sum(held.bytes for held in made.files)
        typer.echo(f"{out}: {format_bytes(made.bytes)}, {made.bytes / whole:.1%} of {new}")
        for name, ids in made.ids.items():
            typer.echo(f"  {name}: {ids['came']:,} ids got rows, {ids['gone']:,} lost theirs")


def apply_delta(
    delta: Annotated[Path, typer.Argument(help="File of rectab delta --out.")],
    old: Annotated[Path, typer.Argument(help="Folder of the run that it was made for; nothing in it is changed.")],
    out: Annotated[Path, typer.Option(help="Folder to make; it must be empty or not exist.")],
    then: Annotated[
        Optional[list[Path]],  # noqa: UP045 - typer reads it on Python 3.10
        typer.Option(help="Delta that follows; repeat it for several, in their order."),
    ] = None,
) -> None:
    """Make the following run of the one that is deployed; every byte is as it was."""
    from rectab.training.deltas.delta import apply_deltas

    deltas = [delta, *(then or [])]
    apply_deltas(deltas, old, out)
    typer.echo(f"{out}: made of {old} and {', '.join(map(str, deltas))}")
