"""The vector type of the numba kernels: 16 fp32 lanes as one value, and arithmetic on it.

LLVM maps it to whatever registers there are. Loads and stores are in :mod:`rectab.ops.numba_lanes`.
"""

# Kernels have no type hints: numba infers them, and mypy misreads numba's decorators.
# mypy: ignore-errors

from __future__ import annotations

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

__all__ = [
    "FLOATS",
    "INLINE",
    "LANES",
    "index",
    "lanes_type",
    "multiply_add",
    "shuffle",
    "splat",
    "sqrt_lanes",
    "sum_lanes",
]

LANES = 16
FLOATS = ir.VectorType(ir.FloatType(), LANES)
INLINE = {
    "forceinline": True,
    "error_model": "numpy",
}  # by LLVM: numba's own inliner is slow and stumbles over returns
_FLAGS = ("contract", "reassoc", "nsz")  # as numba_support compiles


class _LanesType(types.Type):
    def __init__(self):
        super().__init__(name=f"float32x{LANES}")


lanes_type = _LanesType()


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, frontend_type):
        super().__init__(manager, frontend_type, FLOATS)


def index(number):
    return ir.Constant(ir.IntType(32), number)


def shuffle(builder, vector, indices):
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(indices)), indices)
    return builder.shuffle_vector(vector, vector, mask)


@intrinsic
def splat(context, value):
    """float32 -> lanes that all hold it."""

    def generate(context, builder, signature, arguments):
        first = builder.insert_element(ir.Constant(FLOATS, ir.Undefined), arguments[0], index(0))
        return shuffle(builder, first, [0] * LANES)

    return lanes_type(types.float32), generate


@intrinsic
def sum_lanes(context, value):
    """The sum over all lanes, in halves: always in the same order."""

    def generate(context, builder, signature, arguments):
        vector, width = arguments[0], LANES
        while width > 1:
            width //= 2
            low, high = (shuffle(builder, vector, list(range(at, at + width))) for at in (0, width))
            vector = builder.fadd(low, high)
        return builder.extract_element(vector, index(0))

    return types.float32(lanes_type), generate


@intrinsic
def sqrt_lanes(context, value):
    """Square root of every lane."""

    def generate(context, builder, signature, arguments):
        function_type = ir.FunctionType(FLOATS, [FLOATS])
        function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.sqrt.v{LANES}f32")
        return builder.call(function, arguments)

    return lanes_type(lanes_type), generate


@intrinsic
def multiply_add(context, value, factor, term):
    """``value * factor + term`` of lanes, rounded once."""

    def generate(context, builder, signature, arguments):
        function_type = ir.FunctionType(FLOATS, [FLOATS] * 3)
        function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.fma.v{LANES}f32")
        return builder.call(function, arguments)

    return lanes_type(lanes_type, lanes_type, lanes_type), generate


def _arithmetic(python_operator, instruction):
    """Let ``python_operator`` take lanes on both sides, or a float32 on one."""

    @intrinsic
    def apply(context, left, right):
        def generate(context, builder, signature, arguments):
            return getattr(builder, instruction)(*arguments, flags=_FLAGS)

        return lanes_type(lanes_type, lanes_type), generate

    @overload(python_operator, jit_options=INLINE)
    def implementation(left, right):
        kinds = (isinstance(left, _LanesType), isinstance(right, _LanesType))
        if kinds == (True, True):
            return lambda left, right: apply(left, right)
        if kinds == (True, False) and right == types.float32:
            return lambda left, right: apply(left, splat(right))
        if kinds == (False, True) and left == types.float32:
            return lambda left, right: apply(splat(left), right)
        return None


for _operator, _instruction in (("add", "fadd"), ("sub", "fsub"), ("mul", "fmul"), ("truediv", "fdiv")):
    _arithmetic(getattr(operator, _operator), _instruction)
