"""A run folder of an encoded table: what every other command takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rectab.data.dataset import PreparedDataset
from rectab.id_bytes import IdRange
from rectab.models import CTRModel
from rectab.tables.io import save_table
from rectab.training.artifact import MODEL_FILE, TABLE_FILE, save_model
from rectab.training.compress.encoder import Encoded
from rectab.training.finished import RESULT_FILE
from rectab.training.inputs_file import write_inputs
from rectab.training.result import RunResult

__all__ = ["write_model_run", "write_run"]


def write_run(folder: Path, made: Encoded, result: RunResult) -> None:
    """See :func:`write_model_run`; without the ids that need not be in the map."""
    write_model_run(folder, made.model, made.run.dataset, result, made.omitted)


def write_model_run(
    folder: Path,
    model: CTRModel,
    dataset: PreparedDataset,
    result: RunResult,
    omitted: Mapping[str, Sequence[IdRange]] | None = None,
) -> None:
    """Write model, table, what makes its inputs, and result; each file appears whole, the result last."""
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, folder / MODEL_FILE)
    save_table(model.table, folder / TABLE_FILE)
    write_inputs(dataset, folder, omitted)
    result.save(folder / RESULT_FILE)
