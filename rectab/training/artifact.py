"""A trained model on disk: everything that serving or explaining needs, in one safetensors file."""

from __future__ import annotations

from pathlib import Path

import torch

from rectab.models import CTRModel, ModelConfig
from rectab.schema import Schema
from rectab.tables import TableOptions, build_table, config_from_json, config_to_json
from rectab.tables.files import read_file, write_file

__all__ = ["MODEL_FILE", "load_model", "save_model"]

MODEL_FILE = "model.safetensors"
"""Where a run keeps its trained model, within its folder."""

FORMAT_VERSION = 3


def save_model(model: CTRModel, path: Path) -> None:
    """Write ``model`` with its schema and configurations; the file appears whole."""
    description = {
        "schema": model.schema.to_json(),
        "model": model.config.to_json(),
        "method": model.table.method,
        "embedding_dim": model.table.embedding_dim,
        "table": config_to_json(model.table.config),
    }
    write_file(path, "model", FORMAT_VERSION, description, model.state_dict())


def load_model(path: Path | str, options: TableOptions | None = None) -> CTRModel:
    """Read :func:`save_model`'s file, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, not a rectab model, or of another format version.
    """
    path = Path(path)
    description, tensors = read_file(path, "model", FORMAT_VERSION)
    schema = Schema.from_json(description["schema"])
    config = config_from_json(description["method"], description["table"])
    table = build_table(description["method"], schema.vocabularies, description["embedding_dim"], config, options)
    with torch.random.fork_rng():
        model = CTRModel(schema, table, ModelConfig.from_json(description["model"]))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path}: tensors do not fit the configuration in its metadata: {error}") from error
    return model.eval()
