"""Every triton kernel against the torch reference on the same device, on fresh random inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from bench.gpu_check.comparison import Comparison
from bench.gpu_check.setting import Setting
from rectab.ops import RowStore, address_rows, every_format, formats, segment_sum, spread_bags, use_kernel
from rectab.ops.dispatch import kernels_for
from rectab.optim import RowAdagrad, RowAdam, RowSGD

__all__ = ["bags", "coalescing", "lookups", "updates"]

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_DECAY = 0.02
_OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": RowSGD,
    "adagrad, row": RowAdagrad,
    "adagrad, element": partial(RowAdagrad, state="element"),
    "adam": RowAdam,
    "adam, by step": partial(RowAdam, bias_correction="step"),
}


def lookups(setting: Setting) -> list[dict[str, Any]]:
    """Addresses, rows held as floats and rows of every format: the same bits as the reference gives."""
    compared = Comparison()
    count = 300 if setting.dry else 100_000
    for repeat in (1, 3):
        compared.case("addresses", f"repeat {repeat}", partial(_addresses, setting, compared, count, repeat))
    dims = (1, 5, 16) if setting.dry else (1, 5, 8, 16, 64, 130)
    for dtype, dim in product(_FLOATS, dims):
        compared.case("gather", f"{dtype}, {dim}", partial(_gather, setting, compared, count, dtype, dim))
    for name, dim in product([f.name for f in every_format() if f.name != "fp64"], dims):
        compared.case("formats", f"{name}, {dim}", partial(_format, setting, compared, count, name, dim))
    return compared.rows()


def _addresses(setting: Setting, compared: Comparison, count: int, repeat: int) -> None:
    ids = setting.integers(-(2**62), 2**62, count, 2, 1, number=1).expand(count, 2, repeat).clone()
    ids[:, 1] = ids[:, 1].abs() % 50
    first = torch.tensor([0, 100], device=setting.device).unsqueeze(1)
    num_rows = torch.tensor([100, -50], device=setting.device).unsqueeze(1)
    salt = setting.integers(-(2**62), 2**62, 2, repeat, number=2)
    results = [_under(kernel, lambda: address_rows(ids, salt, first, num_rows)) for kernel in ("torch", "triton")]
    compared.equal("addresses", f"repeat {repeat}", results[1], results[0])


def _gather(setting: Setting, compared: Comparison, count: int, dtype: torch.dtype, dim: int) -> None:
    weight, rows = setting.normal(1000, dim, dtype=dtype), setting.integers(0, 1000, count, number=3)
    for out in (torch.float32, dtype):
        got, expected = (kernels_for(setting.device, k).gather(weight, rows, out) for k in ("triton", "torch"))
        compared.equal("gather", f"{dtype} -> {out}, {dim}", got, expected)


def _format(setting: Setting, compared: Comparison, count: int, name: str, dim: int) -> None:
    store = RowStore(1000, dim, rows=name, device=setting.device)
    store.write(slice(None), setting.normal(1000, dim, number=4))
    rows = setting.integers(0, 1000, count // 4, 4, number=5)
    got, expected = (_under(kernel, lambda: store.read(rows)) for kernel in ("triton", "torch"))
    compared.equal("formats", f"{name}, {dim}", got, expected)


def _under(kernel: Any, call: Callable[[], Tensor]) -> Tensor:
    with use_kernel(kernel):
        return call()


def _sum_dims(setting: Setting) -> tuple[int, ...]:
    return (1, 5) if setting.dry else (1, 16, 130)


def bags(setting: Setting) -> list[dict[str, Any]]:
    """Sums over bags, weighted or not, their spreading and all gradients; one bag holds a third of the values."""
    compared = Comparison()
    for dtype, weighted, dim in product(_FLOATS, (True, False), _sum_dims(setting)):
        check = partial(_bags, setting, compared, dtype, weighted, dim)
        compared.case("bags", f"{dtype}, weighted {weighted}, {dim}", check)
    return compared.rows()


def _bags(setting: Setting, compared: Comparison, dtype: torch.dtype, weighted: bool, dim: int) -> None:
    lengths = setting.integers(0, 9, 20 if setting.dry else 5000, number=6)
    lengths[1] = int(lengths.sum()) // 2
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    results = [_bag_results(setting, kernel, dtype, offsets, weighted, dim) for kernel in ("triton", "torch")]
    for index, (got, expected) in enumerate(zip(*results, strict=True)):
        # A value is allowed what rounding to nearest may cost it, and sums the order of their terms.
        size = expected.double().abs().mean().clamp(min=1.0) * 10 + expected.double().abs()
        allowed = size * (1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps)
        compared.near("bags", f"{dtype}, weighted {weighted}, {dim}, result {index}", got, expected, allowed)


def _bag_results(
    setting: Setting, kernel: Any, dtype: torch.dtype, offsets: Tensor, weighted: bool, dim: int
) -> list[Tensor]:
    """Sums, spread vectors, and the gradients of values, vectors and weights; by torch in fp64."""
    exact = torch.float64 if kernel == "torch" else dtype
    total = int(offsets[-1])
    values = setting.normal(total, dim, number=7, dtype=dtype).to(exact).requires_grad_()
    weights = setting.normal(total, number=8).to(torch.float64 if kernel == "torch" else torch.float32)
    weights = weights.requires_grad_()
    vectors = setting.normal(offsets.numel() - 1, dim, number=9, dtype=dtype).to(exact).requires_grad_()
    outer = setting.normal(offsets.numel() - 1, dim, number=10, dtype=dtype).to(exact)
    inner = setting.normal(total, dim, number=11, dtype=dtype).to(exact)
    with use_kernel(kernel):
        sums = segment_sum(values, offsets, weights if weighted else None)
        spread = spread_bags(vectors, offsets, total)
        ((sums * outer).sum() + (spread * inner).sum()).backward()
    leaves = [values, vectors, weights] if weighted else [values, vectors]
    return [sums.detach(), spread.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def coalescing(setting: Setting) -> list[dict[str, Any]]:
    """Gradients summed by row, of rows drawn evenly and of rows of which one gets a tenth; twice the same bits."""
    compared = Comparison()
    for dtype, hot, dim in product(_FLOATS, (True, False), _sum_dims(setting)):
        check = partial(_coalescing, setting, compared, dtype, hot, dim)
        compared.case("sums by row", f"{dtype}, hot {hot}, {dim}", check)
    return compared.rows()


def _coalescing(setting: Setting, compared: Comparison, dtype: torch.dtype, hot: bool, dim: int) -> None:
    count, num_rows = (400, 50) if setting.dry else (200_000, 30_000)
    case = f"{dtype}, hot {hot}, {dim}"
    rows = setting.integers(0, num_rows, count, number=12)
    if hot:
        rows[: count // 10] = 7
    pending = [(rows, setting.normal(count, dim, number=13, dtype=dtype)), (rows[:9], setting.normal(9, dim))]
    pending = [(r, g.to(dtype)) for r, g in pending]
    kernels = kernels_for(setting.device, "triton")
    all_places, all_sums = kernels.coalesce(pending, dim)
    compared.holds("no sums without a row", case, not bool(all_sums[all_places < 0].any()))
    got_rows, got = all_places[all_places >= 0], all_sums[all_places >= 0]
    all_rows, all_gradients = (torch.cat(parts) for parts in zip(*pending, strict=True))
    exact, size = (
        torch.zeros(num_rows, dim, dtype=torch.float64, device=setting.device).index_add_(0, all_rows, values)
        for values in (all_gradients.double(), all_gradients.double().abs())
    )
    compared.equal("distinct rows", case, got_rows, all_rows.unique())
    compared.near("sums by row", case, got, exact[got_rows], 1e-5 * size[got_rows] + 1e-30)
    compared.equal("the same bits again", case, kernels.coalesce(pending, dim)[1], all_sums)


def updates(setting: Setting) -> list[dict[str, Any]]:
    """Three steps of every row optimizer under every L2, on rows of every format and state of every type."""
    compared = Comparison()
    for optimizer, rows, state, decay, dim in _update_cases(setting):
        case = f"{optimizer}, {rows}, state {state}, {decay}, {dim}"
        compared.case("updates", case, partial(_update, setting, compared, optimizer, rows, state, decay, dim, case))
    return compared.rows()


def _update_cases(setting: Setting) -> Iterator[tuple[str, str, torch.dtype, str, int]]:
    names = [f.name for f in formats() if f.trains and f.name != "fp64"]
    names = names[::2] if setting.dry else names
    for optimizer, rows in product(_OPTIMIZERS, names):
        for number, decay in enumerate(("lazy", "minibatch", "full")):
            state = torch.bfloat16 if rows == "bf16" else torch.float32
            yield optimizer, rows, state, decay, (5, 16, 1)[number] if setting.dry else (64, 5, 16)[number]


def _update(
    setting: Setting, compared: Comparison, optimizer: str, rows: str, state: Any, decay: str, dim: int, case: str
) -> None:
    got, expected = (_updated(setting, kernel, optimizer, rows, state, decay, dim) for kernel in ("triton", "torch"))
    for name, tensor in expected.items():
        floats = name == "values" or tensor.is_floating_point()
        unit = torch.finfo(state).eps if name != "values" and tensor.dtype == state else 0.0
        # A row that was rounded to the other side is penalised for what it is.
        step = _step_of(rows, expected["values"]) * (1.0 if name == "values" else _DECAY)
        allowed = (1e-4 + 2 * unit) * tensor.double().abs().clamp(min=1.0) + 2 * step
        compared.near("updates", f"{case}, {name}", got[name], tensor, allowed if floats else 0.5)
        if (name == "values" and step) or unit:  # a value on a border may be rounded to either side, but seldom
            differs = (got[name].double() - tensor.double()).abs() > 1e-4 * tensor.double().abs().clamp(min=1.0)
            compared.near("rounded otherwise", f"{case}, {name}", differs.double().mean(), torch.zeros(()), 0.05)


def _step_of(rows: str, values: Tensor) -> float:
    """Between neighbouring values of a format, for values up to the largest of ``values``."""
    steps = {"fp32": 0.0, "bf16": 2.0**-7, "fp16": 2.0**-10, "int8": 1 / 127, "int6": 1 / 31, "int4": 1 / 7}
    return steps.get(rows, 1.0) * float(values.abs().max())


def _updated(
    setting: Setting, kernel: Any, optimizer: str, rows: str, state: torch.dtype, decay: str, dim: int
) -> dict[str, Tensor]:
    """Values and state after three steps."""
    num_rows, count = (40, 30) if setting.dry else (20_000, 30_000)
    store = RowStore(num_rows, dim, rows=rows, device=setting.device)
    store.write(slice(None), setting.normal(num_rows, dim, number=14))
    counts = {"t": torch.rand(num_rows, generator=setting.generator(15)) * 9}
    options = {"weight_decay": _DECAY, "decay": decay, "row_counts": counts, "state_dtype": state, "kernel": kernel}
    step = _OPTIMIZERS[optimizer]([("t", store)], 0.1, **options)
    with use_kernel(kernel):
        for number in range(3):
            read = setting.integers(0, num_rows, count, number=20 + number)
            (store(read) * setting.normal(count, dim, number=30 + number)).sum().backward()
            step.step()
        step.catch_up()
        return {"values": store.read(slice(None)), **dict(step.state_tensors())}
