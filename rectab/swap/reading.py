"""How a host's model is called with a batch, and what it gives: one score a row, whatever it returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rectab.quantize.sensitivity import ROWS, evaluating

__all__ = ["Meaning", "Reading", "Taken"]

Meaning = Literal["logits", "probabilities"]

_EDGE = 1e-7
"""Probabilities nearer to 0 or 1 have no exact logit in fp32."""

_ADVICE = "give forward=lambda model, batch: ..., which calls the model and returns its outputs, one a row"


@dataclass(frozen=True)
class Taken:
    """Batches that were read. ``outputs``: fp32 [rows, K], as the model gives them."""

    batches: list[Any]
    outputs: Tensor

    @property
    def rows(self) -> int:
        """How many rows the batches have."""
        return len(self.outputs)


@dataclass(frozen=True)
class Reading:
    """What to do with a batch.

    Attributes:
        forward: ``forward(model, batch)`` gives outputs; None calls the model with the batch.
        outputs: what they are; None tells it from their values.
        loss: ``loss(outputs, batch)`` gives a number or one a row, of whatever ``forward`` returns; sensitivities are
            then those of the loss.
    """

    forward: Callable[[nn.Module, Any], Any] | None = None
    outputs: Meaning | None = None
    loss: Callable[[Any, Any], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.outputs not in (None, "logits", "probabilities"):
            raise ValueError(f"outputs must be 'logits', 'probabilities' or None, got {self.outputs!r}")

    def take(self, model: nn.Module, batches: Iterable[Any]) -> Taken:
        """The first batches, until there are 20,000 rows, and what the model gives for them in evaluation mode.

        Raises:
            ValueError: there is none, the model cannot be called with one, or gives no numbers for its rows.
        """
        taken: list[Any] = []
        outputs: list[Tensor] = []
        with evaluating(model), torch.no_grad():
            for batch in batches:
                taken.append(batch)
                outputs.append(self._of_rows(self._call(model, batch), batch))
                if sum(map(len, outputs)) >= ROWS:
                    break
        if not taken:
            raise ValueError("batches has no batch; give some training rows, or batches=None")
        widths = {output.shape[1] for output in outputs}
        if len(widths) > 1:
            raise ValueError(f"the model gives {sorted(widths)} outputs a row, not as many for every batch; {_ADVICE}")
        together = torch.cat(outputs)
        if not together.isfinite().all():
            raise ValueError("the model's outputs are not all finite on these batches")
        return Taken(taken, together)

    def meaning(self, taken: Taken) -> Meaning | None:
        """What the outputs are; None if they are not one number a row, or a loss says what counts."""
        if self.loss is not None or taken.outputs.shape[1] != 1:
            return None
        if self.outputs is not None:
            self._check(taken)
            return self.outputs
        return "probabilities" if _could_be_probabilities(taken.outputs) else "logits"

    def _check(self, taken: Taken) -> None:
        if self.outputs == "probabilities" and not _could_be_probabilities(taken.outputs):
            raise ValueError("outputs='probabilities', but the model gives numbers outside 0..1; give outputs='logits'")

    def scores(self, model: nn.Module, batch: Any, meaning: Meaning | None) -> Tensor:
        """fp32 [B, K], with gradients: logits if the outputs mean one; the loss if there is one."""
        given = self._call(model, batch)
        if self.loss is not None:
            return self.loss(given, batch).float().reshape(-1, 1)
        return logits(self._of_rows(given, batch), meaning)

    def _call(self, model: nn.Module, batch: Any) -> Any:
        model = getattr(model, "_orig_mod", model)  # hooks do not reach a graph that torch.compile made before them
        if self.forward is not None:
            return self.forward(model, batch)
        for args, kwargs in _ways(batch):
            if _binds(model, args, kwargs):
                return model(*args, **kwargs)
        takes = inspect.signature(model.forward)
        raise ValueError(f"the model takes {takes}, but a batch is {_described(batch)}; {_ADVICE}")

    def _of_rows(self, given: Any, batch: Any) -> Tensor:
        """fp32 [B, K]."""
        if self.loss is not None:
            return torch.zeros(_num_rows(given) or _num_rows(batch) or 1, 1)
        output = _only_tensor(given)
        if output.dim() == 0:
            raise ValueError(f"the model gives one number for a whole batch; {_ADVICE}, or loss=")
        return output.float().reshape(len(output), -1)


def logits(outputs: Tensor, meaning: Meaning | None) -> Tensor:
    """fp32 [B, K] of outputs [B, K]."""
    return torch.logit(outputs, _EDGE) if meaning == "probabilities" else outputs


def _could_be_probabilities(outputs: Tensor) -> bool:
    return bool((outputs >= 0).all() and (outputs <= 1).all())


def _ways(batch: Any) -> Iterable[tuple[tuple[Any, ...], dict[str, Any]]]:
    """How a batch may be given to a model: taken apart, or as it is."""
    if isinstance(batch, Mapping) and all(isinstance(key, str) for key in batch):
        yield (), dict(batch)
    elif isinstance(batch, (tuple, list)):
        yield tuple(batch), {}
    yield (batch,), {}


def _binds(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    try:
        inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _described(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a dict of {list(batch)}"
    return f"a {type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list)) else type(batch).__name__


def _tensors(value: Any) -> list[tuple[str, Tensor]]:
    """Tensors at the first level, by name or place."""
    items = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, (tuple, list)) else ()
    )
    return [(str(key), item) for key, item in items if isinstance(item, Tensor)]


def _only_tensor(given: Any) -> Tensor:
    """What a model gives: a tensor, or the only one of floats in a dict or tuple. Raises ValueError."""
    if isinstance(given, Tensor):
        return given
    found = [(name, tensor) for name, tensor in _tensors(given) if tensor.is_floating_point()]
    if len(found) != 1:
        names = f"with tensors {[name for name, _ in found]}" if found else "without tensors of floats"
        raise ValueError(f"the model gives a {type(given).__name__} {names}, and one has to be chosen; {_ADVICE}")
    return found[0][1]


def _num_rows(value: Any) -> int:
    """Length of the first tensor."""
    tensors = [value] if isinstance(value, Tensor) else [tensor for _, tensor in _tensors(value)]
    return next((len(tensor) for tensor in tensors if tensor.dim()), 0)
