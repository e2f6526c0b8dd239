"""Finished runs compressed to several budgets: a run folder for each, and the curve of what they lose."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from rectab.atomic_file import write_atomic
from rectab.data.dataset import PreparedDataset
from rectab.data.storage import atomic_folder
from rectab.id_bytes import map_bytes
from rectab.models import CTRModel
from rectab.quantize.rivals import Shape
from rectab.tables import Plan, TableOptions, plan
from rectab.tables.budget import parse_budget
from rectab.training.compress.encoder import Encoder
from rectab.training.compress.finetune import FineTune, Tuned, fine_tune_choice, train_full_further
from rectab.training.compress.folder import write_run
from rectab.training.compress.kept import open_kept
from rectab.training.compress.loss import Search, fewest_bytes, predicted_bytes
from rectab.training.compress.points import CURVE_FILE, Curve, Point, Source
from rectab.training.compress.results import encoded_result
from rectab.training.compress.source import FullRun
from rectab.training.compress.widths import Choice, Widths, open_runs
from rectab.training.config import TrainConfig
from rectab.training.device import resolve_device
from rectab.training.measuring import metrics_on_test

__all__ = ["CURVE_FILE", "Curve", "Point", "Source", "compress", "fewest_within"]


def compress(
    dataset: PreparedDataset,
    folders: Sequence[Path],
    out: Path,
    budgets: Sequence[str] = (),
    loss: float | None = None,
    *,
    keep: Sequence[Path] = (),
    count_ids: bool = False,
    shape: Shape = "best",
    finetune: FineTune | None = None,
    read_test: bool = False,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> Curve:
    """Encode finished runs of the full table to every budget; nothing is trained unless ``finetune`` says so.

    Args:
        dataset: what they were trained on.
        folders: of the runs; several differ in their width, and validation chooses among them at every budget.
        out: gets ``BUDGET/`` for every budget, a run folder, and ``curve.json``.
        budgets: bytes, ``"10%"`` of the full table at the first run's width, ``"1MiB"``.
        loss: find the fewest bytes that lose at most so much of the first run's validation AUC, too.
        keep: folders of encoded runs, each of whose blocks and codebooks to encode in; gets ``NAME/``, the folder's.
        count_ids: budgets are for the table and the map from raw values to ids together.
        shape: ``best``, or that of a rival, see :mod:`rectab.quantize.rivals`.
        finetune: train what is encoded further, with the model around it, and keep it where validation says that it
            won; the full models are then trained as far, to stand beside it.
        read_test: measure on the test split, each budget once.
        device: where models are measured, see :func:`rectab.training.device.resolve_device`.
        say: called with a line of text before what takes time.

    Raises:
        FileExistsError: ``out`` is not empty.
        FileNotFoundError: a folder holds no finished run, or none that is encoded.
        InfeasibleBudget: a budget is smaller than any table; with the smallest.
        ValueError: a budget is not understood or given twice, a run cannot be compressed, or two runs do not go
            together.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out}: exists already; give another --out, or delete it")
    if not budgets and loss is None and not keep:
        raise ValueError("nothing to do: give at least one --budget (10%, 4MiB), or --loss (0.001), or --keep FOLDER")
    if keep and shape != "best":
        raise ValueError("--keep: takes the encodings of another run, whatever --shape is; leave --shape out")
    if loss is not None and not 0 <= loss < 1:
        raise ValueError(f"--loss is a difference in validation AUC, such as 0.001; got {loss:g}")
    widths = Widths(open_runs(folders, dataset, resolve_device(device)), count_ids=count_ids, shape=shape)
    sizes = _sizes(budgets, widths)
    for size in sizes.values():
        widths.check(size)
    kept = _kept(keep, sizes, widths)
    curve = Curve(dataset.name, dataset.fingerprint(), widths.full_bytes, loss=loss, count_ids=count_ids, shape=shape)
    for encoder in widths.encoders:
        say(f"{encoder.run.folder}: options of every block")
        _ = encoder.options
    with atomic_folder(out) as draft:
        for budget, size in sizes.items():
            say(f"{budget}: encoding and validation")
            curve.points.append(_written(budget, widths.encode(size), widths, draft, read_test, finetune))
        for name, folder in kept.items():
            say(f"{name}: encoding in the blocks of {folder}, and validation")
            curve.points.append(_written(name, widths.keep(folder), widths, draft, read_test, finetune))
        if loss is not None:
            say(f"loss {loss:g}: looking for the fewest bytes")
            begin = time.perf_counter()
            search, choice = fewest_within(widths, loss)
            curve.measured, curve.loss_seconds = search.measured, time.perf_counter() - begin
            curve.points.append(_written(f"loss-{loss:g}", choice, widths, draft, read_test, finetune))
        curve.sources += [_source(encoder, read_test, finetune) for encoder in widths.encoders]
        write_atomic(draft / CURVE_FILE, json.dumps(curve.to_json(), indent=1, allow_nan=False) + "\n")
    return curve


def _sizes(budgets: Sequence[str], widths: Widths) -> dict[str, int]:
    """Bytes of every budget by how it is written. Raises ValueError for one that is given twice."""
    sizes: dict[str, int] = {}
    for text in budgets:
        name, size = "".join(text.split()), parse_budget(text, widths.full_bytes)
        if name in sizes or size in sizes.values():
            raise ValueError(f"--budget {text}: given twice ({size} bytes)")
        sizes[name] = size
    return sizes


def _kept(keep: Sequence[Path], sizes: Mapping[str, int], widths: Widths) -> dict[str, Path]:
    """Folders of encoded runs by the names of what is made with them; each goes with the run."""
    if keep and len(widths.encoders) > 1:
        raise ValueError("--keep: blocks are of one width; give one run")
    kept: dict[str, Path] = {}
    for folder in keep:
        open_kept(folder, widths.first)
        name = folder.resolve().name
        if name in kept or name in sizes:
            raise ValueError(f"--keep {folder}: there is a {name} already")
        kept[name] = folder
    return kept


def fewest_within(widths: Widths, loss: float) -> tuple[Search, Choice]:
    """The fewest bytes that lose at most ``loss`` of the first run's validation AUC. Raises ValueError if none of the
    budgets measured does."""
    low, high = widths.smallest_bytes, widths.full_bytes
    needed = widths.first.valid["auc"] - loss
    start = min(predicted_bytes(encoder, needed, max(low, encoder.smallest_bytes), high) for encoder in widths.encoders)
    search = fewest_bytes(lambda size: widths.encode(size).encoded.valid["auc"], needed, low, high, start)
    if search.found is None:
        best = max(search.measured.values())
        raise ValueError(
            f"--loss {loss:g}: the best of {len(search.measured)} tables reaches {best:.5f}, {needed:.5f} "
            f"is needed; allow more"
        )
    return search, widths.encode(search.found)


def _written(
    budget: str, choice: Choice, widths: Widths, out: Path, read_test: bool, finetune: FineTune | None
) -> Point:
    """The point of a budget; its folder is written."""
    tuned: Tuned | None = None
    if finetune is not None:
        choice, tuned = fine_tune_choice(choice, finetune)
    made, first = choice.encoded, widths.first
    result = encoded_result(choice, widths, _plan(widths, made.budget_bytes), read_test, time.perf_counter())
    if tuned is not None:
        result = tuned.told_in(result)
    write_run(out / budget, made, result)
    return Point(
        budget=budget,
        budget_bytes=made.budget_bytes,
        serving_bytes=made.serving_bytes,
        map_bytes=made.map_bytes,
        share=made.serving_bytes / widths.full_bytes,
        run=str(made.run.folder),
        embedding_dim=made.run.embedding_dim,
        expected=made.expected,
        valid=made.valid,
        test=result.test,
        lost=first.valid["auc"] - made.valid["auc"],
        expected_lost=first.valid["auc"] - made.expected["auc"],
        attempts=choice.attempts,
        finetune=None if tuned is None else tuned.to_json(),
    )


def _plan(widths: Widths, budget: int) -> Plan:
    """What would train these runs and encode them to ``budget`` bytes."""
    runs = [encoder.run for encoder in widths.encoders]
    train, table = widths.first.result.train, widths.first.model.table
    return plan(
        "quantized",
        table.vocabularies,
        max(run.embedding_dim for run in runs),
        budget,
        options=TableOptions(gradient=train["gradient"], seed=train["seed"], rows=table.options.rows),
        optimizer=TrainConfig.from_json(train).row_training,
        map_bytes=map_bytes(widths.first.dataset.schema),
        count_ids=widths.encoders[0].count_ids,
        shape=widths.encoders[0].shape,
        widths=[run.embedding_dim for run in runs] if len(runs) > 1 else [],
    )


def _source(encoder: Encoder, read_test: bool, finetune: FineTune | None) -> Source:
    run = encoder.run
    return Source(
        run=str(run.folder),
        embedding_dim=run.embedding_dim,
        serving_bytes=run.model.table.ledger().bytes,
        map_bytes=map_bytes(run.dataset.schema),
        valid=run.valid,
        test=_test(run, run.model) if read_test else None,
        train_seconds=run.result.train_seconds,
        seconds=encoder.seconds,
        further=None if finetune is None else train_full_further(run, finetune),
    )


def _test(run: FullRun, model: CTRModel) -> dict[str, float]:
    return metrics_on_test(model, run.dataset, TrainConfig.from_json(run.result.train))[0]
