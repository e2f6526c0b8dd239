"""Rows with a scale and a bias each, as torch and FBGEMM hold them for serving; bit for bit what these would write.

==========  ======================================  ===============================================================
layout      bytes of a row                          whose
==========  ======================================  ===============================================================
fused byte  D codes, fp32 scale, fp32 bias          ``torch.ops.quantized.embedding_bag_byte``, FBGEMM
fused       ceil(D b / 8), fp16 scale, fp16 bias    ``torch.ops.quantized.embedding_bag_4bit`` and ``_2bit``, FBGEMM
==========  ======================================  ===============================================================

A number is code * scale + bias, rounded once, as their lookups have it.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fuse", "fuse_bytes", "fused_row_bytes", "lay_out", "scale_and_bias", "unfuse", "unfuse_bytes"]

_TINY = 1e-8  # that torch adds to the range of a row of bytes
_QPARAMS = 4  # bytes of the halves


def fuse_bytes(weight: Tensor) -> Tensor:
    """fp32 [n, D] -> uint8 [n, D + 8]."""
    low = weight.min(1, keepdim=True).values
    spread = weight.max(1, keepdim=True).values - low
    inverse = torch.full_like(spread, 255.0) / (spread + _TINY)  # torch divides a number by way of a reciprocal
    return lay_out(torch.round((weight - low) * inverse).to(torch.uint8), spread / 255.0, low, 8)


def unfuse_bytes(fused: Tensor) -> Tensor:
    """uint8 [n, D + 8] -> fp32 [n, D]."""
    scale, bias = (number.double() for number in scale_and_bias(fused, torch.float32))
    return (fused[:, :-8] * scale + bias).float()


def fused_row_bytes(embedding_dim: int, bits: int) -> int:
    """Bytes of a row of :func:`fuse`."""
    return -(-embedding_dim * bits // 8) + _QPARAMS


def fuse(weight: Tensor, bits: int) -> Tensor:
    """fp32 [n, D] -> uint8 [n, :func:`fused_row_bytes`]; codes of 2, 4 or 8 bits, the first in the lowest bits."""
    bias = weight.min(1, keepdim=True).values.to(torch.float16)
    low = bias.to(torch.float32)
    spread = weight.max(1, keepdim=True).values - low
    scale = torch.where(spread == 0, 1.0, spread / (2**bits - 1)).to(torch.float16).to(torch.float32)
    scale = torch.where(scale == 0, 1.0, scale)  # it was too small for a half
    scale = torch.where(torch.isinf(1.0 / scale), 1.0, scale)
    codes = torch.round((weight - low) * (1.0 / scale)).clamp(0, 2**bits - 1).to(torch.uint8)
    return lay_out(codes, scale.to(torch.float16), bias, bits)


def lay_out(codes: Tensor, scale: Tensor, bias: Tensor, bits: int) -> Tensor:
    """uint8 [n, D] codes, scale and bias [n, 1] of one float type -> uint8 [n, bytes of a row]."""
    a_byte = 8 // bits
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[1] % a_byte)).unflatten(1, (-1, a_byte))
    packed = torch.zeros(padded.shape[:2], dtype=torch.uint8, device=codes.device)
    for place in range(a_byte):
        packed |= padded[:, :, place] << bits * place
    return torch.cat([packed, torch.cat([scale, bias], 1).view(torch.uint8)], 1)


def scale_and_bias(fused: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of the rows, uint8 [n, bytes of a row]: both [n, 1], of the float type that the layout holds them in."""
    held = fused[:, -2 * dtype.itemsize :].clone(memory_format=torch.contiguous_format)  # may begin at any byte
    scale, bias = held.view(dtype).split(1, 1)
    return scale, bias


def unfuse(fused: Tensor, bits: int, embedding_dim: int) -> Tensor:
    """uint8 [n, :func:`fused_row_bytes`] -> fp32 [n, D]."""
    scale, bias = (number.float() for number in scale_and_bias(fused, torch.float16))
    places = torch.arange(0, 8, bits, dtype=torch.uint8, device=fused.device)
    codes = torch.bitwise_right_shift(fused[:, :-_QPARAMS].unsqueeze(-1), places) & (2**bits - 1)
    codes = codes.flatten(1)[:, :embedding_dim]
    return codes.to(torch.float32) * scale + bias
