"""The command ``rectab stream``: several tables over one stream, measured a period ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["stream"]


def stream(
    config: Annotated[Path, typer.Argument(help="Stream file (TOML), such as bench/streams/demo.toml.")],
    out: Annotated[Path, typer.Option(help="Folder of runs and report; what is finished there is kept.")],
    report_only: Annotated[bool, typer.Option("--report", help="Write the report of what is finished.")] = False,
) -> None:
    """Train on every period of a stream, and be measured on the next before learning from it."""
    from rectab.stream.config import load_stream
    from rectab.stream.report import write_stream_report
    from rectab.stream.runs import Runs, run_all

    runs = Runs(out, load_stream(config))
    out.mkdir(parents=True, exist_ok=True)
    failed = 0 if report_only else run_all(runs, typer.echo)
    typer.echo(f"report: {write_stream_report(runs)}")
    if failed:
        raise typer.Exit(1)
