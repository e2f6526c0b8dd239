"""Small integers as a stream of bits, and ternary digits five to a byte: how every quantised row is held.

A stream is little-endian: code i of b bits takes the bits ``i * b .. i * b + b - 1``, bit 0 being the lowest of byte 0.
A byte of five ternary digits is ``ceil(256 / 243 * (digits read as a number in base 3))``, the first digit the highest:
digit j is then ``((byte * 3**j) mod 256) * 3 >> 8``, which needs neither a division nor a table.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rectab.ops import numba_packing
from rectab.ops.dispatch import is_eager, kernel_name

__all__ = ["MAX_BITS", "pack_codes", "pack_trits", "packed_bytes", "trit_bytes", "unpack_codes", "unpack_trits"]

MAX_BITS = 16
TRITS = 5  # digits in a byte


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of a stream of ``count`` codes."""
    return (count * bits + 7) // 8


def trit_bytes(count: int) -> int:
    """Bytes of ``count`` ternary digits."""
    return (count + TRITS - 1) // TRITS


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """int [*, m] in ``[0, 2**bits)`` -> uint8 [*, packed_bytes(m, bits)]: a stream for every index of the last but one.

    Bits beyond the last code are 0.
    """
    _check_bits(bits)
    if _has_kernel(codes):
        return _pack_by_numba(codes, packed_bytes(codes.shape[-1], bits), bits)
    codes, count = codes.to(torch.int32), codes.shape[-1]
    spread = (codes.unsqueeze(-1) >> torch.arange(bits, device=codes.device, dtype=torch.int32)) & 1
    spread = torch.nn.functional.pad(spread.flatten(-2), (0, packed_bytes(count, bits) * 8 - count * bits))
    weights = 1 << torch.arange(8, device=codes.device, dtype=torch.int32)
    return (spread.unflatten(-1, (packed_bytes(count, bits), 8)) * weights).sum(-1).to(torch.uint8)


def unpack_codes(packed: Tensor, bits: int, count: int) -> Tensor:
    """uint8 [*, packed_bytes(count, bits)] -> int32 [*, count]."""
    _check_bits(bits)
    eight = torch.arange(8, device=packed.device, dtype=torch.int32)
    spread = torch.bitwise_right_shift(packed.to(torch.int32).unsqueeze(-1), eight) & 1
    weights = 1 << torch.arange(bits, device=packed.device, dtype=torch.int32)
    return (spread.flatten(-2)[..., : count * bits].unflatten(-1, (count, bits)) * weights).sum(-1, dtype=torch.int32)


def pack_trits(digits: Tensor) -> Tensor:
    """int [*, m] in 0..2 -> uint8 [*, trit_bytes(m)]."""
    if _has_kernel(digits):
        return _pack_by_numba(digits, trit_bytes(digits.shape[-1]), None)
    padded = torch.nn.functional.pad(digits.to(torch.int32), (0, -digits.shape[-1] % TRITS))
    powers = torch.tensor([81, 27, 9, 3, 1], dtype=torch.int32, device=digits.device)
    number = (padded.unflatten(-1, (trit_bytes(digits.shape[-1]), TRITS)) * powers).sum(-1)
    return ((number * 256 + 242) // 243).to(torch.uint8)


def unpack_trits(packed: Tensor, count: int) -> Tensor:
    """uint8 [*, trit_bytes(count)] -> int32 [*, count]."""
    powers = torch.tensor([1, 3, 9, 27, 81], dtype=torch.int32, device=packed.device)
    digits = ((packed.to(torch.int32).unsqueeze(-1) * powers) & 255) * 3 >> 8
    return digits.flatten(-2)[..., :count]


def _has_kernel(codes: Tensor) -> bool:
    return is_eager(codes) and kernel_name(codes.device) == "numba"


def _pack_by_numba(codes: Tensor, width: int, bits: int | None) -> Tensor:
    """``bits`` None: ternary digits."""
    out = torch.empty(*codes.shape[:-1], width, dtype=torch.uint8)
    streams, packed = (t.reshape(-1, t.shape[-1]).contiguous().numpy() for t in (codes, out))
    if bits is None:
        numba_packing.pack_trits(streams, packed)
    else:
        numba_packing.pack_codes(streams, bits, packed)
    return out


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"codes take 1..{MAX_BITS} bits, got {bits}")
