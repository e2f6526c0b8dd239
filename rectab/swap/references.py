"""What else in a model still points at a replaced table: optimizers, and plain Python lists of parameters or modules.

DeepCTR-Torch keeps its penalised parameters in a list, FuxiCTR builds its optimizer in ``__init__``: left alone, the
first would go on penalising a table that is gone, the second would train it and not its successor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

__all__ = ["ModuleChange", "OptimizerChange", "Replacement", "find_optimizers", "optimizer_changes"]

_TAKES_SPARSE = (torch.optim.SGD, torch.optim.Adagrad, torch.optim.SparseAdam)
_DEEPEST = 8
_NAMES = ("params", "param_names")
_OWN_FIELDS = {"_parameters", "_buffers", "_modules"}


@dataclass(frozen=True)
class Replacement:
    """By identity: the module that takes the place of a module, the parameters that take the place of a parameter."""

    modules: Mapping[nn.Module, nn.Module]
    parameters: Mapping[nn.Parameter, Sequence[nn.Parameter]]


@dataclass(frozen=True)
class ModuleChange:
    """Modules in their places, and plain attributes that hold them.

    Attributes:
        modules: (parent, key, old module, new module).
        attributes: (module, name, old value, new value).
    """

    modules: Sequence[tuple[nn.Module, str, nn.Module, nn.Module]]
    attributes: Sequence[tuple[nn.Module, str, Any, Any]]

    @classmethod
    def of(
        cls, model: nn.Module, places: Iterable[tuple[nn.Module, str, nn.Module]], replacement: Replacement
    ) -> ModuleChange:
        """What ``replacement`` means for a model whose modules to be replaced are at ``places`` (parent, key, module).

        Raises ValueError for an attribute that cannot be changed.
        """
        modules = [(parent, key, module, replacement.modules[module]) for parent, key, module in places]
        return cls(modules, list(attribute_changes(model, replacement)))

    def apply(self) -> None:
        for parent, key, _, new in self.modules:
            parent._modules[key] = new
        for module, name, _, value in self.attributes:
            vars(module)[name] = value

    def undo(self) -> None:
        for parent, key, old, _ in self.modules:
            parent._modules[key] = old
        for module, name, value, _ in self.attributes:
            vars(module)[name] = value


def attribute_changes(model: nn.Module, replacement: Replacement) -> Iterator[tuple[nn.Module, str, Any, Any]]:
    """(module, attribute, old value, new value) of every plain attribute that holds something replaced.

    Looks into lists, tuples, dicts and sets, eight deep; a new container is made only where something changed.
    """
    for module in model.modules():
        for name, value in vars(module).items():
            if name in _OWN_FIELDS:
                continue
            new = _replaced(value, replacement)
            if len(new) == 1 and new[0] is value:
                continue
            if len(new) != 1:
                raise ValueError(
                    f"{type(module).__name__}.{name} is a replaced parameter and {len(new)} parameters take its place; "
                    "exclude the table or remove the attribute"
                )
            yield module, name, value, new[0]


def _replaced(value: Any, replacement: Replacement, depth: int = 0) -> list[Any]:
    """What stands in the place of ``value``: usually one thing, several parameters for one parameter."""
    if isinstance(value, nn.Parameter):
        return list(replacement.parameters[value]) if value in replacement.parameters else [value]
    if isinstance(value, nn.Module):
        return [replacement.modules.get(value, value)]
    if depth == _DEEPEST or not isinstance(value, (dict, list, tuple, set)):
        return [value]
    if isinstance(value, dict):
        return [_replaced_dict(value, replacement, depth)]
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):  # an entry of named_parameters()
        return [value if new is value[1] else (value[0], new) for new in _replaced(value[1], replacement, depth + 1)]
    parts = [(item, _replaced(item, replacement, depth + 1)) for item in value]
    if all(len(new) == 1 and new[0] is item for item, new in parts):
        return [value]
    items = list(_without_repeated_parameters(new for _, part in parts for new in part))
    return [type(value)(*items) if hasattr(value, "_fields") else type(value)(items)]


def _replaced_dict(value: dict[Any, Any], replacement: Replacement, depth: int) -> dict[Any, Any]:
    changed = {}
    for key, item in value.items():
        new = _replaced(item, replacement, depth + 1)
        if len(new) != 1:
            raise ValueError(f"a dict holds a replaced parameter under {key!r}; exclude the table or drop the entry")
        if new[0] is not item:
            changed[key] = new[0]
    if not changed:
        return value
    copy = value.copy()
    copy.update(changed)
    return copy


def _without_repeated_parameters(items: Iterable[Any]) -> Iterator[Any]:
    """Several tables become one: its parameters are listed once, or a penalty on them would count many times."""
    seen: set[int] = set()
    for item in items:
        parameter = item[1] if isinstance(item, tuple) and len(item) == 2 else item
        if isinstance(parameter, nn.Parameter):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
        yield item


@dataclass
class OptimizerChange:
    """New parameter lists of one optimizer; :meth:`apply` and :meth:`undo` edit it in place, so schedulers keep it."""

    optimizer: torch.optim.Optimizer
    groups: list[list[Any]]
    names: list[list[str] | None]
    _old_groups: list[list[Any]] = field(default_factory=list)
    _old_names: list[list[str] | None] = field(default_factory=list)
    _old_state: dict[Any, Any] = field(default_factory=dict)

    def apply(self) -> None:
        """Give the optimizer its new parameter lists. State of parameters that leave is kept aside for :meth:`undo`.

        Raises:
            ValueError: the optimizer has another number of groups than when the change was made.
        """
        self._old_groups, self._old_names = self._swap_groups(self.groups, self.names)
        kept = {id(parameter) for group in self.groups for parameter in group}
        for parameter in [p for group in self._old_groups for p in group if id(p) not in kept]:
            if parameter in self.optimizer.state:
                self._old_state[parameter] = self.optimizer.state.pop(parameter)

    def undo(self) -> None:
        """Put the old parameter lists and their state back; state of the parameters that came is dropped.

        Call it once, after :meth:`apply`.
        """
        for parameter in (p for group in self.groups for p in group):
            if all(parameter is not old for group in self._old_groups for old in group):
                self.optimizer.state.pop(parameter, None)
        self._swap_groups(self._old_groups, self._old_names)
        self.optimizer.state.update(self._old_state)

    def _swap_groups(
        self, groups: list[list[Any]], names: list[list[str] | None]
    ) -> tuple[list[list[Any]], list[list[str] | None]]:
        old: list[list[Any]] = []
        old_names: list[list[str] | None] = []
        for group, parameters, new_names in zip(self.optimizer.param_groups, groups, names, strict=True):
            old.append(group["params"])
            old_names.append(group.get("param_names"))
            group["params"] = list(parameters)
            if new_names is not None:
                group["param_names"] = list(new_names)
        return old, old_names


def find_optimizers(model: nn.Module, given: Any) -> list[torch.optim.Optimizer]:
    """The optimizers given, and those that modules of the model keep as attributes (FuxiCTR, DeepCTR-Torch)."""
    optimizers = [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]
    for optimizer in optimizers:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer must be a torch optimizer, got {type(optimizer).__name__}")
    kept = [v for m in model.modules() for v in vars(m).values() if isinstance(v, torch.optim.Optimizer)]
    return list({id(optimizer): optimizer for optimizer in [*optimizers, *kept]}.values())


def optimizer_changes(
    optimizers: Sequence[torch.optim.Optimizer],
    replacement: Replacement,
    gradient: str,
    required: Any = None,
    names: Mapping[nn.Parameter, str] | None = None,
) -> list[OptimizerChange]:
    """How each optimizer must change. Its state for parameters that stay is kept.

    ``names`` are those of the new parameters, for an optimizer that was made of ``named_parameters()``.

    Raises:
        ValueError: an optimizer in ``required`` holds no replaced parameter, one cannot take the gradients of the new
            tables, or tables that will share rows are in groups with different options.
    """
    changes = []
    for optimizer in optimizers:
        groups, places = _new_groups(optimizer, replacement)
        if not places:
            if required is not None and any(optimizer is r for r in _as_list(required)):
                raise ValueError("the optimizer given holds none of the tables that are swapped")
            continue
        _check_gradient(optimizer, gradient, bool(any(replacement.parameters.values())))
        _check_options(optimizer, places)
        changes.append(OptimizerChange(optimizer, groups, _new_names(optimizer, groups, names or {})))
    return changes


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _new_groups(
    optimizer: torch.optim.Optimizer, replacement: Replacement
) -> tuple[list[list[Any]], dict[nn.Parameter, set[int]]]:
    """(new parameters of every group, for each new parameter the groups that its predecessors were in).

    A parameter goes to the first of them. A replaced parameter without successors counts under itself.
    """
    places: dict[nn.Parameter, set[int]] = {}
    groups: list[list[Any]] = []
    for index, group in enumerate(optimizer.param_groups):
        parameters = []
        for parameter in group["params"]:
            if parameter not in replacement.parameters:
                parameters.append(parameter)
                continue
            successors = replacement.parameters[parameter]
            for new in successors:
                if new not in places:
                    parameters.append(new)
                places.setdefault(new, set()).add(index)
            if not successors:
                places.setdefault(parameter, set()).add(index)
        groups.append(parameters)
    return groups, places


def _new_names(
    optimizer: torch.optim.Optimizer, groups: Sequence[Sequence[Any]], names: Mapping[nn.Parameter, str]
) -> list[list[str] | None]:
    """Names of the new parameters of every group; None where the optimizer keeps none."""
    if any("param_names" not in group for group in optimizer.param_groups):
        return [None] * len(groups)
    known = {
        parameter: name
        for group in optimizer.param_groups
        for parameter, name in zip(group["params"], group["param_names"], strict=True)
    }
    return [[known.get(p) or names.get(p, "") for p in parameters] for parameters in groups]


def _check_gradient(optimizer: torch.optim.Optimizer, gradient: str, has_successors: bool) -> None:
    name = type(optimizer).__name__
    if gradient == "sparse" and not isinstance(optimizer, _TAKES_SPARSE):
        raise ValueError(f"{name} does not take sparse gradients; use gradient='dense', or 'row' with a row optimizer")
    if gradient == "dense" and has_successors and isinstance(optimizer, torch.optim.SparseAdam):
        raise ValueError("SparseAdam takes sparse gradients only; use gradient='sparse'")


def _check_options(optimizer: torch.optim.Optimizer, places: Mapping[nn.Parameter, set[int]]) -> None:
    for indices in places.values():
        options = [{k: v for k, v in optimizer.param_groups[i].items() if k not in _NAMES} for i in indices]
        if any(option != options[0] for option in options[1:]):
            raise ValueError(
                "tables that will share rows are in optimizer groups with different options (learning rate, decay); "
                "swap them in separate calls with include, or put them in one group first"
            )
