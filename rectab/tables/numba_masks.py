"""What kernels of id sets compute with: comparisons of many lower bits at once, as bits of a word.

A list of lower bits is uint8 or uint16. Each function becomes a few vector instructions where the processor has them,
and what LLVM makes of it elsewhere.
"""

# mypy misreads numba's decorators, and intrinsics that kernels call.
# mypy: ignore-errors

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from rectab.ops.numba_vectors import INLINE, LANES, index, shuffle

__all__ = ["at_once", "below", "count_bits", "offsets_within"]

_WORD = ir.IntType(64)
_PLACES = ir.VectorType(ir.IntType(32), LANES)


def _splat(builder, value, vector_type):
    first = builder.insert_element(ir.Constant(vector_type, ir.Undefined), value, index(0))
    return shuffle(builder, first, [0] * vector_type.count)


def _load(builder, address, vector_type):
    return builder.load(builder.inttoptr(address, vector_type.as_pointer()), align=vector_type.element.width // 8)


@intrinsic
def count_bits(context, word):
    """uint64 -> int64: how many bits are set."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


def _below_of(bits):
    count, element = 512 // bits, ir.IntType(bits)

    @intrinsic
    def compare(context, address, bound):
        def generate(context, builder, signature, arguments):
            vector_type = ir.VectorType(element, count)
            bound = _splat(builder, builder.trunc(arguments[1], element), vector_type)
            less = builder.icmp_unsigned("<", _load(builder, arguments[0], vector_type), bound)
            return (
                builder.zext(builder.bitcast(less, ir.IntType(count)), _WORD)
                if count < 64
                else builder.bitcast(less, _WORD)
            )

        return types.uint64(types.intp, types.int64), generate

    return compare


def _offsets_of(bits):
    @intrinsic
    def compare(context, address, count, base, length):
        def generate(context, builder, signature, arguments):
            address, *numbers = arguments
            count, base, length = (_splat(builder, builder.trunc(n, ir.IntType(32)), _PLACES) for n in numbers)
            lows = builder.zext(_load(builder, address, ir.VectorType(ir.IntType(bits), LANES)), _PLACES)
            offsets = builder.sub(lows, base)
            inside = builder.icmp_unsigned("<", offsets, length)
            listed = builder.icmp_signed("<", ir.Constant(_PLACES, list(range(LANES))), count)
            ones = builder.shl(
                ir.Constant(_PLACES, [1] * LANES), builder.and_(offsets, ir.Constant(_PLACES, [31] * LANES))
            )
            kept = builder.select(builder.and_(inside, listed), ones, ir.Constant(_PLACES, [0] * LANES))
            function_type = ir.FunctionType(ir.IntType(32), [_PLACES])
            name = f"llvm.vector.reduce.or.v{LANES}i32"
            reduced = builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), [kept])
            return builder.zext(reduced, _WORD)

        return types.uint64(types.intp, types.int64, types.int64, types.int64), generate

    return compare


_below_8, _below_16 = _below_of(8), _below_of(16)
_offsets_8, _offsets_16 = _offsets_of(8), _offsets_of(16)


def at_once(lows):
    """How many of a list :func:`below` compares."""
    raise NotImplementedError


@overload(at_once, jit_options=INLINE)
def _at_once(lows):
    count = 64 if lows.dtype == types.uint8 else 32  # a constant: a division takes longer than a comparison
    return lambda lows: count


def below(lows, place, bound):
    """Bit k: whether ``lows[place + k]`` is below ``bound``; of the 64 bytes from there, which must be in the list."""
    raise NotImplementedError


@overload(below, jit_options=INLINE)
def _below(lows, place, bound):
    compare = _below_8 if lows.dtype == types.uint8 else _below_16
    return lambda lows, place, bound: compare(lows.ctypes.data + place * lows.itemsize, bound)


def offsets_within(lows, place, count, base, length):
    """Bit ``lows[place + k] - base`` for every k below ``count`` where that is in ``0 .. length - 1``; ``length`` is at
    most 16, as many lows from ``place`` on must be in the list, and of these ``count`` are asked about."""
    raise NotImplementedError


@overload(offsets_within, jit_options=INLINE)
def _offsets_within(lows, place, count, base, length):
    compare = _offsets_8 if lows.dtype == types.uint8 else _offsets_16

    def call(lows, place, count, base, length):
        return compare(lows.ctypes.data + place * lows.itemsize, count, base, length)

    return call
