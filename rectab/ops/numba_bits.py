"""Sixteen codes, bytes or halves at any byte of memory as fp32 lanes: what kernels over packed rows compute with."""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from rectab.ops.numba_values import float_of_bits, half_to_float
from rectab.ops.numba_vectors import LANES, lanes_type

__all__ = [
    "bit_length",
    "byte",
    "copy_8",
    "half",
    "lanes_of_bytes",
    "lanes_of_codes",
    "lanes_of_halves",
    "lanes_of_integers",
    "lanes_of_short_codes",
    "long_word",
    "put_lanes",
    "put_word",
    "single",
    "take_lanes",
    "word",
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


def _number_of(bits, kind, text):
    @intrinsic
    def load(context, address):
        def generate(context, builder, signature, arguments):
            loaded = _load(builder, arguments[0], ir.IntType(bits))
            return builder.zext(loaded, ir.IntType(64)) if bits < 64 else loaded

        return kind(types.intp), generate

    load.__doc__ = text
    return load


byte = _number_of(8, types.int64, "The byte at ``address``.")
word = _number_of(32, types.int64, "The 32 bits at ``address``.")
long_word = _number_of(64, types.uint64, "The 64 bits at ``address``.")
_short = _number_of(16, types.int64, "The 16 bits at ``address``.")


@njit(forceinline=True)
def half(address):
    """fp32 of the fp16 at ``address``."""
    return half_to_float(np.int16(_short(address)))


@njit(forceinline=True)
def single(address):
    """The fp32 at ``address``."""
    return float_of_bits(np.int32(word(address)))


@intrinsic
def bit_length(context, number):
    """Of an integer that is not negative: 0 for 0, 3 for 4 to 7."""

    def generate(context, builder, signature, arguments):
        word, no = ir.IntType(64), ir.Constant(ir.IntType(1), 0)
        kind = ir.FunctionType(word, [word, ir.IntType(1)])
        zeros = builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.ctlz.i64"), [arguments[0], no])
        return builder.sub(ir.Constant(word, 64), zeros)

    return types.int64(types.int64), generate


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
    """Codes of 1 to 7 bits from bit ``shift`` (0 to 7) of the byte at ``address`` on; reads ``bits + 8`` bytes.

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
def lanes_of_short_codes(context, address, shift, bits):
    """As :func:`lanes_of_codes`, in words of 32 bits, which is faster: ``shift + 8 * bits`` must be 32 at most."""

    def generate(context, builder, signature, arguments):
        address, shift, bits = arguments
        word32, eight = ir.IntType(32), ir.VectorType(ir.IntType(32), 8)
        shift, step = builder.trunc(shift, word32), builder.trunc(bits, word32)
        steps = builder.mul(ir.Constant(eight, list(range(8))), _splat(builder, step, 8))
        shifts = builder.add(steps, _splat(builder, shift, 8))
        one = ir.Constant(word32, 1)
        mask = _splat(builder, builder.sub(builder.shl(one, step), one), 8)
        halves = [
            builder.and_(builder.lshr(_splat(builder, _load(builder, at, word32), 8), shifts), mask)
            for at in (address, builder.add(address, bits))
        ]
        order = ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(range(LANES)))
        return builder.sitofp(builder.shuffle_vector(*halves, order), _FLOATS)

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


@intrinsic
def copy_8(context, target, source):
    """Copy eight bytes from one address to another."""

    def generate(context, builder, signature, arguments):
        kind = ir.IntType(64)
        target = builder.inttoptr(arguments[0], kind.as_pointer())
        builder.store(_load(builder, arguments[1], kind), target, align=1)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@intrinsic
def put_word(context, address, number):
    """Store 64 bits at ``address``."""

    def generate(context, builder, signature, arguments):
        kind = ir.IntType(64).as_pointer()
        builder.store(arguments[1], builder.inttoptr(arguments[0], kind), align=1)
        return context.get_dummy_value()

    return types.void(types.intp, types.uint64), generate


@intrinsic
def take_lanes(context, address):
    """Sixteen fp32."""

    def generate(context, builder, signature, arguments):
        return _load(builder, arguments[0], _FLOATS)

    return lanes_type(types.intp), generate


@intrinsic
def put_lanes(context, address, count, value):
    """Store the first ``count`` lanes (all, if there are fewer) at ``address`` as fp32, in pieces of 8, 4, 2 and 1."""

    def generate(context, builder, signature, arguments):
        address, count, value = arguments
        number, word32 = count.type, ir.IntType(32)
        place, left = (cgutils.alloca_once_value(builder, held) for held in (address, value))

        def put(lanes):
            kind = ir.VectorType(ir.FloatType(), lanes)
            part = builder.shuffle_vector(
                builder.load(left), value, ir.Constant(ir.VectorType(word32, lanes), list(range(lanes)))
            )
            at = builder.load(place)
            builder.store(part, builder.inttoptr(at, kind.as_pointer()), align=4)
            builder.store(builder.add(at, ir.Constant(at.type, 4 * lanes)), place)

        whole = builder.icmp_signed(">=", count, ir.Constant(number, LANES))
        with builder.if_else(whole) as (all_of_them, some):
            with all_of_them:
                put(LANES)
            with some:
                for lanes in (8, 4, 2, 1):
                    asked = builder.and_(count, ir.Constant(number, lanes))
                    with builder.if_then(builder.icmp_signed("!=", asked, ir.Constant(number, 0))):
                        put(lanes)
                        order = [min(k + lanes, LANES - 1) for k in range(LANES)]
                        rest = builder.shuffle_vector(
                            builder.load(left), value, ir.Constant(ir.VectorType(word32, LANES), order)
                        )
                        builder.store(rest, left)
        return context.get_dummy_value()

    return types.void(types.intp, types.int64, lanes_type), generate
