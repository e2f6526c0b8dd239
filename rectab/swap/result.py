"""What a swap gives back: the tables, a way to train their rows, a way to undo it, and checkpoints both ways."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rectab.ops import RowStore
from rectab.optim import RowOptimizer, RowRule, follow
from rectab.swap.change import ModelChange
from rectab.swap.planning import PlannedTable, SwapPlan
from rectab.swap.views import SwappedView
from rectab.tables import EmbeddingTable, Ledger
from rectab.tables.fit import FitTarget

__all__ = ["SwapResult", "targets_of"]


@dataclass
class SwapResult:
    """A swapped model, and what belongs to it.

    Attributes:
        model: the model that was changed.
        plan: what was done.
        tables: the rectab tables, in the order of ``plan.tables``.
        views: the module now at each dotted path.
        reconstruction: by vocabulary, for ``init="trained"``: see
            :func:`rectab.tables.fit.reconstruction_error`. Empty for ``fresh``.
    """

    model: nn.Module
    plan: SwapPlan
    tables: tuple[EmbeddingTable, ...]
    views: dict[str, SwappedView]
    reconstruction: dict[str, float]
    _change: ModelChange | None = field(repr=False)
    _hooks: list[Any] = field(default_factory=list, repr=False)

    @property
    def bytes_before(self) -> int:
        """Bytes of the host's weights that were replaced, each weight once, without optimizer state."""
        return self.plan.bytes_before

    @property
    def bytes_after(self) -> int:
        """Bytes of the serving form of the tables now in the model, indexes and all, without optimizer state."""
        return self.ledger().bytes

    def ledger(self) -> Ledger:
        """Every tensor of the serving form of all tables."""
        return Ledger(tuple(entry for table in self.tables for entry in table.serving().ledger()))

    def __str__(self) -> str:
        text = str(self.plan)
        if self.reconstruction:
            errors = ", ".join(f"{name} {error:.3f}" for name, error in self.reconstruction.items())
            text += f"\n  reconstruction error (0 exact, 1 all zeros): {errors}"
        return text

    # Training.

    def row_stores(self) -> Iterator[tuple[str, RowStore]]:
        """(name, store) of every row store, for a row optimizer (``gradient="row"``)."""
        for index, table in enumerate(self.tables):
            yield from ((f"{index}.{name}", store) for name, store in table.row_stores())

    def rules(self) -> dict[str, RowRule]:
        """Rules that tables name for their stores, by the names of :meth:`row_stores`; for a row optimizer."""
        return {f"{i}.{name}": rule for i, table in enumerate(self.tables) for name, rule in table.rules().items()}

    def step_with(self, optimizer: torch.optim.Optimizer, rows: RowOptimizer) -> None:
        """Make ``rows`` step whenever ``optimizer``, which the host's own loop calls, has stepped.

        Row gradients then follow that loop: its ``zero_grad``, loss scaler, clipping, learning-rate schedule and
        ``DistributedDataParallel``; see :func:`rectab.optim.follow`.
        """
        self._hooks.append(follow(optimizer, rows, [table.after_step for table in self.tables]))

    # Undoing.

    def undo(self) -> None:
        """Put the host's own tables, lists and optimizer groups back, as they were; what was trained since is lost.

        Raises:
            RuntimeError: :meth:`discard_originals` was called, or it was undone already.
        """
        if self._change is None:
            raise RuntimeError("the original tables are gone; nothing to undo")
        self._change.undo()
        for hook in self._hooks:
            hook.remove()
        self.discard_originals()

    def discard_originals(self) -> None:
        """Let go of the host's tables, which are kept in memory only for :meth:`undo`."""
        self._change = None

    # Checkpoints, both ways.

    def to_host(self, state_dict: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The ``state_dict`` of the unswapped model, with every table written out in full.

        Args:
            state_dict: of the swapped model; the model's own if None.
        """
        state = self.model.state_dict() if state_dict is None else state_dict
        host = {key: tensor for key, tensor in state.items() if self._view_of(key) is None}
        for index, planned in enumerate(self.plan.tables):
            table = self._loaded(index, state)
            for found in planned.found:
                view = copy.copy(self.views[found.name])
                view._modules = {**view._modules, "table": table}
                view._buffers = dict(view._buffers)
                if view.scale is not None:
                    view._buffers["scale"] = state[f"{found.name}.scale"]
                vectors = view.materialize()
                host.update({f"{name}.weight": vectors for name in found.names})
        return host

    def from_host(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The ``state_dict`` of the swapped model whose tables come nearest to the unswapped model's ``state_dict``.

        Raises:
            KeyError: a table is missing.
            ValueError: a table has another shape.
        """
        weights = {f"{name}.weight" for planned in self.plan.tables for found in planned.found for name in found.names}
        swapped = {key: tensor for key, tensor in state_dict.items() if key not in weights}
        for planned, live in zip(self.plan.tables, self.tables, strict=True):
            table, prefix = copy.deepcopy(live), f"{planned.found[0].name}.table."
            scales = [1.0 if s is None else float(s) for s in (self.views[f.name].scale for f in planned.found)]
            table.start_from(targets_of(planned, self._host_weights(planned, state_dict), scales))
            swapped.update({prefix + key: tensor for key, tensor in table.state_dict().items()})
            for found in planned.found:
                for name in found.names:
                    if self.views[name].scale is not None:
                        swapped[f"{name}.scale"] = self.views[name].scale  # type: ignore[assignment]
        return swapped

    def load_host(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load a checkpoint of the unswapped model into the swapped one."""
        self.model.load_state_dict(self.from_host(state_dict))

    def _host_weights(self, planned: PlannedTable, state_dict: Mapping[str, Tensor]) -> list[Tensor]:
        weights = []
        for found, vocabulary in zip(planned.found, planned.plan.vocabularies, strict=True):
            key = f"{found.name}.weight"
            if key not in state_dict:
                raise KeyError(f"the checkpoint has no {key!r}; it is not one of the unswapped model")
            expected = (vocabulary.num_embeddings, planned.plan.embedding_dim)
            if tuple(state_dict[key].shape) != expected:
                raise ValueError(f"{key} is {tuple(state_dict[key].shape)} in the checkpoint, expected {expected}")
            weights.append(state_dict[key])
        return weights

    def _view_of(self, key: str) -> str | None:
        """The path of the view that a key of the swapped ``state_dict`` belongs to."""
        parts = key.split(".")
        return next((p for i in range(1, len(parts)) if (p := ".".join(parts[:i])) in self.views), None)

    def _loaded(self, index: int, state: Mapping[str, Tensor]) -> EmbeddingTable:
        """A copy of a table with the values in the swapped model's ``state``."""
        table = copy.deepcopy(self.tables[index])
        prefix = f"{self.plan.tables[index].found[0].name}.table."
        table.load_state_dict({key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)})
        return table


def targets_of(planned: PlannedTable, weights: list[Tensor], scales: list[float]) -> list[FitTarget]:
    """What the rectab table of ``planned`` should give, from the host tables' weights and the views' scales."""
    targets = []
    for index, (found, weight) in enumerate(zip(planned.found, weights, strict=True)):
        counts = planned.plan.vocabularies[index].counts
        targets.append(
            FitTarget(
                vocabulary=index,
                vectors=weight.detach() if scales[index] == 1.0 else weight.detach() / scales[index],
                padding_idx=found.module.padding_idx,
                counts=None if counts is None else torch.from_numpy(counts).to(weight.device),
            )
        )
    return targets
