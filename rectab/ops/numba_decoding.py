"""Codes of few bits as 16 fp32 lanes: what the kernels of :mod:`rectab.ops.numba_coded` decode rows with."""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from rectab.ops.numba_bits import lanes_of_codes, lanes_of_integers
from rectab.ops.numba_vectors import LANES, lanes_type

__all__ = ["bytes_read", "bytes_to_lanes", "codes_to_lanes"]

_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_HALF = LANES // 2


def _vector(bits, count):
    return ir.VectorType(ir.IntType(bits), count)


@njit(forceinline=True)
def bytes_to_lanes(array, start):
    """int8 ``array.ravel()[start:start + 16]`` of a contiguous array as lanes; it must reach so far."""
    return lanes_of_integers(array.ctypes.data + start)


@intrinsic
def _word_at(context, address):
    def generate(context, builder, signature, arguments):
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()), align=1)

    return types.uint64(types.intp), generate


@intrinsic
def _by_short_words(context, low, high, bits):
    """Two times eight codes, in 32 bits each: faster than the words of 64 of :func:`lanes_of_codes`."""

    def generate(context, builder, signature, arguments):
        number = ir.IntType(32)
        wide = _vector(32, _HALF)

        def splat(value):
            first = builder.insert_element(ir.Constant(wide, ir.Undefined), value, ir.Constant(number, 0))
            return builder.shuffle_vector(first, first, ir.Constant(wide, [0] * _HALF))

        low, high, bits = (builder.trunc(value, number) for value in arguments)
        one = ir.Constant(number, 1)
        mask = splat(builder.sub(builder.shl(one, bits), one))
        shifts = builder.mul(splat(bits), ir.Constant(wide, list(range(_HALF))))
        codes = [builder.and_(builder.lshr(splat(word), shifts), mask) for word in (low, high)]
        both = builder.shuffle_vector(*codes, ir.Constant(_vector(32, LANES), list(range(LANES))))
        return builder.sitofp(both, _FLOATS)

    return lanes_type(types.uint64, types.uint64, types.int64), generate


@njit(forceinline=True)
def codes_to_lanes(array, start, bits):
    """Sixteen codes of so many bits (int64) of uint8 ``array.ravel()[start:]`` as lanes; see :func:`bytes_read`."""
    if bits <= 4:
        word = _word_at(array.ctypes.data + start)
        return _by_short_words(word, word >> np.uint64(8 * bits), bits)
    return lanes_of_codes(array.ctypes.data + start, 0, bits)


@njit(forceinline=True)
def bytes_read(bits):
    """From ``start`` on, by :func:`codes_to_lanes`."""
    return 8 if bits <= 4 else bits + 8
