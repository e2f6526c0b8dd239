"""Files that appear whole or not at all, however the writer ends."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_file", "remove_drafts", "write_atomic"]

_PARTIAL = ".partial"  # ends the name of the folder in which a file is written before it is moved to its place


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; it is moved to ``path`` when the block ends well, and vanishes otherwise.

    The draft lies in a folder of its own, because libraries write files beside the one they are given (safetensors
    does): what a killed writer leaves behind is all in ``path.partial``, and the next writer of ``path`` removes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.with_name(path.name + _PARTIAL)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    draft = folder / path.name
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader (or a killed writer) never sees half of it."""
    with atomic_file(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def remove_drafts(folder: Path) -> None:
    """Remove what killed writers of files in ``folder`` have left there."""
    for draft in folder.glob(f"*{_PARTIAL}"):
        shutil.rmtree(draft, ignore_errors=True)
