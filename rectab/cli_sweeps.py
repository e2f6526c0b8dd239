"""The command of sweeps: ``rectab sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from rectab.cli_support import Device, Plugins, Trained, device_named, failures_end, left_by_sweep, stoppable

__all__ = ["sweep"]


@stoppable(left_by_sweep)
def sweep(
    config: Annotated[Path, typer.Argument(help="Sweep configuration (bench/sweeps/NAME.toml).")],
    out: Annotated[Path, typer.Option(help="Folder for runs, results.parquet and the report.")],
    jobs: Annotated[Optional[int], typer.Option(help="Runs side by side, each in a process of its own.")] = None,  # noqa: UP045
    retry_failed: Annotated[bool, typer.Option(help="Run failed runs again.")] = False,
    device: Device = "cpu",
    devices: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Several, in place of --device: cuda:0,cuda:1. A process for each, or --jobs in all."),
    ] = None,
    trained: Trained = None,
    plugin: Plugins = None,
) -> None:
    """Train every method at every budget and write the report; the same command goes on where a killed one stopped."""
    from rectab.sweep import run_sweep, write_report

    if devices is not None and device != "cpu":
        raise ValueError("give --device or --devices, not both")
    made = run_sweep(
        config,
        out,
        jobs=jobs,
        retry_failed=retry_failed,
        trained=trained,
        device=device_named(device),
        devices=[] if devices is None else [device_named(name) for name in devices.split(",")],
    )
    Console().print(f"report: {write_report(out)}")
    failures_end(made.failed())
