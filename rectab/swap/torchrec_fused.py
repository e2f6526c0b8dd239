"""FBGEMM's fused optimizers over sharded rows: a row is stepped within the backward pass that gives its gradient.

This module needs torchrec.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType  # type: ignore[import-not-found,unused-ignore]
from torch import Tensor

from rectab.swap.torchrec_rows import HeldShard

__all__ = ["FusedRows", "fused_params"]

_KINDS: dict[str, tuple[EmbOptimType, tuple[str, ...], dict[str, Any]]] = {
    "adam": (EmbOptimType.ADAM, ("moment", "square"), {"eps": 1e-8, "beta1": 0.9, "beta2": 0.999}),
    "adagrad": (EmbOptimType.EXACT_ROWWISE_ADAGRAD, ("square",), {"eps": 1e-10}),
    "sgd": (EmbOptimType.EXACT_SGD, (), {}),
}
"""By name, of FBGEMM: the optimizer, what it keeps in the order that it tells it, and its settings."""


def fused_params(name: str, device: torch.device) -> dict[str, Any]:
    """What a torchrec sharder is told of the optimizer. Raises ValueError where FBGEMM has none for the device."""
    if name == "adam" and device.type == "cpu":
        raise ValueError(
            "FBGEMM has no fused Adam on the CPU; use train.row_optimizer 'adagrad' or 'sgd', or leave the fused "
            "optimizer out"
        )
    kind, _, settings = _KINDS[name]
    return {"optimizer": kind, "learning_rate": 0.0, **settings}


class FusedRows(torch.optim.Optimizer):
    """FBGEMM's optimizer of the shards that this process holds, under torch's contract.

    The rules are those of row-wise Adagrad, SGD and Adam as row optimizers have them, with two differences: Adam
    corrects its bias by the steps of the run and not of the row, and a row that two lookups of a step read (a field, a
    history) is stepped for each, not once with their sum, which is another thing for all but SGD.

    Args:
        shards: (name, shard) of every one.
        kind: ``adagrad``, ``sgd`` or ``adam``.
        lr: learning rate; schedulers change it in the parameter group.
    """

    def __init__(self, shards: Sequence[tuple[str, HeldShard]], kind: str, lr: float) -> None:
        self._kernels = {id(held.kernel): held.kernel.emb_module for _, held in shards}
        self._names = _KINDS[kind][1]
        self._shards = dict(shards)
        self.steps = 0
        super().__init__([{"params": [held.store.weight for _, held in shards]}], {"lr": lr})

    @property
    def states(self) -> dict[str, dict[str, Tensor]]:
        """By shard, what is kept for its rows: tensors [n, D] or [n], in FBGEMM's own memory."""
        if not self._names:
            return {name: {} for name in self._shards}
        told = {key: kernel.split_optimizer_states() for key, kernel in self._kernels.items()}
        return {
            name: dict(zip(self._names, told[id(held.kernel)][held.place], strict=True))
            for name, held in self._shards.items()
        }

    def state_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(``shard.key``, tensor) of everything it holds for every row."""
        for name, state in self.states.items():
            yield from ((f"{name}.{key}", tensor) for key, tensor in state.items())

    def begin_lookup(self) -> None:
        """Before a lookup that a backward pass will follow: FBGEMM keeps the rate and the step for that pass."""
        for kernel in self._kernels.values():
            kernel.set_learning_rate(float(self.param_groups[0]["lr"]))
            kernel.iter[0] = self.steps  # a lookup counts as a step there

    def zero_grad(self, set_to_none: bool = True) -> None:
        """There are no gradients."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Rows have been stepped in the backward pass."""
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """As a row optimizer's: ``state`` by ``shard.key``; ``param_groups``; and the number of ``steps``."""
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self.param_groups]
        return {"state": dict(self.state_tensors()), "param_groups": groups, "steps": self.steps}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copy :meth:`state_dict` back. Raises ValueError if it is of other shards or another optimizer."""
        own, given = dict(self.state_tensors()), state_dict["state"]
        if own.keys() != given.keys():
            raise ValueError(f"the state has {sorted(given)}, this optimizer has {sorted(own)}")
        for key, tensor in own.items():
            tensor.copy_(given[key])
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update(saved)
        self.steps = int(state_dict["steps"])
