"""What a network reads of an id in place of a row, and the layers it is made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rectab.ops import mix

__all__ = ["Linear", "codes_of"]


def codes_of(seeds: Tensor, count: int) -> Tensor:
    """int64 [*] hashes of ids -> fp32 [*, count] in -1..1, uniform: 16 bits each, four of a 64-bit hash."""
    hashes = mix(seeds.unsqueeze(-1) + torch.arange((count + 3) // 4, device=seeds.device), 0)
    places = torch.arange(0, 64, 16, device=seeds.device)
    bits = torch.bitwise_right_shift(hashes.unsqueeze(-1), places) & 0xFFFF  # ONNX has no >> by a tensor
    return (bits.flatten(-2)[..., :count].float() + 0.5) * 2.0**-15 - 1.0


class Linear(nn.Module):
    """``nn.Linear`` whose values are not drawn twice, nor on the meta device."""

    def __init__(self, inputs: int, outputs: int, device: torch.device | str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, device=device))
        self.bias = nn.Parameter(torch.empty(outputs, device=device))

    def forward(self, values: Tensor) -> Tensor:
        return nn.functional.linear(values, self.weight, self.bias)
