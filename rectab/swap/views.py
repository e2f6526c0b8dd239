"""The modules that take the place of a host's tables: a vocabulary of a rectab table, with what hosts look for."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from rectab.ops import FloatFormat, get_format
from rectab.tables.base import EmbeddingTable
from rectab.tables.views import BagView, EmbeddingView

__all__ = ["SwappedBag", "SwappedEmbedding", "SwappedView"]

_NO_WEIGHT = (
    "a swapped table has no 'weight': its rows are shared, so writing to a copy would change nothing. Read vectors "
    "with materialize(), load host weights with SwapResult.load_host(), and initialise by the swap itself"
)


class _Swapped:
    """What both views add: a fixed output scale, the attributes of torch's modules, refusals instead of silence."""

    table: EmbeddingTable
    scale: Tensor | None
    max_norm = None
    norm_type = 2.0
    scale_grad_by_freq = False

    @property
    def sparse(self) -> bool:
        """As in torch's modules: whether the gradient is a sparse tensor."""
        return self.table.options.gradient == "sparse"

    @property
    def dtype(self) -> torch.dtype:
        """Of the vectors, as of the table it replaced."""
        held = get_format(self.table.options.rows)
        return held.dtype if isinstance(held, FloatFormat) else torch.float32

    def _set_scale(self, scale: float) -> None:
        # In the state_dict, because another process may measure another scale before it loads a checkpoint.
        value = None if scale == 1.0 else torch.tensor(scale, dtype=self.dtype, device=self.table.device)
        self.register_buffer("scale", value)

    def vectors(self, input: Tensor) -> Tensor:
        """int [*] -> float [*, D] in the host's dtype, times the scale of the table it replaced."""
        vectors: Tensor = super().vectors(input).to(self.dtype)  # type: ignore[misc]
        return vectors if self.scale is None else vectors * self.scale

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initial values again, of the whole table (also of the other vocabularies in it)."""
        table = self.table
        fresh = type(table)(table.vocabularies, table.embedding_dim, table.config, table.options)
        table.load_state_dict(fresh.state_dict())

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            raise AttributeError(_NO_WEIGHT)
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
            errors.append(
                f"'{prefix}weight' is the full table of the unswapped model; load such a checkpoint with "
                "SwapResult.load_host(state_dict), which fits the swapped table to it"
            )
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)  # type: ignore[misc]


class SwappedEmbedding(_Swapped, EmbeddingView):
    """In the place of an ``nn.Embedding``.

    Args:
        table: the rectab table.
        vocabulary: index of the vocabulary that was the host's table.
        padding_idx: as the host's table had it.
        scale: fixed factor of the output, so that its std at step 0 is that of the table it replaces.
    """

    def __init__(self, table: EmbeddingTable, vocabulary: int, padding_idx: int | None, scale: float) -> None:
        super().__init__(table, vocabulary, padding_idx)
        self._set_scale(scale)


class SwappedBag(_Swapped, BagView):
    """In the place of an ``nn.EmbeddingBag``; the arguments of :class:`SwappedEmbedding`, and the bag's own."""

    def __init__(
        self,
        table: EmbeddingTable,
        vocabulary: int,
        padding_idx: int | None,
        scale: float,
        mode: Literal["sum", "mean"],
        include_last_offset: bool,
    ) -> None:
        super().__init__(table, vocabulary, mode, padding_idx, include_last_offset)
        self._set_scale(scale)


SwappedView = SwappedEmbedding | SwappedBag
