"""The command ``rectab tables``: the methods there are, or the formats that rows can be held in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from rectab.cli_support import Json, Plugins, Without, print_json

__all__ = ["tables"]


def tables(
    data: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it on Python 3.10
        typer.Argument(help="Prepared data set: say how small each method can be on it."),
    ] = None,
    formats: Annotated[bool, typer.Option("--formats", help="List row formats (--rows) instead of methods.")] = False,
    dim: Annotated[int, typer.Option(help="embedding_dim, with DATA.")] = 16,
    rows: Annotated[str, typer.Option(help="How rows are held, with DATA.")] = "fp32",
    without: Without = None,
    plugin: Plugins = None,
    json_output: Json = False,
) -> None:
    """The methods there are and what they can do; or the formats that rows can be held in."""
    from rectab.data import PreparedDataset, without_features
    from rectab.tables import TableOptions
    from rectab.tables.format_list import formats_renderable, formats_to_json
    from rectab.tables.method_list import floors, methods_renderable, methods_to_json

    if formats and json_output:
        print_json(formats_to_json())
    elif formats:
        Console().print(*formats_renderable(), sep="\n")
    else:
        found = None
        if data is not None:
            dataset = without_features(PreparedDataset.open(data), without or ())
            found = floors(dataset.schema.vocabularies, dim, TableOptions(rows=rows))
        if json_output:
            print_json(methods_to_json(found))
        else:
            Console().print(methods_renderable(found))
