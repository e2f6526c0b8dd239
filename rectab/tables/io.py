"""Save and load tables: safetensors with the configuration in the metadata. No pickle anywhere.

The file holds the tensors of the ledger and nothing else: its size is the ledger's bytes and the header.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from rectab.ops import RowStore, float_format
from rectab.plain import read_plain
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.files import read_file, write_file
from rectab.tables.plugins import VARIABLE, module_outside
from rectab.tables.registry import build_table, config_from_json, config_to_json, find_record

__all__ = [
    "FORMAT_VERSION",
    "build_described",
    "build_filled",
    "describe_table",
    "load_table",
    "save_table",
    "stored_in",
]

FORMAT_VERSION = 3

ModuleT = TypeVar("ModuleT", bound=nn.Module)


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
        vocabularies = read_plain(_Vocabularies, description, extra=True).vocabularies
        return build_filled(lambda held: build_described(description, vocabularies, held), tensors, options)


def describe_table(table: EmbeddingTable) -> dict[str, Any]:
    """What :func:`build_described` needs beside vocabularies and tensors, as plain data."""
    module = module_outside(type(table))
    return ({} if module is None else {"module": module}) | {
        "method": table.method,
        "embedding_dim": table.embedding_dim,
        "config": config_to_json(table.config),
        "unseen": table.options.unseen,
        "rows": _rows_of(table),
    }


def _rows_of(table: EmbeddingTable) -> str:
    """How the rows are held, also after ``table.half()``: the stores are asked before the options."""
    if find_record(table.method).without_rows:  # the method chooses by itself
        return table.options.rows
    held = {m.format.name for m in table.modules() if isinstance(m, RowStore)} or {table.options.rows}
    if len(held) != 1:
        raise ValueError(f"a file holds the rows of a table in one format; here they are in {', '.join(sorted(held))}")
    return held.pop()


def build_described(
    description: Any,
    vocabularies: Sequence[Vocabulary],
    options: TableOptions | None = None,
) -> EmbeddingTable:
    """The table that a file describes, its rows held as they are there; its tensors are not loaded yet.

    Args:
        description: of :func:`describe_table`.
        vocabularies: what the table serves.
        options: device and gradient; how rows are held, if the file says it, and unseen ids are the file's.

    Raises:
        ValueError: no such table can be built.
    """
    told = read_plain(_Description, description, extra=True)
    try:
        find_record(told.method)
    except ValueError as error:  # named and not imported: a file must not decide what code runs
        hint = (
            f"; it is of the module {told.module!r}: import it, or set {VARIABLE}={told.module}" if told.module else ""
        )
        raise ValueError(f"{error}{hint}") from None
    asked = options or TableOptions()
    options = replace(asked, unseen=told.unseen, rows=told.rows or asked.rows)  # type: ignore[arg-type]
    config = config_from_json(told.method, told.config)
    return build_table(told.method, vocabularies, told.embedding_dim, config, options)


@dataclass(frozen=True)
class _Description:
    """What a file says of its table, see :func:`describe_table`."""

    method: str
    embedding_dim: int
    config: dict[str, Any]
    unseen: str | None = None
    rows: str | None = None
    module: str | None = None


@runtime_checkable
class Checked(Protocol):
    """A module whose tensors, if they are not what it wrote, would be read outside their bounds."""

    def check_contents(self) -> None:
        """Raises ValueError."""


@dataclass(frozen=True)
class _Vocabularies:
    vocabularies: tuple[Vocabulary, ...]


def build_filled(
    build: Callable[[TableOptions], ModuleT], tensors: Mapping[str, Tensor], options: TableOptions | None = None
) -> ModuleT:
    """What ``build`` makes, with ``tensors`` in it; floats outside of row stores take the dtype of the file.

    Nothing is allocated before names, shapes and dtypes of what was described have been compared with what is there: a
    description is no promise, and a small file may speak of terabytes.

    Args:
        build: of options that name the device.
        tensors: the state dict to load.
        options: as given by the caller; defaults if None.

    Raises:
        RuntimeError: the tensors are not those of the module.
        ValueError: their contents are not.
    """
    options = options or TableOptions()
    with torch.device("meta"):
        described = build(replace(options, device="meta"))
        if rows := _rows_in(described, tensors):  # asked for where the file does not say: it is an early one
            options = replace(options, rows=rows)
            described = build(replace(options, device="meta"))
        _compare(described, tensors)
    module = build(options)
    for name, held in [*module.named_parameters(), *module.named_buffers()]:
        if name in tensors and held.dtype != tensors[name].dtype:
            held.data = held.data.to(tensors[name].dtype)
    module.load_state_dict(tensors)
    for part in module.modules():
        if isinstance(part, Checked):
            part.check_contents()
    return module


def _rows_in(described: nn.Module, stored: Mapping[str, Tensor]) -> str | None:
    """The format of the floats that the file has for the rows; None if it has none, or several."""
    stores = (name for name, module in described.named_modules() if isinstance(module, RowStore))
    found = {stored[f"{name}.weight"].dtype for name in stores if f"{name}.weight" in stored}
    return float_format(found.pop()).name if len(found) == 1 and all(d.is_floating_point for d in found) else None


def _compare(described: nn.Module, stored: Mapping[str, Tensor]) -> None:
    tensors = described.state_dict()
    missing, extra = sorted(tensors.keys() - stored.keys()), sorted(stored.keys() - tensors.keys())
    if missing or extra:
        raise RuntimeError(f"the file lacks {missing} and has {extra} besides")
    stores = tuple(f"{name}." for name, module in described.named_modules() if isinstance(module, RowStore))
    for name, tensor in tensors.items():
        found = stored[name]
        castable = tensor.is_floating_point() and found.is_floating_point() and not name.startswith(stores)
        if tensor.shape != found.shape or (tensor.dtype != found.dtype and not castable):
            wanted = f"{tensor.dtype} {list(tensor.shape)}"
            raise RuntimeError(f"{name} is {found.dtype} {list(found.shape)} there and {wanted} by the description")


@contextmanager
def stored_in(path: Path) -> Iterator[None]:
    """While what ``path`` describes is built and filled: an error names the file. Raises ValueError."""
    try:
        yield
    except (ValueError, OverflowError, TypeError) as error:  # such as a method that nobody has registered
        raise ValueError(f"{path}: this rectab cannot build what its metadata describes: {error}") from error
    except RuntimeError as error:
        raise ValueError(f"{path}: tensors do not fit the configuration in its metadata: {error}") from error
