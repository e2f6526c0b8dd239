"""One name for a shared table in a model's ``state_dict``, though every view of it is a module of the model.

``safetensors`` refuses tensors that are listed twice, and a copied or sharded ``state_dict`` would hold the table once
a view. The hooks here leave the entries of the first view and drop those of the others; loading knows where they went.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

__all__ = ["share_names"]


def share_names(model: nn.Module, names: Sequence[Sequence[str]]) -> list[Any]:
    """Makes the ``state_dict`` of ``model`` name each table once; that of a part of it stays whole, with repeats.

    Args:
        model: what was swapped.
        names: of each table, the dotted paths of its views; the first one is the name that stays.

    Returns:
        handles, whose ``remove()`` undoes it.
    """
    first_of = {alias: first for first, *aliases in names for alias in aliases}
    if not first_of:
        return []
    return [
        model.register_state_dict_post_hook(partial(_drop_repeats, first_of)),
        model.register_load_state_dict_pre_hook(partial(_restore_repeats, first_of)),
    ]


def _drop_repeats(
    first_of: Mapping[str, str], module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    for alias in first_of:
        for key in _below(state_dict, f"{prefix}{alias}.table."):
            del state_dict[key]


def _restore_repeats(
    first_of: Mapping[str, str], module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    """Entries that a checkpoint has under the other names, too, stay what they are there."""
    for alias, first in first_of.items():
        source, target = f"{prefix}{first}.table.", f"{prefix}{alias}.table."
        for key in _below(state_dict, source):
            state_dict.setdefault(target + key.removeprefix(source), state_dict[key])


def _below(state_dict: Mapping[str, Tensor], prefix: str) -> list[str]:
    return [key for key in state_dict if key.startswith(prefix)]
