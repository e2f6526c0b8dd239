"""What a block's payload holds, as numbers: values that may be trained, and codes that point to them.

Formats of payloads are those of :mod:`rectab.quantize.encodings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rectab.ops.packing import pack_codes, unpack_codes
from rectab.quantize.encodings import Bits, Codebook, Encoding, Float16, Shared, Ternary
from rectab.quantize.fitted import halves, integers, scale_of
from rectab.quantize.steps import to_fp16

_KEPT_FROM = 112  # steps of a scale that the largest entry may fall to

__all__ = ["Contents", "payload_of", "read_payload"]


@dataclass(frozen=True)
class Contents:
    """Attributes:
    values: fp32. Of a grid: its steps [1, 1], [1, D] or [n, 1]; of codebooks: the centroids [K, width] of every part;
        of a shared vector: [1, D]; of halves: [n, D]; of ``rare``: nothing.
    codes: int32 [n, D] of a grid, [n, parts] of codebooks; None without.
    scale: of centroids that are bytes, as they were held; 0 without. It stays while it serves them well.
    """

    values: tuple[np.ndarray, ...]
    codes: np.ndarray | None = None
    scale: float = 0.0


def read_payload(payload: np.ndarray, encoding: Encoding, num_ids: int, embedding_dim: int) -> Contents:
    """Of a block of ``num_ids`` vectors; payload is uint8 [its bytes]."""
    if isinstance(encoding, (Bits, Ternary)):
        shape = {"block": (1, 1), "dimension": (1, embedding_dim), "row": (num_ids, 1)}[encoding.steps]
        count = shape[0] * shape[1]
        packed = torch.from_numpy(payload[2 * count :].copy())
        codes = encoding.grid.unpack(packed, num_ids * embedding_dim).view(num_ids, embedding_dim)
        return Contents((_floats(payload[: 2 * count]).reshape(shape),), codes.numpy())
    if isinstance(encoding, Shared):
        return Contents((_scaled(payload, embedding_dim)[None],), scale=float(_floats(payload[:2])[0]))
    if isinstance(encoding, Float16):
        return Contents((_floats(payload).reshape(num_ids, embedding_dim),))
    if isinstance(encoding, Codebook):
        return _read_books(payload, encoding, num_ids, embedding_dim)
    return Contents(())


def payload_of(encoding: Encoding, contents: Contents, embedding_dim: int) -> np.ndarray:
    """uint8: the payload that holds what can be held of ``contents``: steps and halves are rounded to fp16, centroids
    to what their encoding has."""
    values, codes = contents.values, contents.codes
    if isinstance(encoding, (Bits, Ternary)):
        assert codes is not None
        stream = encoding.grid.pack(torch.from_numpy(codes).reshape(-1))
        return np.concatenate([halves(to_fp16(values[0])), stream.numpy()])
    if isinstance(encoding, Shared):
        return _entries(values, "int8", contents.scale)
    if isinstance(encoding, Float16):
        return halves(to_fp16(values[0]))
    if isinstance(encoding, Codebook):
        assert codes is not None
        stored = [_entries(values, encoding.entries, contents.scale)]
        if encoding.code_bits:
            stored.append(pack_codes(torch.from_numpy(codes).reshape(-1), encoding.code_bits).numpy())
        return np.concatenate(stored)
    return np.zeros(0, np.uint8)


def _read_books(payload: np.ndarray, encoding: Codebook, num_ids: int, embedding_dim: int) -> Contents:
    parts, count = encoding.parts(embedding_dim), encoding.num_codes * embedding_dim
    int8 = encoding.entries == "int8"
    size = 2 + count if int8 else 2 * count
    entries = _scaled(payload, count) if int8 else _floats(payload[:size])
    widths = [min(encoding.sub_dim, embedding_dim - part * encoding.sub_dim) for part in range(parts)]
    ends = np.cumsum([encoding.num_codes * width for width in widths])[:-1]
    books = [book.reshape(encoding.num_codes, -1) for book in np.split(entries, ends)]
    if encoding.code_bits:
        codes = unpack_codes(torch.from_numpy(payload[size:].copy()), encoding.code_bits, num_ids * parts)
    else:
        codes = torch.zeros(num_ids * parts, dtype=torch.int32)
    scale = float(_floats(payload[:2])[0]) if int8 else 0.0
    return Contents(tuple(books), codes.view(num_ids, parts).numpy(), scale)


def _floats(payload: np.ndarray) -> np.ndarray:
    return payload.copy().view("<f2").astype(np.float32)


def _scaled(payload: np.ndarray, count: int) -> np.ndarray:
    """Signed bytes times the half before them."""
    return payload[2 : 2 + count].view(np.int8).astype(np.float32) * _floats(payload[:2])


def _entries(books: Sequence[np.ndarray], kind: str, scale: float) -> np.ndarray:
    entries = np.concatenate([book.reshape(-1) for book in books])
    if kind == "fp16":
        return halves(to_fp16(entries))
    largest = float(np.abs(entries).max())
    kept = _KEPT_FROM * scale <= largest <= 127.25 * scale
    held = np.float32(scale) if kept else scale_of(largest)
    return np.concatenate([halves(np.asarray(held)), integers(entries, held).astype(np.int8).view(np.uint8)])
