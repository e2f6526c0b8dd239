"""What triton kernels compute with: hashing and stochastic rounding, bit for bit as in torch and numba."""

# Kernels have no type hints: triton infers them.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["hash_row", "mix", "random_fractions", "rounded"]

_MULTIPLIER_1 = tl.constexpr(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = tl.constexpr(0x94D049BB133111EB)


@triton.jit
def mix(value, salt):
    """int64, int64 -> uint64: as :func:`rectab.ops.hashing.mix`."""
    x = value.to(tl.uint64, bitcast=True) + salt.to(tl.uint64, bitcast=True)
    x = (x ^ (x >> 30)) * tl.full((), _MULTIPLIER_1, tl.uint64)
    x = (x ^ (x >> 27)) * tl.full((), _MULTIPLIER_2, tl.uint64)
    return x ^ (x >> 31)


@triton.jit
def hash_row(value, salt, num_rows):
    """int64 -> int64 in ``[0, num_rows)``: as :func:`rectab.ops.hashing.hash_rows`."""
    x = mix(value, salt)
    n = num_rows.to(tl.uint64, bitcast=True)
    low = x & tl.full((), 0xFFFFFFFF, tl.uint64)
    return (((x >> 32) * n + ((low * n) >> 32)) >> 32).to(tl.int64, bitcast=True)


@triton.jit
def _random_bits(row, column, row_dim, salt):
    """int32 in ``[0, 2**16)``: as in :mod:`rectab.ops.rounding`."""
    groups = (row_dim + 3) // 4
    word = mix(row * groups + column // 4, salt)
    return ((word >> ((column % 4) * 16).to(tl.uint64)) & tl.full((), 0xFFFF, tl.uint64)).to(tl.int32)


@triton.jit
def random_fractions(row, column, row_dim, salt):
    """fp32 in ``[0, 1)``: as :func:`rectab.ops.rounding.random_fractions`."""
    return _random_bits(row, column, row_dim, salt).to(tl.float32) * (1.0 / 65536.0)


@triton.jit
def rounded(value, row, column, row_dim, salt, kind: tl.constexpr):
    """fp32 -> the value to store: ``kind`` 0 fp32, 1 bf16, 2 fp16; see :mod:`rectab.ops.rounding`."""
    # One return: the compiler, other than its interpreter, reads on behind an earlier one, and the types would differ.
    if kind == 0:
        stored = value
    else:
        random = _random_bits(row, column, row_dim, salt)
        bits = value.to(tl.int32, bitcast=True)
        if kind == 1:
            stored = ((bits + random) & -0x10000).to(tl.float32, bitcast=True).to(tl.bfloat16)
        else:
            normal = ((bits + (random & 0x1FFF)) & -0x2000).to(tl.float32, bitcast=True)
            subnormal = tl.floor(value * 16777216.0 + random.to(tl.float32) * (1.0 / 65536.0)) * (1.0 / 16777216.0)
            stored = tl.where(tl.abs(value) >= 2.0**-14, normal, subnormal).to(tl.float16)
    return stored
