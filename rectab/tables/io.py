"""Save and load tables: safetensors with the configuration in the metadata. No pickle anywhere.

The file holds the tensors of the ledger and nothing else: its size is the ledger's bytes and the header.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rectab import __version__
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.registry import build_table, config_from_json, config_to_json

__all__ = ["FORMAT_VERSION", "load_table", "save_table"]

FORMAT_VERSION = 1


def save_table(table: EmbeddingTable, path: str | Path) -> None:
    """Write ``table`` (its serving form is the caller's choice) to a safetensors file; the file appears whole."""
    path = Path(path)
    description = {
        "format_version": FORMAT_VERSION,
        "rectab": __version__,
        "method": table.method,
        "embedding_dim": table.embedding_dim,
        "config": config_to_json(table.config),
        "vocabularies": [v.to_json() for v in table.vocabularies],
        "unseen": table.options.unseen,
    }
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in table.state_dict().items()}
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata={"rectab_table": json.dumps(description)})
    partial.replace(path)


def load_table(path: str | Path, options: TableOptions | None = None) -> EmbeddingTable:
    """Read :func:`save_table`'s file.

    Raises:
        ValueError: the file is damaged, is not a rectab table, or is of another format version.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("rectab_table")
            if text is None:
                raise ValueError(f"{path}: a safetensors file, but not a rectab table (no 'rectab_table' metadata)")
            description = json.loads(text)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); copy or export it again") from error
    if description.get("format_version") != FORMAT_VERSION:
        version = description.get("format_version")
        raise ValueError(f"{path}: format version {version}, this rectab reads {FORMAT_VERSION}")
    vocabularies = [Vocabulary(**v) for v in description["vocabularies"]]
    config = config_from_json(description["method"], description["config"])
    stored = next((t.dtype for name, t in tensors.items() if name.endswith("store.weight")), None)
    options = replace(options or TableOptions(), unseen=description.get("unseen"))
    options = options if stored is None else replace(options, dtype=stored)
    table = build_table(description["method"], vocabularies, description["embedding_dim"], config, options)
    try:
        table.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path}: tensors do not fit the configuration in its metadata: {error}") from error
    return table
