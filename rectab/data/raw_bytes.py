"""Bytes of raw files: seen through .gz and .zst, cut into whole lines, refused by name where they are no text."""

from __future__ import annotations

import gzip
import hashlib
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from rectab.data.errors import DataError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["PACKED", "checksum", "open_bytes", "read_blocks", "without_packing"]

PACKED = (".gz", ".zst")  # endings of packed files
_BLOCK_BYTES = 1 << 24
_BOM = b"\xef\xbb\xbf"
_UTF_16 = b"\xfe\xff"
_NOT_TEXT = {
    b"\xff\xfe": "is UTF-16 (or UTF-32), which is not read; convert it: iconv -f UTF-16 -t UTF-8",
    _UTF_16: "is UTF-16, which is not read; convert it: iconv -f UTF-16 -t UTF-8",
    b"\x1f\x8b": "is packed by gzip; let its name end in .gz",
    b"\x28\xb5\x2f\xfd": "is packed by zstd; let its name end in .zst",
    b"PK\x03\x04": "is a zip archive (or a spreadsheet); unpack it, or save it as csv",
    b"\xfd7zXZ": "is packed by xz; unpack it",
    b"BZh": "is packed by bzip2; unpack it",
    b"PAR1": "is a parquet file; say kind = 'parquet' in its format",
}


def without_packing(name: str) -> str:
    """A file's name without .gz or .zst."""
    return next((name.removesuffix(ending) for ending in PACKED if name.endswith(ending)), name)


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading bytes, seeing through .gz and .zst."""
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if path.suffix == ".zst":
        return cast("IO[bytes]", zstd.open(path, "rb"))
    return path.open("rb")


def read_blocks(path: Path) -> Iterator[bytes]:
    """Blocks of whole lines, without a byte-order mark; every block ends with a line end, the last one too.

    Raises:
        DataError: if the file is no text of 8 bits, or what packs it is damaged or ends early; names the line reached.
    """
    line = 1
    rest: list[bytes] = []  # pieces of a line that is not yet whole
    is_first = True
    try:
        with open_bytes(path) as file:
            while block := file.read(_BLOCK_BYTES):
                if is_first:
                    block, is_first = _start_of_text(path, block), False
                cut = block.rfind(b"\n") + 1
                if cut:
                    whole = b"".join([*rest, block[:cut]])
                    line += whole.count(b"\n") if path.suffix in PACKED else 0  # it costs time, and only they need it
                    yield whole
                    rest = []
                rest.append(block[cut:])
        if last := b"".join(rest):
            yield last + b"\n"
    except (EOFError, zlib.error, gzip.BadGzipFile, zstd.ZstdError) as error:
        raise DataError(
            f"{path}: damaged {path.suffix.removeprefix('.')} after line {line} ({error}); download it again"
        ) from None


def _start_of_text(path: Path, block: bytes) -> bytes:
    """The first block without its byte-order mark."""
    for magic, what in _NOT_TEXT.items():
        if block.startswith(magic):
            raise DataError(f"{path}: {what}")
    if len(block) >= 8 and any(set(block[begin:64:2]) == {0} for begin in (0, 1)):  # without a mark
        raise DataError(f"{path}: {_NOT_TEXT[_UTF_16]}")
    return block.removeprefix(_BOM)


def checksum(path: Path) -> str:
    """SHA-256 of a file's content, hex; of what is inside, for .gz and .zst (one file may be packed in many ways)."""
    digest = hashlib.sha256()
    with open_bytes(path) as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
