"""Records what the DIN attention of FuxiCTR and DeepCTR-Torch computes, for a test that installs neither.

Weights, statistics and inputs are drawn at random (both libraries start with scores near zero), every history is as
long as its batch is wide (no padding), and the modules are in evaluation mode. One file a library:

    .venv-peers/bin/python bench/peers/record_din.py --out tests/fixtures

tests/test_models_din_parity.py copies the weights into rectab's tower and compares.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

DIM, FEATURES, HIDDEN = 4, 2, [6, 5]
WIDTH = DIM * FEATURES
LENGTHS = {5: 3, 2: 2, 1: 2}  # history length -> rows
ACTIVATIONS = ("dice", "prelu", "sigmoid", "relu")
Forward = Callable[[Tensor, Tensor], Tensor]  # query [B, C], keys [B, L, C] -> interest [B, C]


def fuxictr(activation: str, softmax: bool) -> tuple[nn.Module, Forward]:
    """FuxiCTR's layer; its model zoo calls it with the concatenated embeddings of all history features."""
    from fuxictr.pytorch.layers import DIN_Attention

    names = {"dice": "Dice", "prelu": "PReLU", "sigmoid": "Sigmoid", "relu": "ReLU"}
    layer = DIN_Attention(WIDTH, list(HIDDEN), hidden_activations=names[activation], use_softmax=softmax)
    return layer, lambda query, keys: layer(query, keys, torch.ones(keys.shape[:2]))


def deepctr_torch(activation: str, softmax: bool) -> tuple[nn.Module, Forward]:
    """The attention inside DeepCTR-Torch's DIN model with two history features."""
    from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat
    from deepctr_torch.models import DIN

    columns = [SparseFeat(name, 10, embedding_dim=DIM) for name in ("item", "genre")]
    columns += [
        VarLenSparseFeat(SparseFeat(f"hist_{c.name}", 10, embedding_dim=DIM, embedding_name=c.name), 5, length_name="n")
        for c in columns[:FEATURES]
    ]
    model = DIN(
        columns,
        ["item", "genre"],
        att_hidden_size=tuple(HIDDEN),
        att_activation=activation,
        att_weight_normalization=softmax,
    )
    layer = model.attention

    def forward(query: Tensor, keys: Tensor) -> Tensor:
        lengths = torch.full((len(keys), 1), keys.shape[1])
        return layer(query.unsqueeze(1), keys, lengths).squeeze(1)

    return layer, forward


def randomize(module: nn.Module) -> None:
    """Weights that matter, the same linear layers for every case. A batch norm's scale and shift stay 1 and 0: the
    paper's Dice has none."""
    generator = torch.Generator().manual_seed(7)
    linears = [p for m in module.modules() if isinstance(m, nn.Linear) for p in m.parameters()]
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm1d)]
    fixed = {id(p) for p in linears} | {id(p) for norm in norms for p in norm.parameters()}
    for parameter in [*linears, *(p for p in module.parameters() if id(p) not in fixed)]:
        parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    for norm in norms:
        norm.running_mean.copy_(0.3 * torch.randn(norm.num_features, generator=generator))
        norm.running_var.copy_(0.3 + torch.rand(norm.num_features, generator=generator))


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """``linear{i}.weight`` and so on, layers counted from the input; activations keep their own names."""
    found: dict[str, Tensor] = {}
    counts = {"linear": 0, "activation": 0}
    for part in module.modules():
        kind = "linear" if isinstance(part, nn.Linear) else "activation"
        if isinstance(part, nn.Linear):
            own = {"weight": part.weight, "bias": part.bias}
        elif isinstance(part, nn.PReLU):
            own = {"slope": part.weight}
        elif type(part).__name__ == "Dice":
            own = {"alpha": part.alpha.flatten(), "mean": part.bn.running_mean, "var": part.bn.running_var}
        else:
            continue
        found |= {f"{kind}{counts[kind]}.{key}": tensor for key, tensor in own.items()}
        counts[kind] += 1
    return found


@torch.no_grad()
def record(build: Callable[[str, bool], tuple[nn.Module, Forward]]) -> dict[str, np.ndarray]:
    """Inputs by length; linear layers; by activation its own tensors; by activation and weights the interests."""
    generator = torch.Generator().manual_seed(11)
    inputs = {
        length: (torch.randn(rows, WIDTH, generator=generator), torch.randn(rows, length, WIDTH, generator=generator))
        for length, rows in LENGTHS.items()
    }
    arrays = {f"{name}{n}": x for n, given in inputs.items() for name, x in zip(("query", "keys"), given, strict=True)}
    for activation in ACTIVATIONS:
        for weights in ("raw", "softmax"):
            module, forward = build(activation, weights == "softmax")
            randomize(module)
            module.eval()
            for key, tensor in tensors_of(module).items():
                arrays[key if key.startswith("linear") else f"{activation}/{key}"] = tensor
            arrays[f"{activation}/{weights}"] = torch.cat([forward(*given) for given in inputs.values()])
    return {key: tensor.numpy() for key, tensor in arrays.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("tests/fixtures"))
    out = parser.parse_args().out
    for name, build in {"fuxictr": fuxictr, "deepctr_torch": deepctr_torch}.items():
        path = out / f"din_{name}.npz"
        np.savez_compressed(path, **record(build))
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
