"""Save and load tables: safetensors with the configuration in the metadata. No pickle anywhere.

The file holds the tensors of the ledger and nothing else: its size is the ledger's bytes and the header.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.files import read_file, write_file
from rectab.tables.registry import build_table, config_from_json, config_to_json

__all__ = ["FORMAT_VERSION", "build_described", "describe_table", "load_table", "save_table", "stored_in"]

FORMAT_VERSION = 3

_ROWS = re.compile(r"(store|stores\.\d+)\.weight$")


def save_table(table: EmbeddingTable, path: str | Path) -> None:
    """Write ``table`` (its serving form is the caller's choice) to a safetensors file; the file appears whole."""
    description = {**describe_table(table), "vocabularies": [v.to_json() for v in table.vocabularies]}
    write_file(Path(path), "table", FORMAT_VERSION, description, table.state_dict())


def load_table(path: str | Path, options: TableOptions | None = None) -> EmbeddingTable:
    """Read :func:`save_table`'s file.

    Raises:
        ValueError: the file is damaged, is not a rectab table, or is of another format version or an unknown method.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    description, tensors = read_file(path, "table", FORMAT_VERSION)
    with stored_in(path):
        vocabularies = [Vocabulary(**v) for v in description["vocabularies"]]
        table = build_described(description, vocabularies, tensors, options)
        table.load_state_dict(tensors)
    return table


def describe_table(table: EmbeddingTable) -> dict[str, Any]:
    """What :func:`build_described` needs beside vocabularies and tensors, as plain data."""
    return {
        "method": table.method,
        "embedding_dim": table.embedding_dim,
        "config": config_to_json(table.config),
        "unseen": table.options.unseen,
    }


def build_described(
    description: Mapping[str, Any],
    vocabularies: Sequence[Vocabulary],
    tensors: Mapping[str, Tensor],
    options: TableOptions | None = None,
) -> EmbeddingTable:
    """The table that a file describes, in the dtype that its rows have there; its tensors are not loaded yet.

    Args:
        description: of :func:`describe_table`.
        vocabularies: what the table serves.
        tensors: of the file, by their names in the state dict of the table or of a model that holds it.
        options: device and gradient; dtype and unseen ids are the file's.
    """
    stored = next((t.dtype for name, t in tensors.items() if _ROWS.search(name)), None)
    options = replace(options or TableOptions(), unseen=description.get("unseen"))
    options = options if stored is None else replace(options, dtype=stored)
    config = config_from_json(description["method"], description["config"])
    return build_table(description["method"], vocabularies, description["embedding_dim"], config, options)


@contextmanager
def stored_in(path: Path) -> Iterator[None]:
    """While what ``path`` describes is built and filled: an error names the file. Raises ValueError."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:  # such as a method that nobody has registered
        raise ValueError(f"{path}: this rectab cannot build what its metadata describes: {error}") from error
    except RuntimeError as error:
        raise ValueError(f"{path}: tensors do not fit the configuration in its metadata: {error}") from error
