"""Gradients of rows between a backward pass and a step, under the rules of the loop around them.

Row gradients are not in any parameter's ``grad``: a table of 100 GB must not have a gradient of 100 GB. So that a
host's loop governs them all the same, every store with row gradients has a *handle*: a parameter of two elements whose
``grad`` stands for them. Its first element is their norm, its second a mark, a known small number. What a loop does to
the gradients of all parameters, it does to the handle's, and rows follow:

* ``zero_grad`` of the model or of an optimizer clears the handle's gradient: pending row gradients are dropped;
* a loss scaler unscales it, and sees there whether row gradients are finite;
* ``clip_grad_norm_`` counts the norm and scales the mark: pending gradients are scaled by as much;
* gradients of several backward passes add up;
* ``DistributedDataParallel``: row gradients that were recorded inside its forward are averaged over its processes.

Only gradients that a ``backward()`` accumulates count; those that ``torch.autograd.grad`` passes over do not.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rectab.ops.dispatch import KernelName, kernels_for

__all__ = ["RowGradients", "new_handle"]

_MARK = 2.0**-30
_LARGEST_FACTOR = 2.0**20
_UNUSED_PASSES = 100
_DROPPED_PASSES = 10
_NOBODY_STEPS = (
    "row gradients are collected and no row optimizer takes them: these rows are not trained. Make one, "
    "rectab.optim.RowAdam(table.row_stores()), and call its step(); after swap_, call result.step_with(optimizer, rows)"
)

Parts = list[tuple[Tensor, Tensor]]


def new_handle(device: torch.device | str | None, trained: bool) -> nn.Parameter:
    """The parameter that stands for the rows of a store in autograd's graph and in the loop."""
    return nn.Parameter(torch.zeros(2, dtype=torch.float32, device=device), requires_grad=trained)


class RowGradients:
    """What backward passes left for the rows of one store, until a step takes it.

    Args:
        row_dim: width of a row.

    Attributes:
        replicated: whether processes that train together hold the same rows; False where each has rows of its own.
    """

    def __init__(self, row_dim: int) -> None:
        self.row_dim = row_dim
        self.replicated = True
        self._handle: nn.Parameter | None = None
        self._group: Any = None  # of the processes that hold replicas of these rows
        self._recorded: list[tuple[int, Tensor, Tensor]] = []  # by passes that still run, with their number
        self._parts: Parts = []
        self._summed: Tensor | None = None  # the rows of the one part, if they are known to be distinct
        self._marked: Tensor | None = None  # the handle's gradient as it was left; None if it says nothing new
        self._marked_at: tuple[Tensor, int] | None = None  # that gradient itself, and its version then
        self._optimizer: weakref.ref[Any] | None = None
        self._passes, self._dropped, self._warned = 0, 0, False  # since the last step

    # Recording.

    def listen(self, handle: nn.Parameter) -> None:
        """Before a lookup: hear of the gradients that ``handle`` gets, and in which processes."""
        if self._handle is not handle:
            self._handle, owner = handle, weakref.ref(self)

            def accumulated(parameter: Tensor) -> None:
                gradients = owner()
                if gradients is not None and gradients._handle is parameter:
                    gradients._commit(parameter)

            handle.register_post_accumulate_grad_hook(accumulated)
        parallel = getattr(nn.parallel.DistributedDataParallel, "_active_ddp_module", None)
        self._group = parallel.process_group if parallel is not None and self.replicated else None

    def record(self, rows: Tensor, gradients: Tensor) -> None:
        """In a backward pass: keep gradients [n, D] of rows int64 [n] until it accumulates, or forget them after it.

        Raises:
            ValueError: the gradients are float64.
        """
        if gradients.dtype == torch.float64:
            raise ValueError("row optimizers compute in fp32; train rows held as fp64 with gradient='dense'")
        running = torch._C._current_graph_task_id()
        if all(number != running for number, _, _ in self._recorded):
            _at_the_end_of_the_pass(lambda: self._end(running))
        self._recorded.append((running, rows, gradients.detach()))

    def _end(self, running: int) -> None:
        """Forget what the pass recorded and did not accumulate, since ``torch.autograd.grad`` ran it."""
        self._recorded = [entry for entry in self._recorded if entry[0] != running]
        if self._group is not None and self._marked is not None:
            _at_the_end_of_the_pass(self._mark_reduced)  # after the gradients of parameters have been reduced

    @torch.no_grad()
    def _commit(self, handle: Tensor) -> None:
        """What the running pass recorded joins what waits for a step. The hook of autograd's accumulation."""
        running = torch._C._current_graph_task_id()
        self._settle()
        self._parts += [(rows, gradients) for number, rows, gradients in self._recorded if number == running]
        self._recorded = [entry for entry in self._recorded if entry[0] != running]
        if self._parts and handle.grad is not None:
            sums = self._sum("auto")[1]
            handle.grad.fill_(_MARK)[0] = kernels_for(sums.device).norm(sums)
            self._mark(handle.grad)
        self._passes += 1
        self._warn_if_nobody_steps()

    @torch.no_grad()
    def _mark_reduced(self) -> None:
        """The handle's gradient was averaged over processes, perhaps in fewer bits, which says nothing of a scaling."""
        if self._marked is not None and self._handle is not None and self._handle.grad is not None:
            self._handle.grad[1] = _MARK
            self._mark(self._handle.grad)

    # Obeying the loop.

    def _settle(self) -> None:
        """Do to what is pending what has been done to the handle's gradient since it was marked.

        A gradient that nothing has written to is not read: on a GPU that would be to wait for the step.
        """
        if self._marked is None or self._handle is None or self._untouched():
            return
        if self._handle.grad is None:
            self._drop_unused()
            return
        norm, mark, old_norm, old_mark = torch.cat([self._handle.grad.float(), self._marked.float()]).tolist()
        factor = mark / old_mark
        if factor == 0.0:
            self._drop_unused()
            return
        if abs(factor) > _LARGEST_FACTOR:
            raise RuntimeError(
                "something other than lookups gives a row store's handle a gradient, such as a penalty over all "
                "parameters of the model; leave parameters named 'handle' out of it"
            )
        if abs(norm - factor * old_norm) > 1e-3 * abs(factor * old_norm):
            _warn_of_other_changes()
        if abs(factor - 1.0) > 1e-6 or factor != factor:
            self.scale(factor)
        self._mark(self._handle.grad)

    def _mark(self, grad: Tensor) -> None:
        """Remember the handle's gradient as it is now."""
        self._marked, self._marked_at = grad.clone(), (grad, grad._version)

    def _untouched(self) -> bool:
        grad = None if self._handle is None else self._handle.grad
        if grad is None or not grad.is_cuda or self._group is not None or self._marked_at is None:
            return False
        return grad is self._marked_at[0] and grad._version == self._marked_at[1]

    def scale(self, factor: float) -> None:
        """Multiply everything that is pending."""
        if self._parts:
            rows, sums = self._sum("auto")
            self._parts, self._summed = [(rows, sums * factor)], rows

    def drop(self) -> None:
        """Forget everything that is pending."""
        self._parts, self._summed, self._marked, self._marked_at = [], None, None, None

    def _drop_unused(self) -> None:
        self.drop()
        self._dropped += 1

    def detach_handle(self) -> None:
        """What is pending stays whatever happens to the handle, which has no gradient any longer."""
        self._settle()
        self._marked = None
        if self._handle is not None:
            self._handle.grad = None

    # Taking.

    @property
    def parts(self) -> Parts:
        """(rows int64 [n], gradients [n, D]) that wait for a step; a row of -1 is none."""
        self._settle()
        return self._parts

    def sum(self, kernel: KernelName = "auto") -> tuple[Tensor, Tensor]:
        """(distinct rows int64 [u], the sum of each one's gradients fp32 [u, D]); at least one part is pending.

        On a GPU the host waits to know u.
        """
        rows, sums = self.sum_on_device(kernel)
        if rows.device.type == "cpu" and not bool((rows < 0).any()):
            return rows, sums
        there = rows >= 0
        return rows[there], sums[there]

    def sum_on_device(self, kernel: KernelName = "auto") -> tuple[Tensor, Tensor]:
        """As :meth:`sum`, but places at the end may hold no row: -1, and sums of 0. Scaling the sums in place scales
        what is pending."""
        self._settle()
        return self._sum(kernel)

    def _sum(self, kernel: KernelName) -> tuple[Tensor, Tensor]:
        if len(self._parts) != 1 or self._parts[0][0] is not self._summed:
            self._parts = [kernels_for(self._parts[0][0].device, kernel).coalesce(self._parts, self.row_dim)]
            self._summed = self._parts[0][0]
        return self._parts[0]

    def take(self, kernel: KernelName = "auto") -> tuple[Tensor, Tensor] | None:
        """As :meth:`sum_on_device`; nothing is pending any longer. None if nothing was."""
        self.detach_handle()
        taken = self._sum(kernel) if self._parts else None
        self.drop()
        self._passes = self._dropped = 0
        return taken

    # Replicas in several processes, see :mod:`rectab.ops.gathering`.

    @property
    def group(self) -> Any:
        """Of the processes whose gradients have not been gathered yet; None if there are no others."""
        return self._group

    def local(self, kernel: KernelName = "auto") -> tuple[Tensor, Tensor]:
        """:meth:`sum` of this process's gradients alone; of no rows if none is pending."""
        if self.parts:
            return self.sum(kernel)
        device = None if self._handle is None else self._handle.device
        return torch.empty(0, dtype=torch.int64, device=device), torch.empty(0, self.row_dim, device=device)

    def set_gathered(self, parts: Parts, kernel: KernelName = "auto") -> None:
        """What is pending are ``parts`` from now on, those of all processes."""
        self._parts, self._summed, self._group = parts, None, None
        if parts:
            self._sum(kernel)

    @contextmanager
    def apart(self) -> Iterator[RowGradients]:
        """While it lasts, gradients are recorded apart from those that wait for a step; they are dropped at its end."""
        self._settle()
        handle = self._handle
        kept = (self._parts, self._summed, self._marked, self._marked_at, self._warned)
        grad = None if handle is None else handle.grad
        self.drop()
        self._warned = True  # these are for whoever asked for them
        if handle is not None:
            handle.grad = None
        try:
            yield self
        finally:
            self._parts, self._summed, self._marked, self._marked_at, self._warned = kept
            if self._handle is not None:
                self._handle.grad = grad

    # Who steps.

    @property
    def optimizer(self) -> Any:
        """The row optimizer that steps these rows; None if there is none, or no longer."""
        return None if self._optimizer is None else self._optimizer()

    @optimizer.setter
    def optimizer(self, optimizer: Any) -> None:
        self._optimizer = weakref.ref(optimizer)
        self._passes = self._dropped = 0

    def _warn_if_nobody_steps(self) -> None:
        if self._warned:
            return
        if self.optimizer is None:
            self._warned = True
            warnings.warn(_NOBODY_STEPS, stacklevel=2)
        elif self._passes >= _UNUSED_PASSES or self._dropped >= _DROPPED_PASSES:
            self._warned = True
            warnings.warn(f"{self._passes} backward passes without a step: {_NOBODY_STEPS}", stacklevel=2)


def _at_the_end_of_the_pass(call: Callable[[], None]) -> None:
    torch.autograd.Variable._execution_engine.queue_callback(call)


def _warn_of_other_changes() -> None:
    warnings.warn(
        "gradients were changed element by element (clip_grad_value_, noise): row gradients follow only what scales or "
        "clears all gradients alike, such as clip_grad_norm_",
        stacklevel=4,
    )
