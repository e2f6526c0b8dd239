"""How a prepared data set lies on disk, and how it gets there whole or not at all.

Layout of a prepared folder (all arrays are .npy, read as memory maps; nothing is pickled)::

    schema.json                         version, schema, split sizes, summary, recipe, source checksums, array shapes
    {split}/ids.npy                     int32 or int64 [n, F]   one column per categorical feature
    {split}/dense.npy                   float32 [n, N]
    {split}/labels.npy                  float32 [n]
    {split}/groups.npy                  int64 [n]               only where the recipe has a group
    {split}/probability.npy             float32 [n]             synthetic data only
    {split}/history_{b}.npy             int64 [n, 2]            (start, length) of the row's events of behaviour b
    {split}/history_{b}_time.npy        int64 or float64 [n]    the rows' times, where a sequence of b is a time gap
    histories/{b}_{s}.npy               int32 or int64 [E]      every event of behaviour b once, sequence s of it
                                        int64 or float64 [E]    its time, where the sequence is a time gap
    negatives/{field}.npy               of Candidates           only where an epoch draws its negatives anew
    negatives/ids.npy, dense.npy        as above, [C, J], [C, K] the item's columns, for every item of the catalogue
    vocabularies/{v}_counts.npy         int64 [num_embeddings]
    vocabularies/{v}_ids.npy            int64 [num_embeddings]  hashed vocabularies only
    vocabularies/{v}_values.parquet     raw value -> id

b, s and v are positions in the schema, so no column name ever becomes a file name.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from rectab.atomic_file import naming_full_disk
from rectab.data.errors import DataError
from rectab.plain import parse_json

__all__ = [
    "FORMAT_VERSION",
    "SCHEMA_FILE",
    "SPLITS",
    "ArrayInfo",
    "ArrayWriter",
    "atomic_folder",
    "create_array",
    "open_array",
    "read_description",
]

FORMAT_VERSION = 1
SCHEMA_FILE = "schema.json"
SPLITS = ("train", "valid", "test")
_ZEROS = 1 << 20  # written at a time, where the system cannot set space aside


class ArrayWriter:
    """Creates the arrays of a prepared folder and remembers their shapes for ``schema.json``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrays: dict[str, dict[str, Any]] = {}

    def create(self, name: str, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
        """A zero-filled memory map at ``name``, to be filled in chunks."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.arrays[name] = {"dtype": np.dtype(dtype).name, "shape": list(shape)}
        return create_array(path, dtype, shape)

    def save(self, name: str, array: np.ndarray) -> None:
        """Write a whole array at ``name``."""
        self.create(name, array.dtype, array.shape)[...] = array

    def finish(self, description: dict[str, Any]) -> None:
        """Write ``schema.json``: ``description`` with the version and the shapes of the arrays."""
        content = {"version": FORMAT_VERSION, **description, "arrays": self.arrays}
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        (self.folder / SCHEMA_FILE).write_text(text, encoding="utf-8")


def create_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A zero-filled memory map of a new .npy file whose bytes the disk has set aside.

    Raises:
        OSError: if the disk is full. Without this, a later write to the map would end the process by a signal.
    """
    if 0 in shape:  # a memory map cannot be empty
        np.save(path, np.empty(shape, dtype))
        return np.empty(shape, dtype)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    size = path.stat().st_size
    with path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:  # macOS, Windows
            file.seek(size - array.nbytes)
            for begin in range(0, array.nbytes, _ZEROS):
                file.write(bytes(min(_ZEROS, array.nbytes - begin)))
    return array


@dataclass(frozen=True)
class ArrayInfo:
    """What ``schema.json`` says of an array."""

    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        try:
            np.dtype(self.dtype)
        except TypeError:
            raise ValueError(f"dtype {self.dtype!r} is none of numpy's") from None


def open_array(folder: Path, name: str, expected: ArrayInfo) -> np.ndarray:
    """Open one array as a copy-on-write memory map (so torch may wrap it; the file is never written).

    Raises:
        DataError: if the file is missing, cut short, or not of the shape ``schema.json`` says.
    """
    path = folder / name
    shape, dtype = expected.shape, np.dtype(expected.dtype)
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise DataError(f"{folder / SCHEMA_FILE}: {name!r} is no array of the data set; run `rectab prepare` again")
    try:
        if 0 in shape:  # nothing to map; its header is read, and no memory is taken for what that may say
            with path.open("rb") as file:
                np.lib.format.read_magic(file)
                found, _, kind = np.lib.format.read_array_header_1_0(file)
            array = np.empty(shape if found == shape else (), kind)
        else:
            array = np.load(path, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: missing; the prepared data set is damaged, run `rectab prepare` again") from None
    except (ValueError, OSError, EOFError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); it is damaged or cut short, run `rectab prepare` again"
        ) from None
    if array.shape != shape or array.dtype != dtype:
        raise DataError(
            f"{path}: holds {array.dtype.name} {list(array.shape)}, but schema.json says {dtype.name} {list(shape)}; "
            "run `rectab prepare` again"
        )
    return np.asarray(array)


def read_description(path: Path) -> dict[str, Any]:
    """Read ``schema.json`` of a prepared folder.

    Raises:
        DataError: if there is none, it is no JSON, or it is of another version.
    """
    file = path / SCHEMA_FILE
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; make it with `rectab prepare RECIPE.toml --raw DIR --out {path}`")
    if not file.is_file():
        raise DataError(f"{path}: not a prepared data set (no {SCHEMA_FILE}); make one with `rectab prepare`")
    try:
        description = parse_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file}: not valid JSON ({error}); run `rectab prepare` again") from None
    if not isinstance(description, dict):
        raise DataError(f"{file}: not an object; run `rectab prepare` again")
    version = description.get("version")
    if version != FORMAT_VERSION:
        raise DataError(
            f"{file}: format version {version}, this rectab reads version {FORMAT_VERSION}; run `rectab prepare` again"
        )
    return description


@contextmanager
def atomic_folder(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``out`` that becomes ``out`` when the block ends well, and vanishes otherwise.

    Temporary folders of processes that no longer live (killed in the middle) are removed first.

    Args:
        out: the folder to make.
        overwrite: replace ``out`` if it exists and is a prepared data set; never replaces anything else.

    Raises:
        DataError: if ``out`` exists and may not be replaced.
        DiskFullError: if its disk is full.
    """
    out = out.absolute()
    if out.exists() or out.is_symlink():
        replaceable = out.is_dir() and ((out / SCHEMA_FILE).is_file() or not any(out.iterdir()))
        if not replaceable:
            raise DataError(f"{out}: exists and is not a prepared data set; choose another --out")
        if not overwrite and any(out.iterdir()):
            raise DataError(f"{out}: exists already; choose another --out, or replace it with --overwrite")
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(out)
    folder = out.parent / f".{out.name}.partial-{_process_tag()}-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    try:
        with naming_full_disk(out):
            yield folder
        replaced = out.parent / f".{out.name}.replaced-{_process_tag()}-{uuid.uuid4().hex[:8]}"
        if out.exists():
            out.rename(replaced)
        folder.rename(out)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _process_tag() -> str:
    """Process number and start time: together they name a process even after its number is used again."""
    return f"{os.getpid()}-{int(psutil.Process().create_time())}"


def _remove_stale(out: Path) -> None:
    for kind in ("partial", "replaced"):
        prefix = f".{out.name}.{kind}-"
        for folder in out.parent.iterdir():
            if folder.name.startswith(prefix) and not _is_alive(folder.name[len(prefix) :]):
                shutil.rmtree(folder, ignore_errors=True)


def _is_alive(tag: str) -> bool:
    pid, started = tag.split("-")[:2]
    try:
        return int(psutil.Process(int(pid)).create_time()) == int(started)
    except (psutil.Error, ValueError):
        return False
