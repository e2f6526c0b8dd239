"""From the payload of a block to vectors of some of its ids: the reference, in torch, of what kernels do."""

from __future__ import annotations

import torch
from torch import Tensor

from rectab.ops.grids import Grid
from rectab.quantize.encodings import Bits, Codebook, Encoding, Float16, Shared, Ternary

__all__ = ["decode_ids"]


def decode_ids(payload: Tensor, encoding: Encoding, ids: Tensor, num_ids: int, embedding_dim: int) -> Tensor:
    """Vectors of ids within a block.

    Args:
        payload: uint8, the block's own, see :mod:`rectab.quantize.encodings`.
        encoding: of the block; not ``rare``, whose vectors lie in another one.
        ids: int64 [m], in ``0 .. num_ids - 1``.
        num_ids: of the block.
        embedding_dim: D.

    Returns:
        fp32 [m, D].
    """
    if isinstance(encoding, Float16):
        places = ids.unsqueeze(1) * embedding_dim + torch.arange(embedding_dim, device=ids.device)
        return _halves(payload, places)
    if isinstance(encoding, Shared):
        return _integers(payload, 0, embedding_dim).expand(ids.shape[0], embedding_dim)
    if isinstance(encoding, Codebook):
        return _from_books(payload, encoding, ids, embedding_dim)
    assert isinstance(encoding, (Bits, Ternary))
    return _from_grid(payload, encoding, ids, num_ids, embedding_dim)


def _from_grid(payload: Tensor, encoding: Bits | Ternary, ids: Tensor, num_ids: int, embedding_dim: int) -> Tensor:
    count = {"block": 1, "dimension": embedding_dim, "row": num_ids}[encoding.steps]
    dimensions = torch.arange(embedding_dim, device=ids.device)
    codes = _codes(payload[2 * count :], encoding.grid, ids.unsqueeze(1) * embedding_dim + dimensions)
    of_step = {"block": torch.zeros_like(dimensions), "dimension": dimensions, "row": ids.unsqueeze(1)}[encoding.steps]
    return encoding.grid.values(codes, _halves(payload, of_step))


def _codes(packed: Tensor, grid: Grid, places: Tensor) -> Tensor:
    """int32: the codes at ``places`` of a stream."""
    if grid.bits:
        return _bits(packed, grid.bits, places)
    powers = torch.tensor([1, 3, 9, 27, 81], dtype=torch.int32, device=packed.device)
    return ((packed[places // 5].to(torch.int32) * powers[places % 5]) & 255) * 3 >> 8


def _bits(packed: Tensor, bits: int, places: Tensor) -> Tensor:
    """int32: the codes of ``bits`` bits at ``places`` of a stream; a code of up to 16 bits lies in three bytes."""
    first, last = places * bits >> 3, len(packed) - 1
    window = torch.zeros_like(places, dtype=torch.int32)
    for byte in range((bits + 14) // 8):
        window = window | packed[(first + byte).clamp(max=last)].to(torch.int32) << 8 * byte
    return torch.bitwise_right_shift(window, (places * bits & 7).to(torch.int32)) & (1 << bits) - 1


def _from_books(payload: Tensor, encoding: Codebook, ids: Tensor, embedding_dim: int) -> Tensor:
    parts, entries = encoding.parts(embedding_dim), encoding.num_codes * embedding_dim
    size = 2 + entries if encoding.entries == "int8" else 2 * entries
    places = ids.unsqueeze(1) * parts + torch.arange(parts, device=ids.device)
    codes = _bits(payload[size:], encoding.code_bits, places).to(torch.int64)
    found = []
    for part in range(parts):
        first = part * encoding.sub_dim
        width = min(encoding.sub_dim, embedding_dim - first)
        book, dimensions = encoding.num_codes * first, torch.arange(width, device=ids.device)
        entry = book + codes[:, part : part + 1] * width + dimensions
        found.append(_integers(payload, 0, entries)[entry] if encoding.entries == "int8" else _halves(payload, entry))
    return torch.cat(found, 1)


def _integers(payload: Tensor, start: int, count: int) -> Tensor:
    """fp32 [count]: signed bytes times the half before them."""
    scale = _halves(payload[start:], torch.zeros(1, dtype=torch.int64, device=payload.device))
    unsigned = payload[start + 2 : start + 2 + count].to(torch.float32)
    return (unsigned - 256 * (unsigned > 127)) * scale


def _halves(payload: Tensor, places: Tensor) -> Tensor:
    """fp32: the halves at ``places``, counted from the start of the payload, which may lie at any byte; all finite.

    Put together by arithmetic, which is exact: ONNX cannot read bytes as another type.
    """
    low, high = (payload[2 * places + byte].to(torch.int32) for byte in (0, 1))
    exponent, fraction = high >> 2 & 31, (high & 3) << 8 | low
    powers = torch.tensor([2.0 ** (max(e, 1) - 25) for e in range(32)], device=payload.device)
    value = (fraction + 1024 * (exponent > 0)) * powers[exponent.to(torch.int64)]
    return torch.where(high > 127, -value, value)
