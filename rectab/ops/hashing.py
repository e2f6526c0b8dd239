"""Hashing of id tensors to row numbers: the same rows in torch, numba and triton, on every device.

The mixer is the splitmix64 finaliser (Steele, Lea and Flood, OOPSLA 2014) of ``id + salt`` in wrapping 64-bit
arithmetic; the range reduction is the upper half of ``hash * num_rows`` (Lemire 2019), which has no modulo. The
additive salt matters: a purely multiplicative hash sends id 0 to row 0 under every salt.
"""

from __future__ import annotations

import numpy as np
import torch
import xxhash
from torch import Tensor

from rectab.ops.dispatch import is_eager, kernel_name, kernels_for

__all__ = [
    "MAX_ROWS",
    "address_rows",
    "hash_rows",
    "mix",
    "salt_of",
    "shift_right",
    "unmix",
    "wrapped_product",
    "wrapped_sum",
]

MAX_ROWS = 2**31 - 1
"""Largest ``num_rows`` the range reduction is exact for in signed 64-bit arithmetic."""

_MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - 2**64
_MULTIPLIER_2 = 0x94D049BB133111EB - 2**64
_INVERSE_1 = 0x96DE1B173F119089 - 2**64
_INVERSE_2 = 0x319642B2D24D8EC3
_LOW_32, _LOW_22, _LOW_20 = 0xFFFFFFFF, 0x3FFFFF, 0xFFFFF


def salt_of(seed: int, *parts: str | int) -> int:
    """A signed 64-bit salt from a seed and names, the same on every machine and in every process."""
    text = "/".join([str(seed), *map(str, parts)])
    unsigned = xxhash.xxh64_intdigest(text.encode("utf-8"))
    return unsigned - 2**64 if unsigned >= 2**63 else unsigned


def shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's ``>>`` on int64 is arithmetic, so the sign bits are masked off."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def wrapped_sum(x: Tensor, y: Tensor | int) -> Tensor:
    """int64 [*]: ``x + y`` modulo 2^64.

    A graph that is compiled to C++ must not overflow: compilers take signed numbers not to, and where they know the
    range of ids and salts they have made constants of a hash. There it is computed in parts that cannot.
    """
    if is_eager(x):
        return x + y
    low = (x & _LOW_32) + (y & _LOW_32)
    high = (x >> 32) + (y >> 32) + (low >> 32)
    return _signed(high & _LOW_32, 32) * 2**32 + (low & _LOW_32)


def wrapped_product(x: Tensor, factor: int) -> Tensor:
    """int64 [*]: ``x * factor`` modulo 2^64, see :func:`wrapped_sum`; in parts of 22, 22 and 20 bits."""
    if is_eager(x):
        return x * factor
    x0, x1, x2 = x & _LOW_22, (x >> 22) & _LOW_22, (x >> 44) & _LOW_20
    f0, f1, f2 = factor & _LOW_22, (factor >> 22) & _LOW_22, (factor >> 44) & _LOW_20
    p0 = x0 * f0
    p1 = x0 * f1 + x1 * f0 + (p0 >> 22)
    p2 = x0 * f2 + x1 * f1 + x2 * f0 + (p1 >> 22)
    return _signed(p2 & _LOW_20, 20) * 2**44 + (p1 & _LOW_22) * 2**22 + (p0 & _LOW_22)


def _signed(x: Tensor, bits: int) -> Tensor:
    """A number of so many bits, the highest of them its sign."""
    return (x ^ (1 << (bits - 1))) - (1 << (bits - 1))


def mix(ids: Tensor, salt: Tensor | int) -> Tensor:
    """int64 [*] -> int64 [*]: splitmix64 finaliser of ``ids + salt``, wrapping."""
    x = wrapped_sum(ids.to(torch.int64), salt)
    x = wrapped_product(x ^ shift_right(x, 30), _MULTIPLIER_1)
    x = wrapped_product(x ^ shift_right(x, 27), _MULTIPLIER_2)
    return x ^ shift_right(x, 31)


def unmix(mixed: Tensor, salt: Tensor | int) -> Tensor:
    """int64 [*] -> int64 [*]: the ids that :func:`mix` made these numbers of."""
    x = wrapped_product(mixed ^ shift_right(mixed, 31) ^ shift_right(mixed, 62), _INVERSE_2)
    x = wrapped_product(x ^ shift_right(x, 27) ^ shift_right(x, 54), _INVERSE_1)
    return (x ^ shift_right(x, 30) ^ shift_right(x, 60)) - salt


def hash_rows(ids: Tensor, salt: Tensor | int, num_rows: Tensor | int) -> Tensor:
    """Row numbers in ``[0, num_rows)``.

    Args:
        ids: int64 or int32 [*].
        salt: int64, broadcastable to ``ids``.
        num_rows: int64 in ``[1, MAX_ROWS]``, broadcastable to ``ids``.

    Returns:
        int64 [*].
    """
    fast = _fast_address(ids, salt, 0, num_rows)
    if fast is not None:
        return fast
    x = mix(ids, salt)
    high, low = shift_right(x, 32), x & _LOW_32
    return (high * num_rows + shift_right(low * num_rows, 32)) >> 32


def address_rows(ids: Tensor, salt: Tensor, first_row: Tensor, num_rows: Tensor) -> Tensor:
    """Row numbers of ids whose vocabularies own ranges of a store: hashed into the range, or one row an id.

    Args:
        ids: int64 [*].
        salt: int64, broadcastable to ``ids``.
        first_row: int64 or int32, broadcastable to ``ids``: start of the range.
        num_rows: int64 or int32, broadcastable to ``ids``: rows in the range if positive. If negative, the vocabulary
            is kept whole: its ids ``0 .. -num_rows - 1`` have a row each.

    Returns:
        int64 [*].

    Raises:
        IndexError: an id outside a vocabulary that is kept whole.
    """
    fast = _fast_address(ids, salt, first_row, num_rows)
    if fast is not None:
        return fast
    whole = num_rows < 0
    if is_eager(ids):
        outside = whole & ((ids < 0) | (ids >= -num_rows))
        if bool(outside.any()):
            raise IndexError(f"id {int(ids[outside.expand_as(ids)][0])} is outside its vocabulary")
    return first_row + torch.where(whole, ids, hash_rows(ids, salt, num_rows.abs()))


def _fast_address(ids: Tensor, salt: Tensor | int, first_row: Tensor | int, num_rows: Tensor | int) -> Tensor | None:
    """:func:`address_rows` in one kernel; None where plain torch has to do it (exports, devices without a kernel)."""
    given = [p for p in (salt, first_row, num_rows) if isinstance(p, Tensor)]
    if not is_eager(ids, *given) or kernel_name(ids.device) == "torch":
        return None
    parameters = [
        # Filled on the device: a copy from the host would wait for it.
        p if isinstance(p, Tensor) else torch.full((), p, dtype=torch.int64, device=ids.device)
        for p in (salt, first_row, num_rows)
    ]
    shape = _broadcast(ids.shape, [p.shape for p in parameters])
    inner = shape[len(shape) - max(p.dim() for p in parameters) :]
    ids, repeat = _repeated(ids, shape)
    flat = [p.to(torch.int64).expand(inner).reshape(-1) for p in parameters]
    return kernels_for(ids.device).address(ids, repeat, *flat).view(shape)


def _broadcast(shape: torch.Size, others: list[torch.Size]) -> torch.Size:
    """As ``torch.broadcast_shapes``, which takes as long as a small lookup and imports torch's compiler."""
    if all(other == shape[len(shape) - len(other) :] for other in others):
        return shape
    return torch.Size(np.broadcast_shapes(shape, *others))


def _repeated(ids: Tensor, shape: torch.Size) -> tuple[Tensor, int]:
    """(int64 [n], r): flat ids, each of which fills r consecutive elements of ``shape``."""
    kept = len(shape)
    while kept and ids.dim() == len(shape) and ids.shape[kept - 1] == 1:
        kept -= 1
    if ids.dim() != len(shape) or ids.shape[:kept] != shape[:kept]:
        ids, kept = ids.expand(shape), len(shape)
    return ids.to(torch.int64).reshape(-1), shape[kept:].numel()
