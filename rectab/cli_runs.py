"""The commands of finished runs: ``rectab compress``, ``explain``, ``predict``, ``evaluate`` and ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer
from rich.console import Console

from rectab.cli_support import CountIds, Device, Json, Plugins, Without, device_named, print_json, say

if TYPE_CHECKING:
    from rectab.data.asked_rows import AskedRows
    from rectab.training.served import ServedModel

__all__ = ["compress", "evaluate", "explain", "export", "predict"]

Run = Annotated[Path, typer.Argument(help="Folder of a finished run: rectab train --out, or a BUDGET of compress.")]
Raw = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads it on Python 3.10
    typer.Option(
        help="Folder of the raw files, laid out as the recipe says; or the one file of rows, where it reads no other. "
        "Without it the folder that the data set was prepared from, whose files must be as they were."
    ),
]
RowsFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--rows", help="File of the rows to take, in place of those in --raw; these stay the log."),
]
Events = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="File that histories are read from, in place of the log (or the events' file) in --raw."),
]
SplitOption = Annotated[
    Optional[Literal["train", "valid", "test"]],  # noqa: UP045
    typer.Option(help="Only the rows of this split of the recipe; without it all rows."),
]
BadRows = Annotated[
    Literal["error", "skip"], typer.Option(help="error: stop at the first bad row; skip: drop and count them.")
]
Data = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="Prepared data set of the run, if the run is of a rectab that did not keep what makes inputs."),
]
WithoutOfData = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--without", help="With --data: what the run was trained --without; may be repeated."),
]


def compress(
    data: Annotated[Path, typer.Argument(help="Prepared data set that the runs were trained on.")],
    run: Annotated[
        list[Path], typer.Argument(help="Folder of rectab train --table full --out; further ones of another --dim.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for BUDGET/, a run folder each, and curve.json.")],
    budget: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Bytes of the table: 10% of the full one at the first run's width, 4MiB; may be repeated."),
    ] = None,
    loss: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="The fewest bytes that lose at most so much of the full model's validation AUC (0.001)."),
    ] = None,
    keep: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(
            help="An encoded run (BUDGET of an earlier compress): its blocks and codebooks, codes chosen anew, so that "
            "rectab delta from it is small; may be repeated."
        ),
    ] = None,
    count_ids: CountIds = False,
    shape: Annotated[
        Literal["best", "int8", "threshold"],
        typer.Option(
            help="best: the encodings that err least. To compare with: int8 for every id; threshold: ids seen k times "
            "and more in int8, the rest one shared row, k by the budget."
        ),
    ] = "best",
    finetune: Annotated[
        Optional[Literal["frozen", "straight-through", "moving"]],  # noqa: UP045
        typer.Option(
            help="Train steps, codebooks and the dense part further, and keep what comes of it where validation says "
            "that it won. What happens to the codes: nothing; chosen anew at every step for vectors trained behind "
            "them; moved to a neighbour when training asks for it."
        ),
    ] = None,
    finetune_epochs: Annotated[int, typer.Option(help="Most epochs of --finetune.")] = 10,
    distill: Annotated[
        float, typer.Option(help="With --finetune: weight of the full model's predictions as labels, 0 to 1.")
    ] = 0.0,
    rows: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="Instead of a budget, for a run over any table of rows (hashed, unified, ...): hold its rows as "
            "codes8, codes4, int8, fused4, ...; gets ROWS/; may be repeated."
        ),
    ] = None,
    without: Without = None,
    test: Annotated[bool, typer.Option("--test", help="Measure on the test split, too.")] = False,
    device: Device = "cpu",
    json_output: Json = False,
) -> None:
    """Encode the table of finished runs to any budget, with no further training unless --finetune asks for it."""
    from rectab.data import PreparedDataset, without_features
    from rectab.sweep.curve_page import write_curve_page
    from rectab.training.compress.curve import compress as run_compress
    from rectab.training.compress.finetune import FineTune
    from rectab.training.compress.held import hold_rows
    from rectab.training.compress.rendering import render_curve, render_held

    dataset = without_features(PreparedDataset.open(data), without or ())
    if rows:
        if budget or loss is not None or keep or count_ids or finetune or shape != "best" or len(run) > 1:
            raise ValueError("--rows: takes one run, and neither budgets nor what chooses encodings")
        made = hold_rows(dataset, run[0], out, rows, read_test=test, device=device_named(device))
        if json_output:
            print_json([one.to_json() for one in made])
        else:
            Console().print(*render_held(made), sep="\n")
        return
    curve = run_compress(
        dataset,
        run,
        out,
        budget or (),
        loss,
        keep=keep or (),
        count_ids=count_ids,
        shape=shape,
        finetune=FineTune.asked(finetune, finetune_epochs, distill),
        read_test=test,
        device=device_named(device),
        say=say,
    )
    page = write_curve_page(curve, out)
    if json_output:
        print_json(curve.to_json())
    else:
        Console().print(*render_curve(curve), f"picture: {page}", sep="\n")


def explain(
    data: Annotated[Path, typer.Argument(help="Prepared data set that the model was trained on.")],
    checkpoint: Annotated[Path, typer.Argument(help="Folder of rectab train --out, or its model.safetensors.")],
    row: Annotated[int, typer.Option(help="Row of the split, counted from 0.")],
    split: Annotated[Literal["train", "valid", "test"], typer.Option(help="Which split the row is of.")] = "valid",
    device: Device = "cpu",
    without: Without = None,
    plugin: Plugins = None,
    json_output: Json = False,
) -> None:
    """Print what the model looks at for a row: attention over its histories, fields that ARM-Net's neurons select."""
    from rectab.data import PreparedDataset, without_features
    from rectab.training import explain_checkpoint, render_explanation

    dataset = without_features(PreparedDataset.open(data), without or ())
    explanation = explain_checkpoint(dataset, checkpoint, split, row, device_named(device))
    if json_output:
        print_json(explanation.to_json())
    else:
        Console().print(render_explanation(explanation))


def predict(
    run: Run,
    raw: Raw = None,
    rows: RowsFile = None,
    events: Events = None,
    split: SplitOption = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Parquet (or .csv) file to write: file, row, probability. Without it csv is printed."),
    ] = None,
    bad_rows: BadRows = "error",
    data: Data = None,
    without: WithoutOfData = None,
    device: Device = "cpu",
    plugin: Plugins = None,
) -> None:
    """Score raw rows, which need no label."""
    from rectab.training.scores_file import check_out, write_scores

    if out is not None:
        check_out(out)
    scores = _loaded(run, data, without, device).score(_asked(raw, rows, events, split, bad_rows, labels=False))
    _tell_dropped(scores.dropped, scores.problems)
    if out is None:
        typer.echo(scores.frame.write_csv(), nl=False)
    else:
        write_scores(scores.frame, out)
        say(f"{out}: {len(scores.frame):,} rows")


def evaluate(
    run: Run,
    raw: Raw = None,
    rows: RowsFile = None,
    events: Events = None,
    split: SplitOption = None,
    bad_rows: BadRows = "error",
    data: Data = None,
    without: WithoutOfData = None,
    device: Device = "cpu",
    plugin: Plugins = None,
    json_output: Json = False,
) -> None:
    """Measure a run on raw rows with labels: AUC, logloss, calibration, AUC by id frequency."""
    from rectab.training.rendering import render_evaluation

    evaluation = _loaded(run, data, without, device).evaluate(_asked(raw, rows, events, split, bad_rows, labels=True))
    if json_output:
        print_json(evaluation.to_json())
        return
    _tell_dropped(evaluation.dropped, evaluation.problems)
    Console().print(render_evaluation(evaluation))


def export(
    run: Run,
    to: Annotated[
        Literal["onnx", "pt2", "torchrec", "fbgemm"],
        typer.Option(
            help="onnx, or pt2: compiled by AOTInductor where a C++ compiler is there, else torch.export's; torchrec "
            "or fbgemm: tables that these load, and a .pt2 of all else."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="File to write (of torchrec and fbgemm a folder); OUT.json beside it, or export.json in it, says "
            "inputs, shapes and vocabularies."
        ),
    ],
    precision: Annotated[
        Optional[Literal["fp32", "fp16", "int8", "int4", "int2"]],  # noqa: UP045
        typer.Option(help="Of the rows of torchrec's or fbgemm's tables; without it the nearest to the run's."),
    ] = None,
    raw: Raw = None,
    rows: RowsFile = None,
    split: SplitOption = None,
    data: Data = None,
    without: WithoutOfData = None,
    plugin: Plugins = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a line.")] = False,
) -> None:
    """Write the whole model as one graph, ids in and probabilities out, or as a host's tables and a graph of all else,
    and compare with the model on real rows: those of validation, if not told which."""
    from rectab.training.exporting.export import Exported, export_model
    from rectab.training.exporting.pair import Pair, export_pair

    if precision is not None and to in ("onnx", "pt2"):
        raise ValueError(f"--precision is of tables apart from their model, which --to {to} does not write")
    chosen = split or ("valid" if rows is None else None)
    served, asked = _loaded(run, data, without), _asked(raw, rows, None, chosen, bad_rows="error", labels=False)
    made: Exported | Pair
    match to:
        case "torchrec" | "fbgemm":
            made = export_pair(served, to, out, asked, precision)
        case _:
            made = export_model(served, to, out, asked)
    if json_output:
        print_json(made.to_json())
    else:
        typer.echo(made.told())


def _loaded(run: Path, data: Path | None, without: list[str] | None, device: str = "cpu") -> ServedModel:
    from rectab.data import PreparedDataset, without_features
    from rectab.training.served import load

    dataset = None if data is None else without_features(PreparedDataset.open(data), without or ())
    return load(run, dataset, device_named(device))


def _asked(
    raw: Path | None,
    rows: Path | None,
    events: Path | None,
    split: Literal["train", "valid", "test"] | None,
    bad_rows: str,
    labels: bool,
) -> AskedRows:
    from rectab.data.asked_rows import AskedRows

    return AskedRows(raw, rows, events, split, labels, bad_rows == "skip")


def _tell_dropped(count: int, problems: list[str]) -> None:
    if count:
        told = "1 bad row was" if count == 1 else f"{count:,} bad rows were"
        say("".join(f"{problem}\n" for problem in problems) + f"{told} left out")
