"""Finds the embedding tables of a model: every ``nn.Embedding`` and ``nn.EmbeddingBag``, under every name it has.

torchrec's unsharded collections, FuxiCTR's ``FeatureEmbedding`` and DeepCTR-Torch's ``embedding_dict`` all hold their
tables as such modules, so one walk serves every host. Nothing here imports one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from rectab.swap.views import SwappedBag, SwappedEmbedding

__all__ = ["FoundTable", "Place", "Selector", "find_tables"]

Selector = str | Sequence[str] | Callable[[str, nn.Module], bool] | None
"""Which tables: shell patterns of dotted names (``"*.user_id"``), or a function of (name, module)."""

_WRAPPERS = ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "DistributedModelParallel")
_ROWS_AT_A_TIME = 1 << 16


@dataclass(frozen=True)
class Place:
    """Where a module hangs: ``parent._modules[key]``; ``name`` is its dotted path from the model."""

    parent: nn.Module
    key: str
    name: str
    module: nn.Embedding | nn.EmbeddingBag


@dataclass(frozen=True)
class FoundTable:
    """One set of weights and every place it is used from.

    Attributes:
        places: all of them: aliases of one module, and other modules with the same Parameter.
        std: standard deviation of the weights outside ``padding_idx``; nan on the meta device.
    """

    places: tuple[Place, ...]
    std: float

    @property
    def name(self) -> str:
        """The first dotted path: the name of the vocabulary."""
        return self.places[0].name

    @property
    def names(self) -> tuple[str, ...]:
        """Every dotted path, :attr:`name` first."""
        return tuple(place.name for place in self.places)

    @property
    def module(self) -> nn.Embedding | nn.EmbeddingBag:
        """The host's module at the first path."""
        return self.places[0].module

    @property
    def weight(self) -> nn.Parameter:
        """[num_embeddings, D]: the parameter that every place shares."""
        return self.module.weight  # type: ignore[return-value]

    @property
    def bytes(self) -> int:
        """Bytes of the weight."""
        return self.weight.numel() * self.weight.element_size()

    @property
    def trained_elements(self) -> int:
        """Elements outside ``padding_idx``."""
        return self.weight.numel() - (0 if self.module.padding_idx is None else self.module.embedding_dim)


def find_tables(
    model: nn.Module, include: Selector = None, exclude: Selector = None, frozen: bool = False
) -> tuple[tuple[FoundTable, ...], tuple[str, ...]]:
    """The tables to swap, and a line for each one that is left alone and why.

    Args:
        model: whose tables they are.
        include, exclude: only these, and not those.
        frozen: take tables that do not train, too, also where ``include`` does not name them.

    Raises:
        ValueError: the model is wrapped for data parallelism or is itself a table, a pattern matches nothing, there is
            no table, or one of them cannot be swapped; all reasons are listed at once.
    """
    _check_root(model)
    grouped: dict[int, list[Place]] = {}
    notes: dict[str, None] = {}
    matched: set[str] = set()
    every_name: list[str] = []
    for place in _places(model):
        every_name.append(place.name)
        wanted = include is None or _selects(include, place, matched)
        if _selects(exclude, place, matched):
            notes[f"{place.name}: excluded"] = None
        elif wanted:
            grouped.setdefault(id(_weight(place.module)), []).append(place)
    _check_patterns(include, exclude, matched, every_name)
    groups = list(grouped.values())
    if include is None and not frozen:
        for places in groups:
            if _is_frozen(places[0].module):
                notes[f"{places[0].name}: frozen, left as it is (name it in include to swap it)"] = None
        groups = [places for places in groups if not _is_frozen(places[0].module)]
    groups = [_whole_alias_set(model, places) for places in groups]
    problems = [line for places in groups for line in _problems(model, places)]
    if problems:
        raise ValueError(
            "these tables cannot be swapped; exclude them or change them first:\n  " + "\n  ".join(problems)
        )
    if not groups:
        raise ValueError(f"no embedding table to swap; {_what_there_is(model, every_name)}")
    return tuple(FoundTable(tuple(places), _std(places[0].module)) for places in groups), tuple(notes)


def _check_root(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if type(module).__name__ in _WRAPPERS:
            hint = ", and to shard the rows put rectab.swap.torchrec.shardable() in the place of its collections"
            raise ValueError(
                f"{name or 'the model'} is a {type(module).__name__}; swap before wrapping or sharding it"
                + (hint if type(module).__name__ == "DistributedModelParallel" else "")
            )
    if isinstance(model, (nn.Embedding, nn.EmbeddingBag)):
        raise ValueError("the model is itself a table and cannot be replaced in place; put it inside a module")


def _weight(module: nn.Embedding | nn.EmbeddingBag) -> nn.Parameter | nn.Module:
    """The parameter that its places share; the module itself where ``weight`` is computed, by a parametrisation."""
    weight = module._parameters.get("weight")
    return module if weight is None else weight


def _is_frozen(module: nn.Embedding | nn.EmbeddingBag) -> bool:
    return not any(parameter.requires_grad for parameter in module.parameters())


def _what_there_is(model: nn.Module, names: list[str]) -> str:
    swapped = [name for name, module in model.named_modules() if isinstance(module, (SwappedEmbedding, SwappedBag))]
    if swapped and not names:
        return f"{swapped} are swapped already; undo that swap first (SwapResult.undo())"
    return f"the model has {names or 'none'}"


def _places(model: nn.Module) -> Iterator[Place]:
    for path, parent in model.named_modules(remove_duplicate=False):
        for key, child in parent._modules.items():
            if isinstance(child, (nn.Embedding, nn.EmbeddingBag)):
                yield Place(parent, key, f"{path}.{key}" if path else key, child)


def _selects(selector: Selector, place: Place, matched: set[str]) -> bool:
    if selector is None:
        return False
    if callable(selector):
        return bool(selector(place.name, place.module))
    patterns = [selector] if isinstance(selector, str) else list(selector)
    hits = [pattern for pattern in patterns if fnmatchcase(place.name, pattern)]
    matched.update(hits)
    return bool(hits)


def _check_patterns(include: Selector, exclude: Selector, matched: set[str], names: list[str]) -> None:
    for label, selector in (("include", include), ("exclude", exclude)):
        if selector is None or callable(selector):
            continue
        for pattern in [selector] if isinstance(selector, str) else selector:
            if pattern not in matched:
                raise ValueError(f"{label} {pattern!r} matches no table; there are {names}")


def _whole_alias_set(model: nn.Module, chosen: list[Place]) -> list[Place]:
    """Every place that uses the weights, also those whose name was not matched: an alias left behind goes stale."""
    weight = _weight(chosen[0].module)
    return [place for place in _places(model) if _weight(place.module) is weight]


def _problems(model: nn.Module, places: list[Place]) -> Iterator[str]:
    weight = _weight(places[0].module)
    for name, module in model.named_modules():
        is_table = isinstance(module, (nn.Embedding, nn.EmbeddingBag))
        if not is_table and any(parameter is weight for parameter in module._parameters.values()):
            owner = f"{name or 'the model'}'s ({type(module).__name__})"
            yield f"{places[0].name}: its weight is also {owner}, which needs it whole"
    if len({place.module.padding_idx for place in places}) > 1:
        yield f"{places[0].name}: shared by modules with different padding_idx ({', '.join(p.name for p in places)})"
    for module, name in {place.module: place.name for place in reversed(places)}.items():
        yield from (f"{name}: {reason}" for reason in _reasons(module))


def _reasons(module: nn.Embedding | nn.EmbeddingBag) -> Iterator[str]:
    if not isinstance(module._parameters.get("weight"), nn.Parameter):
        yield "its weight is computed from others (parametrize, weight_norm); remove the parametrization first"
        return
    if type(module).forward not in (nn.Embedding.forward, nn.EmbeddingBag.forward):
        yield f"{type(module).__name__} has a forward of its own, which a swap would drop"
    elif own := _own_members(module):
        yield f"{type(module).__name__} has members of its own ({', '.join(own)}), which a swap would drop"
    if module.max_norm is not None:
        yield "max_norm renormalises rows in place, which shared rows cannot keep; set max_norm=None"
    if module.scale_grad_by_freq:
        yield "scale_grad_by_freq is not supported; set it to False"
    if getattr(module, "mode", "sum") == "max":
        yield "mode='max' is not supported, only 'sum' and 'mean'"
    if not module.weight.is_floating_point():
        yield f"weights of {module.weight.dtype} are quantised"
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        yield "it has hooks, which a swap would drop; remove them first"
    if module.weight._backward_hooks or module.weight._post_accumulate_grad_hooks:
        yield "its weight has gradient hooks, which a swap would drop; remove them first"
    yield from _bad_values(module)


def _own_members(module: nn.Embedding | nn.EmbeddingBag) -> list[str]:
    """Public names that a subclass of torch's class adds; the model may use them."""
    known = set(dir(nn.Embedding)) | set(dir(nn.EmbeddingBag))
    return sorted(name for name in dir(type(module)) if name not in known and not name.startswith("_"))


@torch.no_grad()
def _bad_values(module: nn.Embedding | nn.EmbeddingBag) -> Iterator[str]:
    weight, padding = module.weight, module.padding_idx
    if weight.device.type == "meta" or not weight.is_floating_point():
        return
    for start, block in enumerate(weight.split(_ROWS_AT_A_TIME)):
        finite = block.isfinite().all(1)
        if not finite.all():
            row = start * _ROWS_AT_A_TIME + int((~finite).nonzero()[0])
            yield f"row {row} of its weights is not finite, and would spread over the rows of other ids"
            break
    if padding is not None and isinstance(module, nn.Embedding) and bool(weight[padding].any()):
        yield (
            f"its padding row {padding} holds values, which lookups return; a swapped table gives zeros for padding: "
            f"set them to zero (weight.data[{padding}].zero_()), or padding_idx to None"
        )


@torch.no_grad()
def _std(module: nn.Embedding | nn.EmbeddingBag) -> float:
    """Of the weights outside ``padding_idx``, in float64, without a copy of the table."""
    weight: Tensor = module.weight
    if weight.device.type == "meta":
        return float("nan")
    parts = [weight] if module.padding_idx is None else [weight[: module.padding_idx], weight[module.padding_idx + 1 :]]
    total, squares, count = 0.0, 0.0, 0
    for block in (block for part in parts for block in part.split(_ROWS_AT_A_TIME)):
        values = block.double()
        total, squares, count = (
            total + float(values.sum()),
            squares + float(values.square().sum()),
            count + values.numel(),
        )
    if count < 2:
        return squares**0.5
    return max(squares / count - (total / count) ** 2, 0.0) ** 0.5
