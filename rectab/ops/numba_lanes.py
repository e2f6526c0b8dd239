"""Rows in blocks of 16 fp32 lanes: what the numba kernels compute with.

A loop over the elements of a short row is slow where its length is unknown: before every row LLVM checks that no two
arrays overlap. Here a block of a row is one value of a vector type, which LLVM maps to whatever registers there are.
Row kernels keep their results in scratch arrays of whole blocks (:func:`scratch`) until a row is stored.
"""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from rectab.ops.numba_values import LOW_16, copy_row, load, mix, round_to_bf16, round_to_fp16
from rectab.ops.numba_vectors import FLOATS, INLINE, LANES, index, lanes_type, shuffle, splat

__all__ = [
    "expand_lanes",
    "load_lanes",
    "read_block",
    "scratch",
    "store_lanes",
    "store_row",
    "take_row",
    "write_block",
]

_U16 = np.uint64(16)

# Memory.


@intrinsic
def _load_floats(context, address):
    def generate(context, builder, signature, arguments):
        return builder.load(builder.inttoptr(arguments[0], FLOATS.as_pointer()), align=4)

    return lanes_type(types.intp), generate


@intrinsic
def _load_upper_halves(context, address):
    """bf16: the upper halves of fp32."""

    def generate(context, builder, signature, arguments):
        halves, words = (ir.VectorType(ir.IntType(bits), LANES) for bits in (16, 32))
        loaded = builder.load(builder.inttoptr(arguments[0], halves.as_pointer()), align=2)
        shifted = builder.shl(builder.zext(loaded, words), ir.Constant(words, [16] * LANES))
        return builder.bitcast(shifted, FLOATS)

    return lanes_type(types.intp), generate


@intrinsic
def _store_floats(context, address, value):
    def generate(context, builder, signature, arguments):
        builder.store(arguments[1], builder.inttoptr(arguments[0], FLOATS.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.intp, lanes_type), generate


@intrinsic
def expand_lanes(context, address, mask):
    """Lanes: one after another the fp32 from ``address`` on where ``mask`` has a bit, 0 elsewhere. Nothing is read
    behind the last of them."""

    def generate(context, builder, signature, arguments):
        bits = builder.bitcast(builder.trunc(arguments[1], ir.IntType(LANES)), ir.VectorType(ir.IntType(1), LANES))
        pointer = builder.inttoptr(arguments[0], ir.FloatType().as_pointer())
        function_type = ir.FunctionType(FLOATS, [pointer.type, bits.type, FLOATS])
        name = f"llvm.masked.expandload.v{LANES}f32"
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        return builder.call(function, [pointer, bits, ir.Constant(FLOATS, [0.0] * LANES)])

    return lanes_type(types.intp, types.uint64), generate


@intrinsic
def _keep_first(context, value, count):
    """Lanes from ``count`` on become 0."""

    def generate(context, builder, signature, arguments):
        vector, count = arguments
        words = ir.VectorType(ir.IntType(64), LANES)
        first = builder.insert_element(ir.Constant(words, ir.Undefined), count, index(0))
        kept = builder.icmp_signed("<", ir.Constant(words, list(range(LANES))), shuffle(builder, first, [0] * LANES))
        return builder.select(kept, vector, ir.Constant(FLOATS, [0.0] * LANES))

    return lanes_type(lanes_type, types.int64), generate


@intrinsic
def _with_lane(context, value, lane, element):
    def generate(context, builder, signature, arguments):
        return builder.insert_element(arguments[0], arguments[2], arguments[1])

    return lanes_type(lanes_type, types.int64, types.float32), generate


@intrinsic
def _lane(context, value, lane):
    def generate(context, builder, signature, arguments):
        return builder.extract_element(*arguments)

    return types.float32(lanes_type, types.int64), generate


@njit(error_model="numpy")
def _load_one_by_one(array, row, column, count):
    value = splat(np.float32(0.0))
    for k in range(LANES):
        if k < count:
            value = _with_lane(value, np.int64(k), load(array, row, column + k))
    return value


def load_lanes(array, row, column):
    """``array[row, column:column + 16]`` of a contiguous array in fp32, bf16 or fp16; 0 beyond the row's end."""
    raise NotImplementedError


@overload(load_lanes, jit_options=INLINE)
def _load_lanes(array, row, column):
    if array.dtype == types.int16:  # not every processor converts fp16
        return lambda array, row, column: _load_one_by_one(array, row, column, array.shape[1] - column)
    load_block = _load_upper_halves if array.dtype == types.uint16 else _load_floats

    @njit(error_model="numpy")
    def load_tail(array, row, column):
        count, start = array.shape[1] - column, row * array.shape[1] + column
        if start + LANES > array.size:  # a whole block would reach beyond the array
            return _load_one_by_one(array, row, column, count)
        return _keep_first(load_block(array.ctypes.data + start * array.itemsize), count)

    def load_any(array, row, column):
        if column + LANES <= array.shape[1]:
            return load_block(array.ctypes.data + (row * array.shape[1] + column) * array.itemsize)
        return load_tail(array, row, column)

    return load_any


@njit(error_model="numpy")
def _store_tail(array, row, column, value):
    for k in range(LANES):
        if column + k < array.shape[1]:
            array[row, column + k] = _lane(value, np.int64(k))


@njit(**INLINE)
def store_lanes(array, row, column, value):
    """``array[row, column:column + 16] = value`` as far as the row reaches; fp32 and contiguous."""
    if column + LANES <= array.shape[1]:
        _store_floats(array.ctypes.data + (row * array.shape[1] + column) * array.itemsize, value)
    else:
        _store_tail(array, row, column, value)


@njit(**INLINE)
def scratch(row_dim):
    """fp32 zeros in whole blocks, at least ``row_dim`` of them."""
    return np.zeros((row_dim + LANES - 1) // LANES * LANES, dtype=np.float32)


@njit(**INLINE)
def read_block(values, column):
    """Lanes ``values[column:column + 16]`` of a scratch array."""
    return _load_floats(values.ctypes.data + column * values.itemsize)


@njit(**INLINE)
def write_block(values, column, value):
    """``values[column:column + 16] = value`` of a scratch array."""
    _store_floats(values.ctypes.data + column * values.itemsize, value)


def store_row(array, row, values, salt):
    """``array[row] = values`` (a scratch array), rounded as :mod:`rectab.ops.rounding` does; in kernels only."""
    raise NotImplementedError


@overload(store_row, jit_options=INLINE)
def _store_row(array, row, values, salt):
    if array.dtype == types.float32:

        def store_fp32(array, row, values, salt):
            for j in range(0, array.shape[1], LANES):
                store_lanes(array, row, j, read_block(values, j))

        return store_fp32
    rounded = round_to_bf16 if array.dtype == types.uint16 else round_to_fp16

    def store_half(array, row, values, salt):
        row_dim = array.shape[1]
        groups = (row_dim + 3) // 4
        for group in range(groups):
            word = mix(np.uint64(row * groups + group), np.uint64(salt))
            for j in range(group * 4, min(group * 4 + 4, row_dim)):
                array[row, j] = rounded(values[j], np.int32(word & LOW_16))
                word >>= _U16

    return store_half


def take_row(source, row, target, to):
    """``target[to] = source[row]``: of one width, and of one dtype or from halves to fp32; in kernels only."""
    raise NotImplementedError


@overload(take_row, jit_options=INLINE)
def _take_row(source, row, target, to):
    if source.dtype == target.dtype:
        return lambda source, row, target, to: copy_row(source, row, target, to)

    def converted(source, row, target, to):
        for j in range(0, target.shape[1], LANES):
            store_lanes(target, to, j, load_lanes(source, row, j))

    return converted
