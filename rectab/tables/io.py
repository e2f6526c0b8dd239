"""Save and load tables: safetensors with the configuration in the metadata. No pickle anywhere.

The file holds the tensors of the ledger and nothing else: its size is the ledger's bytes and the header.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rectab.ops import RowStore
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.files import read_file, write_file
from rectab.tables.registry import build_table, config_from_json, config_to_json

__all__ = ["FORMAT_VERSION", "build_described", "describe_table", "load_table", "save_table", "stored_in"]

FORMAT_VERSION = 3


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
        table = build_described(description, vocabularies, options)
        table.load_state_dict(tensors)
    return table


def describe_table(table: EmbeddingTable) -> dict[str, Any]:
    """What :func:`build_described` needs beside vocabularies and tensors, as plain data."""
    return {
        "method": table.method,
        "embedding_dim": table.embedding_dim,
        "config": config_to_json(table.config),
        "unseen": table.options.unseen,
        "rows": _rows_of(table),
    }


def _rows_of(table: EmbeddingTable) -> str:
    """How the rows are held, also after ``table.half()``: the stores are asked before the options."""
    held = {m.format.name for m in table.modules() if isinstance(m, RowStore)} or {table.options.rows}
    if len(held) != 1:
        raise ValueError(f"a file holds the rows of a table in one format; here they are in {', '.join(sorted(held))}")
    return held.pop()


def build_described(
    description: Mapping[str, Any],
    vocabularies: Sequence[Vocabulary],
    options: TableOptions | None = None,
) -> EmbeddingTable:
    """The table that a file describes, its rows held as they are there; its tensors are not loaded yet.

    Args:
        description: of :func:`describe_table`.
        vocabularies: what the table serves.
        options: device and gradient; how rows are held and unseen ids are the file's.
    """
    rows = description.get("rows", "fp32")
    options = replace(options or TableOptions(), unseen=description.get("unseen"), rows=rows)
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
