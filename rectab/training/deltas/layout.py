"""What a model file says of its table, read from its header."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open

from rectab.plain import parse_json
from rectab.schema import Schema
from rectab.tables import TableOptions
from rectab.tables.base import EmbeddingTable
from rectab.tables.io import build_described, stored_in

__all__ = ["is_model", "table_of"]


def _description(path: Path) -> Any:
    with safe_open(path, framework="pt") as file:
        return parse_json((file.metadata() or {}).get("rectab_model", "{}"))


def is_model(path: Path) -> bool:
    """Whether a safetensors file is one of :func:`rectab.training.artifact.save_model`."""
    return bool(_description(path))


def table_of(path: Path) -> EmbeddingTable:
    """The table of a model, without its memory.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no model.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such model")
    with stored_in(path):
        described = _description(path)
        schema = Schema.from_json(described.get("schema"))
        return build_described(described.get("table"), schema.vocabularies, TableOptions(device="meta"))
