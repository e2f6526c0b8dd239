"""A trained model on disk: everything that serving or explaining needs, in one safetensors file."""

from __future__ import annotations

from pathlib import Path

import torch

from rectab.models import CTRModel, ModelConfig
from rectab.schema import Schema
from rectab.tables import TableOptions
from rectab.tables.files import read_file, write_file
from rectab.tables.io import build_described, build_filled, describe_table, stored_in

__all__ = ["MODEL_FILE", "TABLE_FILE", "load_model", "save_model"]

MODEL_FILE = "model.safetensors"
"""Where a run keeps its trained model, within its folder."""

TABLE_FILE = "table.safetensors"
"""Where the run of an encoded table keeps the table alone, for :func:`rectab.tables.load_table`."""

FORMAT_VERSION = 3


def save_model(model: CTRModel, path: Path) -> None:
    """Write ``model`` with its schema and configurations; the file appears whole."""
    description = {
        "schema": model.schema.to_json(),
        "model": model.config.to_json(),
        "table": describe_table(model.table),
    }
    write_file(path, "model", FORMAT_VERSION, description, model.state_dict())


def load_model(path: Path | str, options: TableOptions | None = None, device: torch.device | str = "cpu") -> CTRModel:
    """Read :func:`save_model`'s file, in evaluation mode, on ``device``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, not a rectab model, of another format version or of an unknown method.
    """
    path = Path(path)
    description, tensors = read_file(path, "model", FORMAT_VERSION)
    with stored_in(path), torch.random.fork_rng():
        schema = Schema.from_json(description.get("schema"))
        config = ModelConfig.from_json(description.get("model"))

        def build(held: TableOptions) -> CTRModel:
            return CTRModel(schema, build_described(description.get("table"), schema.vocabularies, held), config)

        return build_filled(build, tensors, options).eval().to(device)
