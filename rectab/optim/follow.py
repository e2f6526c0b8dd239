"""A row optimizer that follows the optimizer of a host's own loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from rectab.optim.base import RowOptimizer

__all__ = ["Following", "follow"]


def follow(
    host: torch.optim.Optimizer, rows: RowOptimizer, after_step: Iterable[Callable[[int, RowOptimizer], None]] = ()
) -> Following:
    """Make ``rows`` step whenever ``host`` has stepped, as if its rows were parameters of ``host``.

    * ``host.zero_grad()`` and ``model.zero_grad()`` drop pending row gradients; a step that a loss scaler skips leaves
      rows alone, and gradients are unscaled.
    * Rows follow the schedule of the host's learning rate: their rate is ``rows.param_groups[0]["lr"]`` times what the
      host's rate is to the one it started with, in the group that holds the handles of the rows (else the first). A
      schedule over ``rows`` itself counts besides.
    * What ``host`` saves stays what it would save without the rows; save ``rows.state_dict()`` beside it.

    Args:
        host: the optimizer that the host's loop calls.
        rows: of the row stores of the model.
        after_step: called with the number of steps so far and ``rows`` after each of them, such as
            ``EmbeddingTable.after_step``.

    Returns:
        What ends it by ``remove()``.
    """
    return Following(host, rows, tuple(after_step))


class Following:
    """See :func:`follow`."""

    def __init__(
        self,
        host: torch.optim.Optimizer,
        rows: RowOptimizer,
        after_step: tuple[Callable[[int, RowOptimizer], None], ...],
    ) -> None:
        self._host, self._rows, self._after_step = host, rows, after_step
        handles = [store.handle for store in rows.stores.values()]
        held = {id(p): index for index, group in enumerate(host.param_groups) for p in group["params"]}
        self._index = next((held[id(h)] for h in handles if id(h) in held), 0)
        self._joining = [handle for handle in handles if id(handle) not in held]
        self._start = float(self._group.get("initial_lr", self._group["lr"]))
        self._skipped = False
        self._join()
        self._hooks = [
            host.register_step_pre_hook(self._before),
            host.register_step_post_hook(self._after),
            host.register_state_dict_pre_hook(lambda *_: self._leave()),
            host.register_state_dict_post_hook(lambda *_: self._join()),
            host.register_load_state_dict_pre_hook(lambda *_: self._leave()),
            host.register_load_state_dict_post_hook(lambda *_: self._join()),
        ]

    @property
    def _group(self) -> dict[str, Any]:
        """The host's group that holds the handles; another object after a state was loaded."""
        return self._host.param_groups[self._index]

    def remove(self) -> None:
        """Let the host's optimizer go on alone."""
        for hook in self._hooks:
            hook.remove()
        self._leave()

    def _join(self) -> None:
        """The handles are among the host's parameters, so that its zero_grad and a loss scaler reach them."""
        self._group["params"].extend(self._joining)

    def _leave(self) -> None:
        joining = {id(handle) for handle in self._joining}
        for group in self._host.param_groups:
            group["params"][:] = [p for p in group["params"] if id(p) not in joining]

    def _before(self, *_: Any) -> None:
        """Take from the handles what the loop did to them, so that the host's own step passes them over."""
        # Fused optimizers unscale and skip by themselves: the scaler leaves them both numbers.
        scale, found_inf = getattr(self._host, "grad_scale", None), getattr(self._host, "found_inf", None)
        self._skipped = found_inf is not None and bool(found_inf > 0)
        for store in self._rows.stores.values():
            store.gradients.detach_handle()
            if scale is not None:
                store.gradients.scale(1.0 / float(scale))

    def _after(self, *_: Any) -> None:
        if self._skipped:
            self._rows.zero_grad()
            return
        group = self._rows.param_groups[0]
        own = group["lr"]
        if self._start > 0.0:
            group["lr"] = own * float(self._group["lr"]) / self._start
        try:
            self._rows.step()
        finally:
            group["lr"] = own
        for call in self._after_step:
            call(self._rows.clock.now, self._rows)
