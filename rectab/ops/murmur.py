"""The hash that places ids in slots: MurmurHash3 x64-128 of one 64-bit id, both halves xored, as torchrec has it.

A slot map is of use to torchrec only if both compute the same slots, so this hash has no salt
(``murmur_hash3_2x64(id, 0, 0)`` of FBGEMM's and torchrec's ``common_utils.cuh``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from rectab.ops.hashing import shift_right, wrapped_product, wrapped_sum

__all__ = ["murmur", "unsigned_remainder"]


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


_C1, _C2 = _signed(0x87C37B91114253D5), _signed(0x4CF5AD432745937F)
_F1, _F2 = _signed(0xFF51AFD7ED558CCD), _signed(0xC4CEB9FE1A85EC53)


def _rotated(x: Tensor, bits: int) -> Tensor:
    return (x << bits) | shift_right(x, 64 - bits)


def _finished(x: Tensor) -> Tensor:
    x = wrapped_product(x ^ shift_right(x, 33), _F1)
    x = wrapped_product(x ^ shift_right(x, 33), _F2)
    return x ^ shift_right(x, 33)


def murmur(ids: Tensor) -> Tensor:
    """int64 [*] -> int64 [*], the bits of an unsigned 64-bit hash."""
    mixed = wrapped_product(_rotated(wrapped_product(ids.to(torch.int64), _C1), 31), _C2)
    first = wrapped_sum(wrapped_product(_rotated(mixed, 27), 5), 0x52DCE729)
    second = wrapped_sum(wrapped_product(first, 5), 0x38495AB5)  # the second block is 0
    first, second = first ^ 16, second ^ 16
    first = wrapped_sum(first, second)
    second = wrapped_sum(second, first)
    first, second = _finished(first), _finished(second)
    first = wrapped_sum(first, second)
    return first ^ wrapped_sum(second, first)


def unsigned_remainder(bits: Tensor, divisor: Tensor) -> Tensor:
    """The bits of unsigned 64-bit numbers, int64 [*], modulo int64 divisors in ``1 .. 2^31``, broadcastable."""
    return torch.remainder(torch.remainder(shift_right(bits, 1), divisor) * 2 + (bits & 1), divisor)
