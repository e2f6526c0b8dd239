"""A journal of rows before they are written: an undo log in a file, so that rows can be what they were.

One record holds the rows that a step is about to write for the first time since the journal began, as they are then. A
record is in the file before its rows are written, so a process that is killed at any moment leaves rows that can be
taken back; a record that is cut short is of rows that were not written yet.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["RowJournal"]

_HEADER = struct.Struct("<IQ")


class RowJournal:
    """Rows of some stores as they were when it began.

    Memory: a byte a row.

    Args:
        path: of the file; one that is there is gone on with.
        groups: by store, the tensors that its rows are in, first dimension the rows.
        length: bytes of the file that count; None for all whole records.
    """

    def __init__(self, path: Path, groups: Mapping[str, Sequence[Tensor]], length: int | None = None) -> None:
        self.path, self._groups = path, {name: list(tensors) for name, tensors in groups.items()}
        self._names = list(groups)
        self._marks = {n: torch.zeros(len(t[0]), dtype=torch.bool) for n, t in self._groups.items()}
        path.touch()
        self.length = 0
        for name, rows, _, end in self._records(length):
            self._marks[name][rows] = True
            self.length = end
        self._file = path.open("r+b", buffering=0)
        self._file.truncate(self.length)
        self._file.seek(self.length)

    def note(self, name: str, rows: Tensor) -> None:
        """Rows int64 [n] of a store, repeated or not, are about to be written; a row of -1 is none."""
        marks = self._marks[name]
        rows = rows[rows >= 0]
        new = torch.unique(rows[~marks[rows]])
        if not new.numel():
            return
        parts = [_HEADER.pack(self._names.index(name), new.numel()), new.numpy().tobytes()]
        parts += [
            tensor[new].contiguous().view(-1).view(torch.uint8).numpy().tobytes() for tensor in self._groups[name]
        ]
        self.length += self._file.write(b"".join(parts))
        marks[new] = True

    @torch.no_grad()
    def roll_back(self, before: Callable[[str, Tensor], None] | None = None) -> None:
        """Make all rows what they were. ``before`` is told the rows of each record before they are written."""
        for name, rows, values, _ in self._records(None):
            if before is not None:
                before(name, rows)
            for tensor, held in zip(self._groups[name], values, strict=True):
                tensor[rows] = held

    def _records(self, length: int | None) -> Iterator[tuple[str, Tensor, list[Tensor], int]]:
        """(store, rows, what its tensors held there, where the record ends) of every whole record."""
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            end, at = size if length is None else min(size, length), 0
            while at + _HEADER.size <= end:
                file.seek(at)
                index, count = _HEADER.unpack(file.read(_HEADER.size))
                name = self._names[index]
                widths = [tensor[:1].numel() * tensor.element_size() for tensor in self._groups[name]]
                at += _HEADER.size + count * (8 + sum(widths))
                if at > end:
                    return
                rows = torch.frombuffer(bytearray(file.read(8 * count)), dtype=torch.int64)
                values = [
                    torch.frombuffer(bytearray(file.read(count * width)), dtype=tensor.dtype).view(
                        count, *tensor.shape[1:]
                    )
                    for tensor, width in zip(self._groups[name], widths, strict=True)
                ]
                yield name, rows, values, at

    def close(self) -> None:
        """Nothing is noted any longer."""
        self._file.close()

    def remove(self) -> None:
        """Close and delete the file."""
        self.close()
        self.path.unlink(missing_ok=True)
