"""Rows with a scale and a bias each, as torch and FBGEMM hold them for serving; bit for bit what these would write.

==========  ======================================  ===============================================================
layout      bytes of a row                          whose
==========  ======================================  ===============================================================
fused byte  D codes, fp32 scale, fp32 bias          ``torch.ops.quantized.embedding_bag_byte``, FBGEMM
fused       ceil(D b / 8), fp16 scale, fp16 bias    ``torch.ops.quantized.embedding_bag_4bit`` and ``_2bit``, FBGEMM
==========  ======================================  ===============================================================

A number is code * scale + bias.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fuse", "fuse_bytes", "fused_row_bytes", "unfuse", "unfuse_bytes"]

_TINY = 1e-8  # that torch adds to the range of a row of bytes
_QPARAMS = 4  # bytes of the halves


def fuse_bytes(weight: Tensor) -> Tensor:
    """fp32 [n, D] -> uint8 [n, D + 8]."""
    low = weight.min(1, keepdim=True).values
    spread = weight.max(1, keepdim=True).values - low
    inverse = torch.full_like(spread, 255.0) / (spread + _TINY)  # torch divides a number by way of a reciprocal
    codes = torch.round((weight - low) * inverse).to(torch.uint8)
    return torch.cat([codes, torch.cat([spread / 255.0, low], 1).view(torch.uint8)], 1)


def unfuse_bytes(fused: Tensor) -> Tensor:
    """uint8 [n, D + 8] -> fp32 [n, D]."""
    scale, bias = fused[:, -8:].contiguous().view(torch.float32).split(1, 1)
    return fused[:, :-8].to(torch.float32) * scale + bias


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
    a_byte = 8 // bits
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[1] % a_byte)).unflatten(1, (-1, a_byte))
    packed = torch.zeros(padded.shape[:2], dtype=torch.uint8, device=weight.device)
    for place in range(a_byte):
        packed |= padded[:, :, place] << bits * place
    return torch.cat([packed, torch.cat([scale.to(torch.float16), bias], 1).view(torch.uint8)], 1)


def unfuse(fused: Tensor, bits: int, embedding_dim: int) -> Tensor:
    """uint8 [n, :func:`fused_row_bytes`] -> fp32 [n, D]."""
    scale, bias = fused[:, -_QPARAMS:].contiguous().view(torch.float16).to(torch.float32).split(1, 1)
    places = torch.arange(0, 8, bits, dtype=torch.uint8, device=fused.device)
    codes = (fused[:, :-_QPARAMS].unsqueeze(-1) >> places & (2**bits - 1)).flatten(1)[:, :embedding_dim]
    return codes.to(torch.float32) * scale + bias
