"""Files that appear whole or not at all, however the writer ends."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["DiskFullError", "atomic_file", "naming_full_disk", "remove_drafts", "write_atomic"]

_PARTIAL = ".partial"  # ends the name of the folder in which a file is written before it is moved to its place


_FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFullError(OSError):
    """The disk that something was to be written to is full; nothing half-made is left on it."""


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """What ends because the disk of ``path`` is full, in the words of whichever library, ends as DiskFullError."""
    try:
        yield
    except Exception as error:
        if not _says_full(error):
            raise
        raise DiskFullError(
            f"{path}: no space left on its disk; free some or write elsewhere (nothing half-made is left)"
        ) from error


def _says_full(error: BaseException | None) -> bool:
    """Is this, or what it was raised for, the system's word for a full disk? Rust libraries give it as text only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(os.strerror(code) in str(error) for code in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; it is moved to ``path`` when the block ends well, and vanishes otherwise.

    A full disk is a :class:`DiskFullError`. The draft lies in a folder of its own, because libraries write files beside
    the one they are given (safetensors does): what a killed writer leaves behind is all in ``path.partial``, and the
    next writer of ``path`` removes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.with_name(path.name + _PARTIAL)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    draft = folder / path.name
    try:
        with naming_full_disk(path):
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
