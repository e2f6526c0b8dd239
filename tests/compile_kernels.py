"""Compiles the triton kernels for a GPU that need not be there, and prints how many: of test_ops_triton_compiles.py.

Triton's interpreter takes what its compiler refuses, such as branches that return different types. The compiler needs
no GPU: kernels are launched on CPU tensors, compiled down to machine code of an H100 (sm_90), and not run.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from rectab.ops import dispatch, every_format
from rectab.ops import kernels_triton as kernels
from rectab.ops.replay import Clock
from rectab.ops.step import Step
from rectab.ops.whole_formats import learned_format
from rectab.optim.adagrad import Adagrad
from rectab.optim.adam import Adam
from rectab.optim.sgd import SGD

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROWS, DIM, COUNT = 30, 16, 9
compiled: set[str] = set()


class _Hopper:
    """What the compiler asks a driver."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


def compile_only() -> None:
    """From now on a launch compiles and does not run."""
    driver.set_active(_Hopper())
    run = JITFunction.run

    def compiling(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        assert "cubin" in kernel.asm
        compiled.add(kernel.hash)
        return kernel

    JITFunction.run = compiling
    dispatch.kernel_name = lambda device, kernel="auto": "triton"  # which it would not be on the CPU


def lookups() -> None:
    rows = torch.zeros(COUNT, dtype=torch.int64)
    kernels.address(rows, 1, *(torch.ones(2, dtype=torch.int64) for _ in range(3)))
    for held, read in product(DTYPES, DTYPES):
        kernels.gather(torch.zeros(ROWS, DIM, dtype=held), rows, read)
    kernels.gather(torch.zeros(ROWS, 1), rows, torch.float32)


def row_formats() -> None:
    """Rows of every format and of the served ones, read and written; of one element too, which triton compiles for."""
    rows = torch.arange(COUNT)
    learned = [learned_format(bits, 0.01) for bits in (8, 6, 4)]
    for row_format, dim in product([*every_format(), *learned], (DIM, 1)):
        if row_format.name == "fp64":
            continue
        held = row_format.tensors(ROWS, dim)
        row_format.read(held, rows, dim)
        if row_format.trains:
            row_format.write(held, rows, torch.zeros(COUNT, dim), 3)


def packed() -> None:
    held = (
        torch.zeros(2, 2, dtype=torch.int32),
        torch.zeros(5, 2, dtype=torch.int32),
        torch.zeros(5, dtype=torch.int16),
    )
    ids = torch.zeros(COUNT, dtype=torch.int64)
    for dim in (DIM, 5):
        kernels.packed_lookup(ids, ids, (*held, torch.zeros(99, dtype=torch.uint8)), dim)


def sums() -> None:
    offsets = torch.tensor([0, 4, COUNT])
    for dtype, weighted in product(DTYPES, (True, False)):
        values, weights = torch.zeros(COUNT, DIM, dtype=dtype), torch.zeros(COUNT) if weighted else None
        kernels.segment_sum(values, offsets, weights)
        kernels.spread_bags(values[:2], offsets, COUNT, weights)
        kernels.segment_dot(values[:2], offsets, values)
    for dtype in DTYPES:
        kernels.coalesce([(torch.zeros(COUNT, dtype=torch.int64), torch.zeros(COUNT, DIM, dtype=dtype))], DIM)
    kernels.norm(torch.zeros(COUNT, DIM))


def updates() -> None:
    rules = (
        ("sgd", SGD()), ("adagrad", Adagrad()), ("adagrad", Adagrad(state="element")),
        ("adam", Adam()), ("adam", Adam(bias_correction="step")),
    )  # fmt: skip
    for (name, rule), dtype, shared in product(rules, DTYPES, (True, False)):
        state_dtype = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
        state = rule.new_state(ROWS, DIM, state_dtype, "cpu", replays=False)
        shares = None if shared else torch.ones(ROWS)
        rows, gradients = torch.arange(COUNT), torch.zeros(COUNT, DIM)
        step = Step(rows, gradients, shares, lr=0.1, decay=0.01, number=7, salt=3)
        getattr(kernels, f"{name}_update")(torch.zeros(ROWS, DIM, dtype=dtype), state, step, rule)


def replays() -> None:
    clock = Clock(0.01, 2)
    clock.tick(0.1)
    rules = (("sgd", SGD()), ("adagrad", Adagrad()), ("adagrad", Adagrad(state="element")), ("adam", Adam()))
    for (name, rule), dtype in product(rules, DTYPES):
        state_dtype = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
        state = rule.new_state(ROWS, DIM, state_dtype, "cpu", replays=True)
        state["seen"] = torch.zeros(ROWS, dtype=torch.int32)
        weight = torch.zeros(ROWS, DIM, dtype=dtype)
        getattr(kernels, f"{name}_refresh")(weight, state, torch.arange(COUNT), clock, 3, rule)


if __name__ == "__main__":
    compile_only()
    lookups()
    row_formats()
    packed()
    sums()
    updates()
    replays()
    print(len(compiled))
