"""What numba kernels compute with: prefetching, hashing, ownership of rows, loads and stores by dtype.

A bf16 array reaches numba as uint16 and an fp16 one as int16 (numba knows neither); :func:`load` and :func:`store_row`
convert by the type of the array.
"""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

__all__ = ["load", "mix", "owner_of", "prefetch", "spread", "store_row"]


@intrinsic
def _float_of_bits(context, bits):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def _bits_of_float(context, value):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def _prefetch_address(context, address):
    def generate(context, builder, signature, arguments):
        pointer_type = ir.IntType(8).as_pointer()
        i32 = ir.IntType(32)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [pointer_type, i32, i32, i32]), "llvm.prefetch.p0"
        )
        pointer = builder.inttoptr(arguments[0], pointer_type)
        builder.call(function, [pointer, i32(0), i32(3), i32(1)])
        return context.get_dummy_value()

    return types.void(types.intp), generate


@njit(inline="always")
def prefetch(array, row):
    """Ask for the cache lines of ``array[row]``; any row number is harmless."""
    start = array.ctypes.data + row * array.strides[0]
    for line in range(0, array.strides[0], 64):
        _prefetch_address(start + line)


_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LOW_32 = np.uint64(0xFFFFFFFF)
_LOW_16 = np.uint64(0xFFFF)
_U16 = np.uint64(16)
_U27 = np.uint64(27)
_U30 = np.uint64(30)
_U31 = np.uint64(31)
_U32 = np.uint64(32)


@njit(inline="always")
def mix(value, salt):
    """uint64, uint64 -> uint64: as :func:`rectab.ops.hashing.mix`."""
    x = value + salt
    x = (x ^ (x >> _U30)) * _MULTIPLIER_1
    x = (x ^ (x >> _U27)) * _MULTIPLIER_2
    return x ^ (x >> _U31)


@njit(inline="always")
def spread(row):
    """int64 -> uint64: Fibonacci hashing; its upper bits index hash tables, its lower half picks owners."""
    return np.uint64(row) * _GOLDEN


@njit(inline="always")
def owner_of(spread_row, threads):
    """Which thread alone reads and writes a row."""
    return np.int64(((spread_row & _LOW_32) * np.uint64(threads)) >> _U32)


# Values of any dtype.


def load(array, row, column):
    """fp32 value of ``array[row, column]``; in kernels only."""
    raise NotImplementedError


def store_row(array, row, values, salt):
    """``array[row] = values`` (fp32 [D]), rounded as :mod:`rectab.ops.rounding` does; in kernels only."""
    raise NotImplementedError


@njit(inline="always")
def _half_to_float(half):
    bits = np.int32(half) & np.int32(0x7FFF)
    sign = np.float32(-1.0) if half < 0 else np.float32(1.0)
    if bits >= np.int32(0x7C00):  # inf and nan
        return sign * _float_of_bits(np.int32((bits << 13) | np.int32(0x7F800000)))
    # The exponent's bias differs by 112; the multiplication also makes subnormals right.
    return sign * (_float_of_bits(np.int32(bits << 13)) * np.float32(2.0**112))


@njit(inline="always")
def _exact_half(value):
    """fp32 value that fp16 can hold, or beyond its range -> bits of the fp16."""
    bits = _bits_of_float(value)
    magnitude = bits & np.int32(0x7FFFFFFF)
    sign = np.int32(-0x8000) if bits < 0 else np.int32(0)
    if magnitude > np.int32(0x7F800000):
        half = np.int32(0x7E00)
    elif magnitude >= np.int32(0x47800000):  # 65536 and above
        half = np.int32(0x7C00)
    elif magnitude >= np.int32(0x38800000):  # 2**-14, the smallest normal
        half = (magnitude >> 13) - np.int32(112 << 10)
    else:
        half = np.int32(abs(value) * np.float32(2.0**24))
    return np.int16(half | sign)


@overload(load)
def _load(array, row, column):
    if array.dtype == types.uint16:
        return lambda array, row, column: _float_of_bits(np.int32(np.uint32(array[row, column]) << np.uint32(16)))
    if array.dtype == types.int16:
        return lambda array, row, column: _half_to_float(array[row, column])
    return lambda array, row, column: array[row, column]


@njit(inline="always")
def _round_to_bf16(value, random):
    return np.uint16(np.uint32(_bits_of_float(value) + random) >> np.uint32(16))


@njit(inline="always")
def _round_to_fp16(value, random):
    if abs(value) >= np.float32(2.0**-14):
        bits = np.int32((_bits_of_float(value) + (random & np.int32(0x1FFF))) & np.int32(-0x2000))
        return _exact_half(_float_of_bits(bits))
    scaled = value * np.float32(2.0**24) + np.float32(random) * np.float32(2.0**-16)
    return _exact_half(np.float32(np.floor(scaled)) * np.float32(2.0**-24))


@overload(store_row)
def _store_row(array, row, values, salt):
    if array.dtype == types.float32:

        def store_fp32(array, row, values, salt):
            for j in range(values.size):
                array[row, j] = values[j]

        return store_fp32
    rounded = _round_to_bf16 if array.dtype == types.uint16 else _round_to_fp16

    def store_half(array, row, values, salt):
        groups = (values.size + 3) // 4
        for group in range(groups):
            word = mix(np.uint64(row * groups + group), np.uint64(salt))
            for j in range(group * 4, min(group * 4 + 4, values.size)):
                array[row, j] = rounded(values[j], np.int32(word & _LOW_16))
                word >>= _U16

    return store_half
