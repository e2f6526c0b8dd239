"""Activations by name, among them Dice with true statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rectab.models.normalization import batch_norm

__all__ = ["ACTIVATIONS", "Dice", "make_activation"]

ACTIVATIONS = ("relu", "prelu", "sigmoid", "dice")


class Dice(nn.Module):
    """Data adaptive activation of DIN (Zhou et al., KDD 2018, section 5.2).

    ``f(s) = p(s) * s + (1 - p(s)) * alpha * s`` with ``p(s) = sigmoid((s - E[s]) / sqrt(Var[s] + eps))``. Mean and
    variance are the batch's in training and running averages in evaluation, so that the output for a row never depends
    on its batch-mates. The input has real positions only (nothing is padded in rectab), hence so have the statistics.

    Args:
        num_units: units H; each has its own alpha, which starts at 0.
        eps: added to the variance, the paper's 1e-8.
        momentum: weight of the newest batch in the running averages.
    """

    def __init__(self, num_units: int, eps: float = 1e-8, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.alpha = nn.Parameter(torch.zeros(num_units))
        self.register_buffer("running_mean", torch.zeros(num_units))
        self.register_buffer("running_var", torch.ones(num_units))

    running_mean: Tensor
    running_var: Tensor

    def forward(self, values: Tensor) -> Tensor:
        """float [N, H] -> [N, H]. One value has no variance: with N <= 1 the running averages serve in training too."""
        gate = torch.sigmoid(
            batch_norm(values, self.running_mean, self.running_var, self.training, self.momentum, self.eps)
        )
        # p s + (1 - p) alpha s = s (alpha + p (1 - alpha))
        return values * torch.addcmul(self.alpha.to(gate.dtype), gate, (1.0 - self.alpha).to(gate.dtype))

    def extra_repr(self) -> str:
        return f"{self.alpha.numel()}, eps={self.eps}, momentum={self.momentum}"


def make_activation(name: str, num_units: int) -> nn.Module:
    """The named activation for ``num_units`` units. Raises ValueError for an unknown name."""
    if name == "relu":
        return nn.ReLU(inplace=True)
    if name == "prelu":
        return nn.PReLU(num_units)
    if name == "sigmoid":
        return nn.Sigmoid()
    if name == "dice":
        return Dice(num_units)
    raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
