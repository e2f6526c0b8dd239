"""Numba kernels of :mod:`rectab.ops.packing`: integers into a stream of bits, five ternary digits into a byte."""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from rectab.jit import kernel

__all__ = ["pack_codes", "pack_trits"]

_BYTE = np.uint64(255)
_U8 = np.uint64(8)


@kernel
def pack_codes(codes, bits, out):
    """Integers [n, m] into uint8 [n, packed_bytes(m, bits)], a stream a row; bits beyond the last code are 0."""
    step = np.uint64(bits)
    for row in range(codes.shape[0]):
        word, filled, at = np.uint64(0), np.uint64(0), 0
        for i in range(codes.shape[1]):
            word |= np.uint64(codes[row, i]) << filled
            filled += step
            while filled >= _U8:
                out[row, at] = word & _BYTE
                word >>= _U8
                filled -= _U8
                at += 1
        if filled > 0:
            out[row, at] = word & _BYTE


@kernel
def pack_trits(digits, out):
    """Integers [n, m] in 0..2 into uint8 [n, trit_bytes(m)]."""
    for row in range(digits.shape[0]):
        for at in range(out.shape[1]):
            number = np.int64(0)
            for i in range(5 * at, 5 * at + 5):
                number = 3 * number + (np.int64(digits[row, i]) if i < digits.shape[1] else 0)
            out[row, at] = (number * 256 + 242) // 243
