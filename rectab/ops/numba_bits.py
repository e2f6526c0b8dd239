"""Sixteen codes, bytes or halves at any byte of memory as fp32 lanes: what kernels over packed rows compute with."""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rectab.ops.numba_vectors import LANES, lanes_type

__all__ = [
    "copy_1",
    "copy_2",
    "copy_4",
    "copy_8",
    "integers_of_words",
    "lanes_of_bytes",
    "lanes_of_codes",
    "lanes_of_halves",
    "lanes_of_integers",
    "load_1",
    "load_2",
    "load_4",
    "load_8",
]

_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_WORDS = ir.VectorType(ir.IntType(32), LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES)


def _splat(builder, value, count):
    kind = ir.VectorType(value.type, count)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count)
    return builder.shuffle_vector(first, first, zeros)


def _load(builder, address, kind):
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


@intrinsic
def lanes_of_integers(context, address):
    """Signed bytes."""

    def generate(context, builder, signature, arguments):
        return builder.sitofp(builder.sext(_load(builder, arguments[0], _BYTES), _WORDS), _FLOATS)

    return lanes_type(types.intp), generate


@intrinsic
def lanes_of_bytes(context, address):
    """Unsigned bytes."""

    def generate(context, builder, signature, arguments):
        return builder.sitofp(builder.zext(_load(builder, arguments[0], _BYTES), _WORDS), _FLOATS)

    return lanes_type(types.intp), generate


@intrinsic
def lanes_of_codes(context, address, shift, bits):
    """Codes of 1 to 6 bits from bit ``shift`` (0 to 7) of the byte at ``address`` on; reads ``bits + 8`` bytes.

    Eight codes of b bits are b bytes, so the second eight begin at the same bit, b bytes on.
    """

    def generate(context, builder, signature, arguments):
        address, shift, bits = arguments
        word64, eight = ir.IntType(64), ir.VectorType(ir.IntType(64), 8)
        steps = builder.mul(ir.Constant(eight, list(range(8))), _splat(builder, bits, 8))
        shifts = builder.add(steps, _splat(builder, shift, 8))
        one = ir.Constant(word64, 1)
        mask = _splat(builder, builder.sub(builder.shl(one, bits), one), 8)
        halves = []
        for at in (address, builder.add(address, bits)):
            codes = builder.and_(builder.lshr(_splat(builder, _load(builder, at, word64), 8), shifts), mask)
            narrow = builder.trunc(codes, ir.VectorType(ir.IntType(32), 8))
            halves.append(builder.sitofp(narrow, ir.VectorType(ir.FloatType(), 8)))
        order = ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(range(LANES)))
        return builder.shuffle_vector(*halves, order)

    return lanes_type(types.intp, types.int64, types.int64), generate


@intrinsic
def lanes_of_halves(context, address):
    """Halves that are finite."""

    def generate(context, builder, signature, arguments):
        loaded = builder.zext(_load(builder, arguments[0], ir.VectorType(ir.IntType(16), LANES)), _WORDS)

        def constant(number):
            return ir.Constant(_WORDS, [number] * LANES)

        sign = builder.shl(builder.and_(loaded, constant(0x8000)), constant(16))
        magnitude = builder.bitcast(builder.shl(builder.and_(loaded, constant(0x7FFF)), constant(13)), _FLOATS)
        # The exponent's bias differs by 112; the multiplication also makes subnormals right.
        value = builder.fmul(magnitude, ir.Constant(_FLOATS, [2.0**112] * LANES))
        return builder.bitcast(builder.or_(builder.bitcast(value, _WORDS), sign), _FLOATS)

    return lanes_type(types.intp), generate


def _copier(size):
    @intrinsic
    def copy(context, target, source):
        def generate(context, builder, signature, arguments):
            kind = ir.IntType(8 * size)
            target = builder.inttoptr(arguments[0], kind.as_pointer())
            builder.store(_load(builder, arguments[1], kind), target, align=1)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp), generate

    return copy


copy_1, copy_2, copy_4, copy_8 = (_copier(size) for size in (1, 2, 4, 8))
"""Copy so many bytes from one address to another."""


def _loader(size):
    @intrinsic
    def load(context, address):
        def generate(context, builder, signature, arguments):
            return builder.zext(_load(builder, arguments[0], ir.IntType(8 * size)), ir.IntType(64))

        return types.uint64(types.intp), generate

    return load


load_1, load_2, load_4, load_8 = (_loader(size) for size in (1, 2, 4, 8))
"""So many bytes at an address, as a number of 64 bits."""


@intrinsic
def integers_of_words(context, low, high):
    """The signed bytes of two numbers of 64 bits, the lowest first."""

    def generate(context, builder, signature, arguments):
        pair, place = ir.Constant(ir.VectorType(ir.IntType(64), 2), ir.Undefined), ir.IntType(32)
        for index, value in enumerate(arguments):
            pair = builder.insert_element(pair, value, ir.Constant(place, index))
        return builder.sitofp(builder.sext(builder.bitcast(pair, _BYTES), _WORDS), _FLOATS)

    return lanes_type(types.uint64, types.uint64), generate
