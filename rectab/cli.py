"""The command line: ``rectab prepare | describe | plan | train | compress | explain | predict | evaluate | sweep`` ...

Thin: every command parses, calls one function of the library and prints. Errors that a user can mend are one line on
standard error and exit code 1; a traceback means a bug (or ``RECTAB_TRACEBACK=1``).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer
from rich.console import Console

from rectab import __version__, cli_choose, cli_deltas, cli_runs, cli_streams, cli_sweeps, cli_tables
from rectab.cli_support import (
    CountIds,
    Device,
    History,
    Json,
    Model,
    Plugins,
    Trained,
    Without,
    check_alone,
    device_named,
    key_values,
    leave_at_once,
    left_by_prepare,
    left_by_train,
    print_json,
    say,
    settings_of,
    stoppable,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Rows = Annotated[str, typer.Option(help="How rows are held: fp32, bf16, int8, int4, ... (rectab tables --formats).")]
TrainMemory = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Most bytes that training the table may take: rows, optimizer, best weights. 4GiB, 40%."),
]
RowsIn = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        help="Folder for rows and optimizer state in memory-mapped files while it trains: a table larger than memory."
    ),
]
Options = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads it on Python 3.10
    typer.Option("--option", "-o", help="A method's own option, KEY=VALUE (num_chunks=4); may be repeated."),
]


def _print_version(asked: bool) -> None:
    if asked:
        print(f"rectab {__version__}")
        raise typer.Exit


@app.callback()
def rectab(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Embedding tables for CTR models at any memory budget."""
    check_alone(context.invoked_subcommand)


@app.command()
@stoppable(left_by_prepare)
def prepare(
    recipe: Annotated[Path, typer.Argument(help="Recipe of the data set (datasets/NAME.toml).")],
    out: Annotated[Path, typer.Option(help="Folder to write the prepared data set to.")],
    raw: Annotated[Optional[Path], typer.Option(help="Folder of the raw files.")] = None,  # noqa: UP045
    bad_rows: Annotated[
        Literal["error", "skip"], typer.Option(help="error: stop at the first bad row; skip: drop and count them.")
    ] = "error",
    overwrite: Annotated[bool, typer.Option(help="Replace a prepared data set that is there already.")] = False,
    json_output: Json = False,
) -> None:
    """Turn raw rows into a prepared data set: vocabularies, splits, memory-mapped arrays."""
    from rectab.data import prepare as run_prepare
    from rectab.data import render_summary

    dataset = run_prepare(recipe, raw, out, bad_rows=bad_rows, overwrite=overwrite)
    if json_output:
        print_json(dataset.summary)
    else:
        Console().print(render_summary(dataset))


@app.command()
def describe(
    data: Annotated[Path, typer.Argument(help="Prepared data set.")],
    without: Without = None,
    json_output: Json = False,
) -> None:
    """What a prepared data set holds: rows, columns, ids, how many are seen once, and the bytes of the id map."""
    from rectab.data import PreparedDataset, describe_ids, render_summary, without_features

    dataset = without_features(PreparedDataset.open(data), without or ())
    if json_output:
        print_json({"name": dataset.name, **dataset.summary, "ids": describe_ids(dataset.schema)})
    else:
        Console().print(render_summary(dataset))


@app.command()
def plan(
    data: Annotated[Path, typer.Argument(help="Prepared data set.")],
    budget: Annotated[
        str,
        typer.Option(
            help="Bytes of the serving form: 4MiB, 1.5GB, 10% of the full table; none: the method's own size."
        ),
    ],
    dim: Annotated[int, typer.Option(help="embedding_dim.")] = 16,
    table: Annotated[Optional[list[str]], typer.Option(help="Method; all of them if not given.")] = None,  # noqa: UP045
    rows: Rows = "fp32",
    train_memory: TrainMemory = None,
    count_ids: CountIds = False,
    without: Without = None,
    option: Options = None,
    plugin: Plugins = None,
    json_output: Json = False,
) -> None:
    """What every method would make of a memory budget: configuration, counted bytes, expected collisions."""
    from rectab.data import PreparedDataset, without_features
    from rectab.id_bytes import map_bytes
    from rectab.tables import TableOptions
    from rectab.tables.plan_list import plan_all, plan_renderables

    dataset = without_features(PreparedDataset.open(data), without or ())
    held = TableOptions(rows=rows)
    vocabularies = dataset.schema.vocabularies
    plans = plan_all(
        vocabularies,
        dim,
        budget,
        table,
        key_values(option),
        options=held,
        train_memory=train_memory,
        map_bytes=map_bytes(dataset.schema),
        count_ids=count_ids,
    )
    if json_output:
        print_json([entry.to_json() for entry in plans])
    else:
        Console().print(*plan_renderables(plans, dim, budget), sep="\n")


@app.command()
@stoppable(left_by_train)
def train(
    data: Annotated[Path, typer.Argument(help="Prepared data set.")],
    table: Annotated[str, typer.Option(help="Method of the embedding table (rectab tables).")] = "full",
    budget: Annotated[Optional[str], typer.Option(help="4MiB, 10%; none: the method's own size.")] = None,  # noqa: UP045
    model: Model = "deepfm",
    history: History = None,
    dim: Annotated[int, typer.Option(help="embedding_dim.")] = 16,
    rows: Rows = "fp32",
    train_memory: TrainMemory = None,
    count_ids: CountIds = False,
    objective: Annotated[
        Optional[Literal["logloss", "mse", "topk"]],  # noqa: UP045
        typer.Option(help="logloss: clicks; mse: ratings; topk: rank all items for a user. Short for train.objective."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything: weights, batches, dropout.")] = 0,
    device: Device = "cpu",
    out: Annotated[Optional[Path], typer.Option(help="Folder for checkpoints, weights and the result.")] = None,  # noqa: UP045
    trained: Trained = None,
    rows_in: RowsIn = None,
    shard: Annotated[
        Optional[Literal["auto", "table_wise", "column_wise", "row_wise"]],  # noqa: UP045
        typer.Option(help="Under torchrun: each process holds a part of the rows, laid out by torchrec's planner."),
    ] = None,
    fused_optimizer: Annotated[
        bool,
        typer.Option(
            "--fused-optimizer",
            help="Of --shard: FBGEMM's fused optimizer steps the rows. Short for train.fused_optimizer.",
        ),
    ] = False,
    without: Without = None,
    option: Options = None,
    plugin: Plugins = None,
    setting: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", help="A training or model setting, KEY=VALUE (model.history.hidden=[32])."),
    ] = None,
    test: Annotated[
        bool,
        typer.Option(
            "--test/--no-test",
            help="Measure on the test split. Leave it alone (--no-test) while you choose settings; the same command "
            "with --test then measures the finished run.",
        ),
    ] = True,
    json_output: Json = False,
) -> None:
    """Train one model over one table; the same command goes on where a killed one stopped, and reads a finished one
    back."""
    from rectab.data import PreparedDataset, without_features
    from rectab.processes import joined, leads
    from rectab.training import TrainConfig, render_result, train_once
    from rectab.training.defaults import settings_of as defaults_of

    dataset = without_features(PreparedDataset.open(data), without or ())
    training, of_model = settings_of(setting)
    training |= {} if objective is None else {"objective": objective}
    training |= {"fused_optimizer": True} if fused_optimizer else {}
    found = defaults_of(dataset, model, history, training, of_model)
    with joined():
        result = train_once(
            dataset,
            method=table,
            budget=budget,
            method_options=key_values(option),
            rows=rows,
            train_memory=train_memory,
            count_ids=count_ids,
            model=model,
            history=found.history,
            embedding_dim=dim,
            train_config=TrainConfig.from_json({"seed": seed, **found.training}, "train"),
            model_options=found.model,
            out_dir=out,
            read_test=test,
            shared=trained,
            rows_in=rows_in,
            shard=shard,
            device=device_named(device),
            say=say,
            progress="off" if json_output else "auto",
        )
        prints = leads()
    if not prints:
        return
    if json_output:
        print_json(result.to_json())
    else:
        Console().print(render_result(result))


_OF_RUNS = (cli_runs.compress, cli_runs.explain, cli_runs.predict, cli_runs.evaluate, cli_runs.export)
_THAT_CHOOSE = (cli_choose.choose, cli_choose.tune, cli_choose.report)
_DELTAS = (cli_deltas.delta, cli_deltas.apply_delta)
for command in (cli_tables.tables, *_OF_RUNS, *_THAT_CHOOSE, *_DELTAS, cli_streams.stream):
    app.command()(command)


app.command()(cli_sweeps.sweep)


def run() -> None:
    """Entry point of the ``rectab`` command."""
    leave_at_once(main)


def main() -> None:
    """``rectab`` with the arguments of this process; always ends in SystemExit."""
    try:
        app()
    except Exception as error:
        expected = isinstance(error, (ValueError, KeyError, OSError)) or type(error).__module__.startswith("rectab.")
        if not expected or os.environ.get("RECTAB_TRACEBACK"):
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        sys.stderr.write(f"rectab: {text}\n(RECTAB_TRACEBACK=1 shows where)\n")
        sys.exit(1)
