"""What changed from one run to the next, in words: rows and codes, steps and codebooks, blocks, the dense part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rectab.tables.base import EmbeddingTable
from rectab.tables.quantized import QuantizedTable
from rectab.training.artifact import MODEL_FILE
from rectab.training.deltas.layout import table_of
from rectab.training.deltas.segments import Segment, changed_chunks, segments_of
from rectab.training.ids_file import IDS_FILE

__all__ = ["Part", "what_changed"]


@dataclass(frozen=True)
class Part:
    """A part of a run.

    Attributes:
        name: what it is.
        bytes: of it in the new run.
        changed: how many of them differ; all, where the two runs do not have it alike.
        alike: whether both have it in one layout, so that bytes can be compared.
    """

    name: str
    bytes: int
    changed: int
    alike: bool = True


def what_changed(old: Path, new: Path) -> list[Part]:
    """The parts of the model of ``new`` and of its id map, held against those of ``old``; read a piece at a time.

    Raises:
        FileNotFoundError: a folder holds no model.
        ValueError: a model cannot be read.
    """
    files = [folder / MODEL_FILE for folder in (old, new)]
    tables = [table_of(path) for path in files]
    before, after = ({s.name: s for s in segments_of(path) if s.name} for path in files)
    found: dict[str, Part] = {}
    for name, segment in after.items():
        was = before.get(name)
        alike = was is not None and len(was) == len(segment)
        borders, names = _inside(name, len(segment), tables)
        sizes = np.diff([*borders, len(segment)])
        changed = _changed(files, was, segment, borders) if alike and was is not None else sizes
        for part, size, count in zip(names, sizes, changed, strict=True):
            known = found.get(part, Part(part, 0, 0))
            found[part] = Part(part, known.bytes + int(size), known.changed + int(count), known.alike and alike)
    return [*found.values(), *_id_map(old, new)]


def _inside(name: str, size: int, tables: list[EmbeddingTable]) -> tuple[list[int], list[str]]:
    """(first bytes, names) of the parts of a tensor."""
    if not name.startswith("table."):
        return [0], ["dense part"]
    table = tables[1]
    if not isinstance(table, QuantizedTable):
        return [0], ["table"]
    if name != "table.payload":
        return [0], ["blocks"]
    if [(p.first, p.encoding) for p in table.parts] != [(p.first, p.encoding) for p in getattr(tables[0], "parts", [])]:
        return [0], ["payload of other blocks"]
    borders, names = [], []
    for part in table.parts:
        coded = part.begin + part.encoding.bytes(0, table.embedding_dim)
        if coded > part.begin:
            borders.append(part.begin)
            names.append("steps, codebooks and shared vectors")
        if part.end > coded:
            borders.append(coded)
            names.append("codes")
    return borders, names


def _changed(files: list[Path], was: Segment, now: Segment, borders: list[int]) -> np.ndarray:
    """int64: bytes that differ, by part."""
    counts = np.zeros(len(borders), np.int64)
    for first, difference, _ in changed_chunks(files[0], was, files[1], now):
        places = np.flatnonzero(difference) + first
        counts += np.bincount(np.searchsorted(borders, places, "right") - 1, minlength=len(borders))
    return counts


def _id_map(old: Path, new: Path) -> list[Part]:
    path, was = new / IDS_FILE, old / IDS_FILE
    if not path.is_file():
        return []
    size = path.stat().st_size
    same = was.is_file() and was.read_bytes() == path.read_bytes()
    return [Part("id map", size, 0 if same else size, same)]
