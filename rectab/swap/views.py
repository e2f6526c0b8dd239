"""The modules that take the place of a host's tables: a vocabulary of a rectab table, with what hosts look for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.fx
from torch import Tensor

from rectab.tables.base import EmbeddingTable
from rectab.tables.views import BagView, EmbeddingView

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SwappedBag", "SwappedEmbedding", "SwappedView"]

_NO_WEIGHT = (
    "a swapped table has no 'weight': its rows are shared, so writing to a copy would change nothing. Read vectors "
    "with materialize(), load host weights with SwapResult.load_host(), and initialise by the swap itself"
)
_FULL_STATE = (
    "is the full table of the unswapped model; load such a checkpoint with SwapResult.load_host(state_dict), which "
    "fits the swapped table to it"
)


class _Swapped:
    """What both views add: a fixed output scale, the attributes of torch's modules, refusals instead of silence."""

    table: EmbeddingTable
    scale: Tensor | None
    max_norm = None
    norm_type = 2.0
    scale_grad_by_freq = False
    _no_weight, _full_state = _NO_WEIGHT, _FULL_STATE

    @property
    def sparse(self) -> bool:
        """As in torch's modules: whether the gradient is a sparse tensor."""
        return self.table.options.gradient == "sparse"

    trains: bool
    """False after ``requires_grad_(False)``: this vocabulary is frozen, others in the table may train."""
    _start: Callable[[EmbeddingTable], None]

    def _set(self, scale: float | None, start: Callable[[EmbeddingTable], None]) -> None:
        # In the state_dict, because another process may measure another scale before it loads a checkpoint.
        value = None if scale is None else torch.tensor(scale, dtype=self.table.dtype, device=self.table.device)
        self.register_buffer("scale", value)
        self.trains, self._start = True, start

    def vectors(self, input: Tensor) -> Tensor:
        """int [*] -> float [*, D], times the scale of the table it replaced."""
        if not self.trains and torch.is_grad_enabled():
            with torch.no_grad():
                return self.vectors(input)
        vectors: Tensor = super().vectors(input)  # type: ignore[misc]
        return vectors if self.scale is None else vectors * self.scale

    def _traced(self, *inputs: Tensor | None) -> Any:
        """The call as one node where ``torch.fx`` traces it, as it does torch's own modules; None elsewhere."""
        for value in inputs:
            if isinstance(value, torch.fx.Proxy):
                tracer: Any = value.tracer
                return tracer.create_proxy("call_module", tracer.path_of_module(self), inputs, {})
        return None

    def __prepare_scriptable__(self) -> None:
        raise NotImplementedError("a swapped table cannot be scripted; use torch.export (docs/swap.md, Out of Python)")

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freezes or trains this vocabulary alone: what other views of the table read goes on as it was.

        A row that it shares with other vocabularies still moves with theirs.
        """
        self.trains = requires_grad
        return self

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initial values again, of the whole table (also of the other vocabularies in it)."""
        table = self.table
        fresh = type(table)(table.vocabularies, table.embedding_dim, table.config, table.options)
        self._start(fresh)
        table.load_state_dict(fresh.state_dict())

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            raise AttributeError(self._no_weight)
        return super().__getattr__(name)  # type: ignore[misc]

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        metadata: Any,
        strict: bool,
        missing: Any,
        unexpected: Any,
        errors: Any,
    ) -> None:
        if f"{prefix}weight" in state_dict:
            errors.append(f"'{prefix}weight' {self._full_state}")
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)  # type: ignore[misc]


class SwappedEmbedding(_Swapped, EmbeddingView):
    """In the place of an ``nn.Embedding``.

    Args:
        table: the rectab table.
        vocabulary: index of the vocabulary that was the host's table.
        padding_idx: as the host's table had it.
        scale: fixed factor of the output, so that its std at step 0 is that of the table it replaces; None for none.
        start: gives a new table of the same kind its initial values.
    """

    def __init__(
        self,
        table: EmbeddingTable,
        vocabulary: int,
        padding_idx: int | None,
        scale: float | None,
        start: Callable[[EmbeddingTable], None],
    ) -> None:
        super().__init__(table, vocabulary, padding_idx)
        self._set(scale, start)

    def forward(self, input: Tensor) -> Tensor:
        """int64 or int32 [*] -> float [*, D]."""
        traced = self._traced(input)
        return super().forward(input) if traced is None else traced


class SwappedBag(_Swapped, BagView):
    """In the place of an ``nn.EmbeddingBag``; the arguments of :class:`SwappedEmbedding`, and the bag's own."""

    def __init__(
        self,
        table: EmbeddingTable,
        vocabulary: int,
        padding_idx: int | None,
        scale: float | None,
        start: Callable[[EmbeddingTable], None],
        mode: Literal["sum", "mean"],
        include_last_offset: bool,
    ) -> None:
        super().__init__(table, vocabulary, mode, padding_idx, include_last_offset)
        self._set(scale, start)

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """As :meth:`rectab.tables.views.BagView.forward`."""
        traced = self._traced(input, offsets, per_sample_weights)
        return super().forward(input, offsets, per_sample_weights) if traced is None else traced


SwappedView = SwappedEmbedding | SwappedBag
