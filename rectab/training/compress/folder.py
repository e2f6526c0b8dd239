"""A run folder of an encoded table: what every other command takes."""

from __future__ import annotations

from pathlib import Path

from rectab.tables.io import save_table
from rectab.training.artifact import MODEL_FILE, TABLE_FILE, save_model
from rectab.training.compress.encoder import Encoded
from rectab.training.finished import RESULT_FILE
from rectab.training.inputs_file import write_inputs
from rectab.training.result import RunResult

__all__ = ["write_run"]


def write_run(folder: Path, made: Encoded, result: RunResult) -> None:
    """Write model, table, what makes its inputs, and result; each file appears whole, the result last."""
    folder.mkdir(parents=True, exist_ok=True)
    save_model(made.model, folder / MODEL_FILE)
    save_table(made.model.table, folder / TABLE_FILE)
    write_inputs(made.run.dataset, folder, made.omitted)
    result.save(folder / RESULT_FILE)
