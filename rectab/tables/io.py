"""Save and load tables: safetensors with the configuration in the metadata. No pickle anywhere.

The file holds the tensors of the ledger and nothing else: its size is the ledger's bytes and the header.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.files import read_file, write_file
from rectab.tables.registry import build_table, config_from_json, config_to_json

__all__ = ["FORMAT_VERSION", "load_table", "save_table"]

FORMAT_VERSION = 3


def save_table(table: EmbeddingTable, path: str | Path) -> None:
    """Write ``table`` (its serving form is the caller's choice) to a safetensors file; the file appears whole."""
    description = {
        "method": table.method,
        "embedding_dim": table.embedding_dim,
        "config": config_to_json(table.config),
        "vocabularies": [v.to_json() for v in table.vocabularies],
        "unseen": table.options.unseen,
    }
    write_file(Path(path), "table", FORMAT_VERSION, description, table.state_dict())


def load_table(path: str | Path, options: TableOptions | None = None) -> EmbeddingTable:
    """Read :func:`save_table`'s file.

    Raises:
        ValueError: the file is damaged, is not a rectab table, or is of another format version or an unknown method.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    description, tensors = read_file(path, "table", FORMAT_VERSION)
    stored = next((t.dtype for name, t in tensors.items() if name.endswith("store.weight")), None)
    options = replace(options or TableOptions(), unseen=description.get("unseen"))
    options = options if stored is None else replace(options, dtype=stored)
    try:
        vocabularies = [Vocabulary(**v) for v in description["vocabularies"]]
        config = config_from_json(description["method"], description["config"])
        table = build_table(description["method"], vocabularies, description["embedding_dim"], config, options)
        table.load_state_dict(tensors)
    except (KeyError, TypeError) as error:  # KeyError: a method that this rectab (or the caller) has not registered
        raise ValueError(f"{path}: this rectab cannot build what its metadata describes: {error}") from error
    except RuntimeError as error:
        raise ValueError(f"{path}: tensors do not fit the configuration in its metadata: {error}") from error
    return table
