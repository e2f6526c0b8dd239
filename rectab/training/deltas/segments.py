"""Files as segments: every tensor of a safetensors file is one, so that it is held against the same tensor of another.

A segment that is as long in both files is written as the chunks that changed: which they are, and their bytes xor the
old ones. Codes that stay the same are then zeros within a chunk, which the compression takes away.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

__all__ = ["Segment", "changed_chunks", "read_changes", "segments_of", "write_changes"]

CHUNK = 64
"""Bytes that change or do not."""

_PIECE = 1 << 24  # bytes of a segment in memory at a time; whole chunks
_LEVEL = 6


@dataclass(frozen=True)
class Segment:
    """Bytes ``begin .. end - 1`` of a file.

    Attributes:
        name: of the tensor; empty for what stands before the tensors, or for a file of another kind.
    """

    name: str
    begin: int
    end: int

    def __len__(self) -> int:
        return self.end - self.begin


def segments_of(path: Path) -> list[Segment]:
    """The segments of a file, in order; a file that is no safetensors file is one."""
    size = path.stat().st_size
    if path.suffix != ".safetensors":
        return [Segment("", 0, size)]
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        described: dict[str, Any] = json.loads(file.read(length)) if length <= size - 8 else {}
    first = 8 + length
    spans = sorted((entry["data_offsets"], name) for name, entry in described.items() if name != "__metadata__")
    segments = [Segment(name, first + begin, first + end) for (begin, end), name in spans]
    covered = [Segment("", 0, first), *segments]
    if [s.begin for s in segments] != [s.end for s in covered[:-1]] or covered[-1].end != size:
        raise ValueError(f"{path}: its tensors do not fill it; copy it again")
    return covered


def changed_chunks(old: Path, was: Segment, new: Path, now: Segment) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(first byte within the segment, uint8 [bytes] old xor new, bool [chunks] that changed), a piece at a time."""
    with old.open("rb") as before, new.open("rb") as after:
        before.seek(was.begin)
        after.seek(now.begin)
        for first in range(0, len(now), _PIECE):
            count = min(_PIECE, len(now) - first)
            there, here = (np.frombuffer(file.read(count), np.uint8) for file in (before, after))
            difference = np.bitwise_xor(there, here)
            yield first, difference, np.add.reduceat(difference != 0, np.arange(0, count, CHUNK)) > 0


def write_changes(old: tuple[Path, Segment] | None, new: Path, now: Segment, out: IO[bytes]) -> dict[str, Any]:
    """Write what makes a segment of the old one (of the same length), or of nothing; how it was written."""
    begin, packer, changed = out.tell(), zlib.compressobj(_LEVEL), 0
    if old is None:
        for piece in _pieces(new, now):
            out.write(packer.compress(piece))
        out.write(packer.flush())
        return {"how": "whole", "bytes": out.tell() - begin, "length": len(now), "changed": len(now)}
    marks = []
    for _, difference, chunks in changed_chunks(*old, new, now):
        marks.append(np.packbits(chunks))
        kept = difference[np.repeat(chunks, CHUNK)[: len(difference)]]
        changed += len(kept)
        out.write(packer.compress(kept))
    out.write(packer.flush())
    packed = zlib.compress(np.concatenate(marks).tobytes(), _LEVEL) if marks else b""
    out.write(packed)
    size = out.tell() - begin
    return {"how": "changes", "bytes": size, "marks": len(packed), "length": len(now), "changed": changed}


def read_changes(how: dict[str, Any], delta: IO[bytes], old: tuple[Path, Segment] | None, out: IO[bytes]) -> None:
    """Write the segment that :func:`write_changes` saw; ``delta`` stands at its beginning, and then behind it."""
    begin, marked = delta.tell(), how.get("marks", 0)
    unpacked = _Unpacked(delta, how["bytes"] - marked)
    if old is None:
        for first in range(0, how["length"], _PIECE):
            out.write(unpacked.read(min(_PIECE, how["length"] - first)))
    else:
        delta.seek(begin + how["bytes"] - marked)
        marks = np.frombuffer(zlib.decompress(delta.read(marked)) if marked else b"", np.uint8)
        delta.seek(begin)
        for index, piece in enumerate(_pieces(*old)):
            count, first = -(-len(piece) // CHUNK), index * _PIECE // CHUNK // 8
            chunks = np.unpackbits(marks[first : first + -(-count // 8)], count=count).astype(bool)
            where = np.repeat(chunks, CHUNK)[: len(piece)]
            made = np.frombuffer(piece, np.uint8).copy()
            made[where] ^= np.frombuffer(unpacked.read(int(where.sum())), np.uint8)
            out.write(made.tobytes())
    delta.seek(begin + how["bytes"])


class _Unpacked:
    """A compressed stream, read a part at a time."""

    def __init__(self, file: IO[bytes], packed_bytes: int) -> None:
        self._file, self._left, self._stream, self._held = file, packed_bytes, zlib.decompressobj(), b""

    def read(self, count: int) -> bytes:
        while len(self._held) < count:
            fed = self._stream.unconsumed_tail or self._file.read(min(_PIECE, self._left))
            self._left -= 0 if self._stream.unconsumed_tail else len(fed)
            if not fed:
                raise ValueError("a delta holds fewer bytes than it says")
            self._held += self._stream.decompress(fed, _PIECE)
        found, self._held = self._held[:count], self._held[count:]
        return found


def _pieces(path: Path, segment: Segment) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(segment.begin)
        for first in range(0, len(segment), _PIECE):
            yield file.read(min(_PIECE, len(segment) - first))
