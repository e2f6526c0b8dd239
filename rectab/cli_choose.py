"""The commands that help to choose: ``rectab choose`` a table, ``tune`` the settings of its training, ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console

from rectab.cli_support import (
    CountIds,
    Device,
    History,
    Json,
    Model,
    Plugins,
    Without,
    device_named,
    left_by_sweep,
    print_json,
    say,
    settings_of,
    stoppable,
)

if TYPE_CHECKING:
    from rectab.training.tuning import Trial, Tuned

__all__ = ["choose", "report", "tune"]

Data = Annotated[Path, typer.Argument(help="Prepared data set.")]
Set = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--set", help="A training or model setting that stays as given, KEY=VALUE (train.lr=0.002)."),
]


@stoppable(left_by_sweep)
def choose(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the model, the report and every run.")],
    budget: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Most bytes served: 2GiB, or 10% of the full table."),
    ] = None,
    loss: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            help="The fewest bytes that lose at most so much validation AUC (0.001), within --budget if given."
        ),
    ] = None,
    train_memory: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Most bytes that training the table may take: rows, optimizer, best weights. 8GiB, 40%."),
    ] = None,
    minutes: Annotated[float, typer.Option(help="No training begins later than this.")] = 30.0,
    seeds: Annotated[int, typer.Option(help="Most seeds of a finalist.")] = 3,
    model: Model = "deepfm",
    history: History = None,
    dim: Annotated[int, typer.Option(help="embedding_dim of the full table.")] = 16,
    count_ids: CountIds = False,
    setting: Set = None,
    device: Device = "cpu",
    without: Without = None,
    plugin: Plugins = None,
    json_output: Json = False,
) -> None:
    """Choose a table for a budget, train it, and say what it costs against the full table and the runner-up."""
    from rectab.choosing import choose as run_choose
    from rectab.choosing.asked import Asked
    from rectab.data import PreparedDataset, without_features

    training, of_model = settings_of(setting)
    asked = Asked(
        budget,
        loss,
        train_memory,
        minutes,
        seeds,
        model,
        history,
        dim,
        training,
        of_model,
        count_ids,
        tuple(without or ()),
    )
    dataset = without_features(PreparedDataset.open(data), without or ())
    answer = run_choose(dataset, asked, out, device=device_named(device), say=say, data=str(data))
    if json_output:
        print_json(answer.to_json())
        return
    for remark in answer.remarks():
        typer.echo(f"note: {remark}")
    typer.echo(f"make it: {answer.command}")
    typer.echo(f"model: {out / 'model'}; report: {out / 'report.html'}")
    typer.echo(answer.line())


def _left_by_tune(arguments: object) -> str:
    return "finished trials are kept, and the same command goes on"


@stoppable(_left_by_tune)
def tune(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for trials.json.")],
    trials: Annotated[int, typer.Option(help="How many, those that are there already among them.")] = 30,
    minutes: Annotated[Optional[float], typer.Option(help="No trial begins later than this.")] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option(help="Of the search and of every training.")] = 0,
    table: Annotated[str, typer.Option(help="Method of the embedding table (rectab tables).")] = "full",
    budget: Annotated[Optional[str], typer.Option(help="4MiB, 10%; none: the method's own size.")] = None,  # noqa: UP045
    model: Model = "deepfm",
    history: History = None,
    dim: Annotated[int, typer.Option(help="embedding_dim.")] = 16,
    setting: Set = None,
    device: Device = "cpu",
    without: Without = None,
    plugin: Plugins = None,
    json_output: Json = False,
) -> None:
    """Search for settings by validation AUC; the test split is not read."""
    from rectab.data import PreparedDataset, without_features
    from rectab.training.tuning import tune as run_tune

    training, of_model = settings_of(setting)
    tuned = run_tune(
        without_features(PreparedDataset.open(data), without or ()),
        out,
        trials=trials,
        minutes=minutes,
        seed=seed,
        method=table,
        budget=budget,
        model=model,
        history=history,
        embedding_dim=dim,
        training=training,
        model_options=of_model,
        device=device_named(device),
        said=lambda trial, so_far: say(_line(trial, so_far)),
    )
    if json_output:
        print_json(tuned.to_json())
        return
    best = tuned.best
    if best is None:
        raise ValueError(f"{data}: no trial could be trained; the reasons are in {out / 'trials.json'}")
    Console().print(
        f"best of {len(tuned.trials)}: trial {best.number}, {best.score:.5f} on validation", highlight=False
    )
    typer.echo(tuned.command(str(data)))


def report(
    out: Annotated[list[Path], typer.Argument(help="Folder of a sweep; several for one page over all of them.")],
    timing: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Result of `make bench` (runs/bench.json): draw AUC against the time of a step too."),
    ] = None,
    overview: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="File of the page over all the sweeps: rank of each method by budget. Needed with several."),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Write the report of a sweep's results again; of several sweeps, one page that ranks methods by budget."""
    from rectab.sweep import write_report
    from rectab.sweep.overview import write_overview

    if len(out) > 1 and overview is None:
        raise ValueError("several sweeps are laid side by side in one page: say where with --overview FILE.html")
    if overview is not None:
        Console().print(f"overview: {write_overview(out, overview)}")
        return
    Console().print(f"report: {write_report(out[0], timing)}")


def _line(trial: Trial, tuned: Tuned) -> str:
    score = "diverged" if trial.score is None else f"{trial.score:.5f}"
    values = ", ".join(f"{name.partition('.')[2]} {_short(trial.settings[name])}" for name in trial.values)
    best = " *" if tuned.best is trial else ""
    return f"trial {trial.number}: {score}{best}  {trial.seconds:.0f} s  {values}"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
