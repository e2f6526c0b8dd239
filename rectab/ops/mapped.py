"""Rows and their state in memory-mapped files: a table that is larger than memory.

While a :class:`MappedFiles` is active, :func:`rectab.ops.memory.empty_rows` gives tensors that lie in its folder. The
system keeps in memory what was touched last and writes the rest back, so that a step pays for the rows it touches and
memory does not see.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rectab.atomic_file import write_atomic
from rectab.plain import parse_json

__all__ = ["MappedFiles", "active_files"]

_ACTIVE: ContextVar[MappedFiles | None] = ContextVar("mapped files", default=None)
_MANIFEST = "rows.json"


def active_files() -> MappedFiles | None:
    """Where rows are to lie that are allocated now; None for memory."""
    return _ACTIVE.get()


class MappedFiles:
    """Tensors in files of a folder, numbered in the order in which they are allocated.

    Args:
        folder: made if need be.
        identity: of what is held, plain data. A folder that was finished with the same is opened again, its tensors
            as they are; one that was not finished starts over.

    Attributes:
        reopened: whether tensors hold what was written before.

    Raises:
        ValueError: the folder holds something else.
    """

    def __init__(self, folder: Path, identity: Any) -> None:
        self.folder, self._identity = folder, json.loads(json.dumps(identity))
        self._made: list[dict[str, Any]] = []
        self._maps: dict[int, np.memmap[Any, Any]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _MANIFEST
        self.reopened = path.exists()
        self._kept = parse_json(path.read_text(encoding="utf-8")) if self.reopened else {}
        if self.reopened and self._kept["identity"] != self._identity:
            raise ValueError(f"{folder}: holds the rows of another run; give another folder, or delete this one")
        if not self.reopened:
            self.remove()

    @contextmanager
    def active(self) -> Iterator[None]:
        """While it lasts, rows are allocated here."""
        token = _ACTIVE.set(self)
        try:
            yield
        finally:
            _ACTIVE.reset(token)

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """A tensor in the next file: zeros, or what it held. Raises ValueError if that was of another shape."""
        number, entry = len(self._made), {"shape": list(shape), "dtype": str(dtype)}
        path = self.folder / f"rows-{number:03d}.bin"
        size = int(np.prod(shape)) * dtype.itemsize
        if self.reopened and number < len(self._kept["tensors"]):
            if self._kept["tensors"][number] != entry or not path.exists() or path.stat().st_size != size:
                raise ValueError(f"{path}: not the rows that {self.folder / _MANIFEST} tells of; delete the folder")
        else:
            with path.open("wb") as file:
                file.truncate(size)
        self._made.append(entry)
        mapped = np.memmap(path, dtype=np.uint8, mode="r+", shape=(size,))
        if hasattr(mmap, "MADV_RANDOM"):  # a row is asked for, not those behind it, which would take others' place
            mapped._mmap.madvise(mmap.MADV_RANDOM)  # type: ignore[attr-defined]
        tensor = torch.from_numpy(mapped).view(dtype).view(*shape)
        self._maps[tensor.data_ptr()] = mapped
        return tensor

    def owns(self, tensor: Tensor) -> bool:
        """Whether a tensor lies here."""
        return tensor.device.type == "cpu" and tensor.data_ptr() in self._maps

    def keep(self) -> None:
        """What is allocated is filled: the folder can be opened again."""
        self.flush()
        text = json.dumps({"identity": self._identity, "tensors": self._made})
        write_atomic(self.folder / _MANIFEST, text)

    def flush(self) -> None:
        """Write what is only in memory to the disk."""
        for mapped in self._maps.values():
            mapped.flush()

    def remove(self) -> None:
        """Delete the files; tensors stay usable as long as somebody holds them."""
        for pattern in (_MANIFEST, "rows-*.bin", "*.journal"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)
