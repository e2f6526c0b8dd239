"""What numba kernels compute with: prefetching, copying, hashing, ownership of rows, values by dtype.

A bf16 array reaches numba as uint16 and an fp16 one as int16 (numba knows neither); :func:`load` converts by the type
of the array. Rows are read and stored in blocks: :mod:`rectab.ops.numba_lanes`.
"""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

__all__ = [
    "LOW_16",
    "copy_bytes",
    "copy_row",
    "float_of_bits",
    "half_to_float",
    "load",
    "mix",
    "owner_of",
    "prefetch",
    "prefetch_address",
    "prefetch_element",
    "round_to_bf16",
    "round_to_fp16",
    "spread",
]


@intrinsic
def float_of_bits(context, bits):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def _bits_of_float(context, value):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def prefetch_address(context, address):
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
        prefetch_address(start + line)


def _chunk_copier(size):
    @intrinsic
    def copy_chunk(context, target, source):
        def generate(context, builder, signature, arguments):
            chunk = ir.VectorType(ir.IntType(8), size).as_pointer()
            target, source = (builder.inttoptr(address, chunk) for address in arguments)
            builder.store(builder.load(source, align=1), target, align=1)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp), generate

    return copy_chunk


_copy_64, _copy_32, _copy_16, _copy_8, _copy_2 = (_chunk_copier(size) for size in (64, 32, 16, 8, 2))


@njit(forceinline=True)
def copy_row(source, row, target, to):
    """``target[to] = source[row]``: contiguous arrays of one dtype and width."""
    size = source.shape[1] * source.itemsize
    copy_bytes(source.ctypes.data + row * size, target.ctypes.data + to * size, size)


@njit(forceinline=True)
def copy_bytes(start, end, size):
    """An even number of bytes from the address ``start`` to the address ``end``."""
    at = 0
    while at + 64 <= size:
        _copy_64(end + at, start + at)
        at += 64
    if at + 32 <= size:
        _copy_32(end + at, start + at)
        at += 32
    if at + 16 <= size:
        _copy_16(end + at, start + at)
        at += 16
    if at + 8 <= size:
        _copy_8(end + at, start + at)
        at += 8
    while at < size:
        _copy_2(end + at, start + at)
        at += 2


_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LOW_32 = np.uint64(0xFFFFFFFF)
LOW_16 = np.uint64(0xFFFF)
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


@njit(inline="always")
def prefetch_element(array, index):
    """Ask for the cache line of ``array.ravel()[index]``; any index is harmless."""
    prefetch_address(array.ctypes.data + index * array.itemsize)


# Values of any dtype.


def load(array, row, column):
    """fp32 value of ``array[row, column]``; in kernels only."""
    raise NotImplementedError


@njit(inline="always")
def half_to_float(half):
    bits = np.int32(half) & np.int32(0x7FFF)
    sign = np.float32(-1.0) if half < 0 else np.float32(1.0)
    if bits >= np.int32(0x7C00):  # inf and nan
        return sign * float_of_bits(np.int32((bits << 13) | np.int32(0x7F800000)))
    # The exponent's bias differs by 112; the multiplication also makes subnormals right.
    return sign * (float_of_bits(np.int32(bits << 13)) * np.float32(2.0**112))


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
        return lambda array, row, column: float_of_bits(np.int32(np.uint32(array[row, column]) << np.uint32(16)))
    if array.dtype == types.int16:
        return lambda array, row, column: half_to_float(array[row, column])
    return lambda array, row, column: array[row, column]


@njit(inline="always")
def round_to_bf16(value, random):
    return np.uint16(np.uint32(_bits_of_float(value) + random) >> np.uint32(16))


@njit(inline="always")
def round_to_fp16(value, random):
    if abs(value) >= np.float32(2.0**-14):
        bits = np.int32((_bits_of_float(value) + (random & np.int32(0x1FFF))) & np.int32(-0x2000))
        return _exact_half(float_of_bits(bits))
    scaled = value * np.float32(2.0**24) + np.float32(random) * np.float32(2.0**-16)
    return _exact_half(np.float32(np.floor(scaled)) * np.float32(2.0**-24))
