"""Deltas of run folders: what changed from one to the next, in one checksummed file, and back.

A file of a delta is, one after the other: ``rectab delta 1`` and a line end; the changes of every segment
(:mod:`rectab.training.deltas.segments`); a description in JSON; its length (8 bytes, little endian); and the SHA-256 of
all before it. Where ids move (:mod:`rectab.training.deltas.gone`), those that lost their rows stand before the
description.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from rectab.atomic_file import atomic_file
from rectab.data.storage import atomic_folder
from rectab.training.artifact import MODEL_FILE
from rectab.training.deltas.gone import Moved, moved, read_gone, write_gone
from rectab.training.deltas.layout import is_model, table_of
from rectab.training.deltas.segments import Segment, read_changes, segments_of, write_changes
from rectab.training.finished import RESULT_FILE

__all__ = ["Changes", "FileChanges", "apply_delta", "apply_deltas", "ids_gone", "save_delta"]

_MAGIC = b"rectab delta 1\n"
_TAIL = 8 + 32
_PIECE = 1 << 22


@dataclass(frozen=True)
class FileChanges:
    """Of one file of the new folder.

    Attributes:
        name: of the file.
        bytes: its size.
        changed: bytes of it in chunks that are not as in the old one.
        delta_bytes: what its changes take.
    """

    name: str
    bytes: int
    changed: int
    delta_bytes: int


@dataclass(frozen=True)
class Changes:
    """What a delta holds.

    Attributes:
        files: of the new folder.
        removed: names of the old folder's files that the new one does not have.
        bytes: of the delta's file.
        ids: by vocabulary, how many ids ``came`` to rows of their own and how many are ``gone``; of tables whose ids
            move.
    """

    files: tuple[FileChanges, ...]
    removed: tuple[str, ...]
    bytes: int
    ids: dict[str, dict[str, int]]

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "files": [vars(held) for held in self.files], "removed": list(self.removed)}


def save_delta(since: Path, now: Path, out: Path) -> Changes:
    """Write what makes the folder ``now`` of ``since``; both are run folders. Memory: some tens of megabytes.

    Raises:
        FileExistsError: ``out`` exists.
        FileNotFoundError: one of the folders holds no finished run.
    """
    if out.exists():
        raise FileExistsError(f"{out}: exists already; give another --out, or delete it")
    were, are = _files(since), _files(now)
    with atomic_file(out) as draft, draft.open("wb") as file:
        file.write(_MAGIC)
        written: dict[str, list[str | int]] = {}  # by SHA-256 of a segment, where it stands in the new folder
        entries = [_write_file(since, were.get(name), path, file, written) for name, path in are.items()]
        base = {name: _sha256(path) for name, path in were.items()}
        gone = write_gone(_moved(since, now), file)
        described = json.dumps({"base": base, "files": entries} | ({"gone": gone} if gone else {})).encode()
        file.write(described)
        file.write(len(described).to_bytes(8, "little"))
        file.flush()
        file.write(bytes.fromhex(_sha256(draft)))
    told = tuple(FileChanges(e["name"], e["size"], _sum(e, "changed"), _sum(e, "bytes")) for e in entries)
    ids = {name: {"came": how["came"], "gone": how["gone"]} for name, how in gone.items()}
    return Changes(told, tuple(name for name in were if name not in are), out.stat().st_size, ids)


def ids_gone(delta: Path) -> dict[str, np.ndarray]:
    """By vocabulary, int64 ascending, the ids that lost their rows: caches of vectors must forget them.

    Raises:
        FileNotFoundError: there is no such delta.
        ValueError: it is damaged or no delta.
    """
    described = _read_described(delta)
    with delta.open("rb") as file:
        return read_gone(described.get("gone", {}), file)


def _moved(old: Path, new: Path) -> dict[str, Moved]:
    files = [folder / MODEL_FILE for folder in (old, new)]
    if not all(path.is_file() and is_model(path) for path in files):
        return {}
    return moved(files, [table_of(path) for path in files])


def apply_delta(delta: Path, old: Path, out: Path) -> None:
    """Make the new run folder of the old one; every byte is as it was.

    Raises:
        DataError: ``out`` exists.
        FileNotFoundError: there is no such delta, or ``old`` holds no finished run.
        ValueError: the delta is damaged or no delta, or it was made for another folder than ``old``.
    """
    apply_deltas([delta], old, out)


def apply_deltas(deltas: Sequence[Path], old: Path, out: Path) -> None:
    """Make the last of several run folders, each of which the next delta was made for; ``old`` is before the first.

    Nothing is made unless every delta follows the one before it. Killed, it leaves no folder.

    Raises:
        DataError: ``out`` exists.
        FileNotFoundError: there is no such delta, or ``old`` holds no finished run.
        ValueError: no delta is given, one is damaged or no delta, or was made for another folder than the one before
            makes: out of order, twice, or after one that is missing.
    """
    if not deltas:
        raise ValueError("no delta is given to apply")
    described = [_read_described(delta) for delta in deltas]
    _check_order(deltas, described, old)
    with atomic_folder(out) as draft:
        base = old
        for number, (delta, how) in enumerate(zip(deltas, described, strict=True), 1):
            made = draft if number == len(deltas) else draft / f".{number}"
            made.mkdir(exist_ok=True)
            _make(delta, how, base, made)
            base = made
        for step in draft.glob(".*/"):
            shutil.rmtree(step)


def _check_order(deltas: Sequence[Path], described: Sequence[dict[str, Any]], old: Path) -> None:
    were: dict[str, str] = {name: _sha256(path) for name, path in _files(old).items()}
    before = str(old)
    for delta, how in zip(deltas, described, strict=True):
        for name, digest in how["base"].items():
            if were.get(name) != digest:
                what = "is not the file" if name in were else "is missing; it is one"
                raise ValueError(
                    f"{delta}: was made for another folder than {before}: {name} there {what} that it changes; deltas "
                    "are applied in the order in which they were written, none left out"
                )
        were = {entry["name"]: entry["sha256"] for entry in how["files"]}
        before = f"what {delta} makes"


def _make(delta: Path, described: dict[str, Any], old: Path, made: Path) -> None:
    with delta.open("rb") as file:
        file.seek(len(_MAGIC))
        for entry in described["files"]:
            path = made / entry["name"]
            with path.open("wb") as out:
                for how in entry["segments"]:
                    _apply(how, file, old, made, out)
            if _sha256(path) != entry["sha256"]:
                raise ValueError(f"{delta}: made another {entry['name']} than it was written for; write it again")


def _files(folder: Path) -> dict[str, Path]:
    """The files of a run folder by name, in order; the result, which says that a run is finished, last."""
    if not (folder / RESULT_FILE).is_file():
        raise FileNotFoundError(f"{folder}: holds no finished run (no {RESULT_FILE})")
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    return {name: folder / name for name in [*(n for n in names if n != RESULT_FILE), RESULT_FILE]}


def _write_file(
    old: Path, was: Path | None, now: Path, out: IO[bytes], written: dict[str, list[str | int]]
) -> dict[str, Any]:
    before = {segment.name: segment for segment in segments_of(was)} if was is not None else {}
    parts = []
    for segment in segments_of(now):
        digest = _sha256(now, segment)
        if digest in written:
            parts.append({"how": "copy", "of": written[digest], "bytes": 0, "changed": 0, "length": len(segment)})
            continue
        same = before.get(segment.name)
        source = (was, same) if was is not None and same is not None and len(same) == len(segment) else None
        parts.append({"name": segment.name, **write_changes(source, now, segment, out)})
        if source is not None:
            parts[-1]["of"] = [now.name, source[1].begin, source[1].end]
        if len(segment) > _TAIL:
            written[digest] = [now.name, segment.begin, segment.end]
    return {"name": now.name, "size": now.stat().st_size, "sha256": _sha256(now), "segments": parts}


def _apply(how: dict[str, Any], delta: IO[bytes], old: Path, made: Path, out: IO[bytes]) -> None:
    if how["how"] == "copy":
        out.flush()
        name, begin, end = how["of"]
        for piece in _pieces(made / name, Segment("", begin, end)):
            out.write(piece)
        return
    source = None
    if how["how"] == "changes":
        name, begin, end = how["of"]
        source = (old / name, Segment("", begin, end))
    read_changes(how, delta, source, out)


def _read_described(delta: Path) -> dict[str, Any]:
    """The description of a delta. Raises ValueError if it is damaged, cut off or something else."""
    size = delta.stat().st_size
    with delta.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC or size < len(_MAGIC) + _TAIL:
            raise ValueError(f"{delta}: is no delta of this version of rectab")
        file.seek(size - _TAIL)
        length, digest = int.from_bytes(file.read(8), "little"), file.read(32)
        if digest.hex() != _sha256(delta, Segment("", 0, size - 32)):
            raise ValueError(f"{delta}: is damaged or cut off; copy it again")
        file.seek(size - _TAIL - length)
        described: dict[str, Any] = json.loads(file.read(length))
    return described


def _sha256(path: Path, segment: Segment | None = None) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(path, segment or Segment("", 0, path.stat().st_size)):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(path: Path, segment: Segment) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(segment.begin)
        left = len(segment)
        while left:
            piece = file.read(min(_PIECE, left))
            left -= len(piece)
            yield piece


def _sum(entry: dict[str, Any], key: str) -> int:
    return sum(part[key] for part in entry["segments"])
