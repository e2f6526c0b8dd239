"""The modules that take the place of a host's tables once these are packed: views that are served, not trained."""

from __future__ import annotations

from typing import Literal

from torch import nn

from rectab.swap.views import SwappedBag, SwappedEmbedding, SwappedView
from rectab.tables import EmbeddingTable
from rectab.tables.quantized import RankedTable

__all__ = ["packed_view"]


class _Packed:
    """What is said where a host asks for what packed bytes do not have."""

    _no_weight = (
        "a compressed table has no 'weight': its vectors are decoded from packed bytes. Read them with materialize() "
        "or undo the compression"
    )
    _full_state = (
        "is the full table of the model before it was compressed; load it into the model itself, and compress that"
    )


class PackedEmbedding(_Packed, SwappedEmbedding):
    """In the place of an ``nn.Embedding``; arguments of its base."""


class PackedBag(_Packed, SwappedBag):
    """In the place of an ``nn.EmbeddingBag``; arguments of its base."""


def packed_view(table: RankedTable, module: nn.Embedding | nn.EmbeddingBag) -> SwappedView:
    """A view of ``table`` that is called as ``module`` is."""
    if isinstance(module, nn.EmbeddingBag):
        mode: Literal["sum", "mean"] = "sum" if module.mode == "sum" else "mean"
        bag = PackedBag(table, 0, module.padding_idx, None, _nothing, mode, module.include_last_offset)
        return bag.train(module.training)
    return PackedEmbedding(table, 0, module.padding_idx, None, _nothing).train(module.training)


def _nothing(table: EmbeddingTable) -> None:
    raise RuntimeError("a compressed table has no initial values; undo the compression first")
