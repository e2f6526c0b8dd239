"""All that a swap changes in a model, done at once and undone at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from rectab.ops import Gradient
from rectab.swap.collections import rename_collections
from rectab.swap.find import FoundTable
from rectab.swap.naming import share_names
from rectab.swap.references import ModuleChange, OptimizerChange, Replacement, find_optimizers, optimizer_changes

__all__ = ["ModelChange"]


@dataclass
class ModelChange:
    """Modules and the attributes that hold them, optimizers, names in the ``state_dict``, classes of collections."""

    modules: ModuleChange
    optimizers: Sequence[OptimizerChange]
    names: Sequence[Any]
    kinds: Sequence[tuple[nn.Module, type[nn.Module]]]

    @classmethod
    def carry_out(
        cls,
        model: nn.Module,
        groups: Sequence[Sequence[FoundTable]],
        replacement: Replacement,
        optimizer: Any,
        gradient: Gradient = "dense",
        parameter_names: Mapping[nn.Parameter, str] | None = None,
    ) -> ModelChange:
        """Everything that can fail happens before the model is touched.

        Args:
            model: what to change.
            groups: the tables that become one, each group.
            replacement: of their modules and parameters.
            optimizer: one or several that are given, beside those that the model keeps.
            gradient: of the new tables.
            parameter_names: of new parameters, for optimizers made of ``named_parameters()``.
        """
        places = ((p.parent, p.key, p.module) for tables in groups for table in tables for p in table.places)
        modules = ModuleChange.of(model, places, replacement)
        optimizers = optimizer_changes(
            find_optimizers(model, optimizer), replacement, gradient, optimizer, parameter_names
        )
        modules.apply()
        for change in optimizers:
            change.apply()
        kinds = rename_collections(model)
        names = share_names(model, [list(_names(tables)) for tables in groups])
        return cls(modules, optimizers, names, kinds)

    def undo(self) -> None:
        self.modules.undo()
        for change in self.optimizers:
            change.undo()
        for collection, kind in self.kinds:
            collection.__class__ = kind
        for hook in self.names:
            hook.remove()


def _names(tables: Sequence[FoundTable]) -> Iterable[str]:
    return (name for table in tables for name in table.names)
