"""Swapped torchrec collections under names of their own, so that torchrec does not take them for what they were.

torchrec shards and quantises a module by its exact class and then reads the weights of its tables, which a swapped
collection has no longer. Under a subclass, ``DistributedModelParallel`` replicates it like any other module and
``quantize_embeddings`` leaves it alone. To shard the rows there is :func:`rectab.swap.torchrec.shardable`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from torch import nn

from rectab.swap.views import SwappedBag, SwappedEmbedding

__all__ = ["rename_collections"]

_COLLECTIONS = ("EmbeddingBagCollection", "EmbeddingCollection")


def rename_collections(model: nn.Module) -> list[tuple[nn.Module, type[nn.Module]]]:
    """Gives every torchrec collection with swapped tables a class of its own; returns them and their old classes."""
    renamed = list(_swapped_collections(model))
    for module, kind in renamed:
        module.__class__ = _swapped_kind(kind)  # type: ignore[arg-type]
    return renamed


def _swapped_collections(model: nn.Module) -> Iterator[tuple[nn.Module, type[nn.Module]]]:
    for module in model.modules():
        kind = type(module)
        is_collection = kind.__name__ in _COLLECTIONS and kind.__module__.startswith("torchrec.")
        if is_collection and any(isinstance(part, (SwappedEmbedding, SwappedBag)) for part in module.modules()):
            yield module, kind


@cache
def _swapped_kind(kind: type[nn.Module]) -> type[nn.Module]:
    members = {"__module__": __name__, "__doc__": kind.__doc__, "__reduce__": _reduce}
    return type(f"Swapped{kind.__name__}", (kind,), members)


def _reduce(module: nn.Module) -> tuple[Any, ...]:
    """A class made at run time is found again by the class it is made from, in copies and in files."""
    return _new, (type(module).__bases__[0],), module.__dict__


def _new(kind: type[nn.Module]) -> nn.Module:
    swapped = _swapped_kind(kind)  # type: ignore[arg-type]
    return swapped.__new__(swapped)
