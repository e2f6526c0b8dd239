"""A finished run over any table of rows, its rows held in another format: nothing is trained, nothing else changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rectab.data.dataset import PreparedDataset
from rectab.data.storage import atomic_folder
from rectab.models import with_table
from rectab.ops import FloatFormat, LatentFormat, RowStore, get_format
from rectab.tables.base import EmbeddingTable
from rectab.tables.budget import full_table_bytes
from rectab.tables.served_rows import with_rows
from rectab.training.artifact import MODEL_FILE, load_model
from rectab.training.compress.folder import write_model_run
from rectab.training.config import TrainConfig
from rectab.training.device import resolve_device
from rectab.training.evaluation import evaluate
from rectab.training.finished import RESULT_FILE, check_data, load_result
from rectab.training.measuring import metrics_on_test

__all__ = ["HeldRows", "hold_rows"]


@dataclass(frozen=True)
class HeldRows:
    """What one format makes of a run.

    Attributes:
        rows: the format.
        serving_bytes: of the table.
        share: of the fp32 full table of its width.
        before, valid: metrics on validation of the run, and with rows held so.
        test: metrics on test; None if not asked for.
    """

    rows: str
    serving_bytes: int
    share: float
    before: dict[str, float]
    valid: dict[str, float]
    test: dict[str, float] | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def hold_rows(
    dataset: PreparedDataset,
    folder: Path,
    out: Path,
    rows: Sequence[str],
    *,
    read_test: bool = False,
    device: torch.device | str = "cpu",
) -> list[HeldRows]:
    """Write ``out``/FORMAT/, a run folder, for every format.

    Args:
        dataset: what the run was trained on; its counts of ids weigh the errors of codes.
        folder: of the finished run.
        out: where to.
        rows: names of formats: ``codes8`` and ``codes4``, whose step a vocabulary shares, ``int8``, ``fused4``, ...
        read_test: measure on the test split, each once.
        device: where the model is measured.

    Raises:
        FileExistsError: ``out`` is there already.
        FileNotFoundError: the folder holds no finished run.
        ValueError: the run is of another data set, ranks or rates, or holds no rows in floats; or a format is unknown
            or is one that rows are only trained in.
    """
    if out.exists():
        raise FileExistsError(f"{out}: exists already; give another --out, or delete it")
    result = load_result(folder)
    if result is None:
        raise FileNotFoundError(f"{folder}: no {RESULT_FILE}, so this is no finished run")
    check_data(folder, result, dataset)
    config = TrainConfig.from_json(result.train)
    if config.objective != "logloss":
        raise ValueError(f"{folder}: objective {config.objective!r}; this is for clicks")
    _check(rows)
    model = load_model(folder / MODEL_FILE, device=resolve_device(device)).eval()
    table = model.table
    _check_floats(table, folder)
    table.vocabularies = tuple(dataset.schema.vocabularies)  # the file knows no counts
    before, made = evaluate(model, dataset.valid, config.evaluation_batch_size, config.objective), []
    full = full_table_bytes(table.vocabularies, table.embedding_dim)
    with atomic_folder(out) as draft:
        for name in rows:
            held = with_table(model, with_rows(table, name)).eval()
            valid = evaluate(held, dataset.valid, config.evaluation_batch_size, config.objective)
            test, slices = metrics_on_test(held, dataset, config) if read_test else (None, {})
            size = held.table.ledger().bytes
            planned = result.table | {"rows": name, "serving_bytes": size, "budget_bytes": None, "budget_share": None}
            told = replace(result, table=planned, valid=valid, test=test, slices=slices, serving_bytes=size)
            write_model_run(draft / name, held, dataset, replace(told, budget_bytes=None))
            made.append(HeldRows(name, size, size / full, before, valid, test))
    return made


def _check(rows: Sequence[str]) -> None:
    for name in rows:
        row_format = get_format(name)
        if isinstance(row_format, LatentFormat):
            raise ValueError(f"--rows {name}: rows train so, and are served as codes; give {row_format.served.name}")
    if len(set(rows)) < len(rows):
        raise ValueError(f"--rows: given twice in {', '.join(rows)}")


def _check_floats(table: EmbeddingTable, folder: Path) -> None:
    held = {m.format for m in table.modules() if isinstance(m, RowStore)}
    if not held or not all(isinstance(row_format, FloatFormat) for row_format in held):
        names = ", ".join(row_format.name for row_format in held) or "no rows"
        raise ValueError(f"{folder}: its table {table.method!r} holds {names}; rows in floats are needed")
