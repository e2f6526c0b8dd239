"""``swap_``: rectab tables in the place of a model's own, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from torch import nn

from rectab.ops import Gradient, RowStore
from rectab.swap.change import ModelChange
from rectab.swap.find import Place, Selector
from rectab.swap.planning import PlannedTable, SwapPlan, plan_swap
from rectab.swap.references import Replacement
from rectab.swap.result import SwapResult, targets_of
from rectab.swap.starting import own_rows, scale_rows
from rectab.swap.views import SwappedBag, SwappedEmbedding, SwappedView
from rectab.tables import EmbeddingTable
from rectab.tables.fit import reconstruction_error
from rectab.tables.unseen import Unseen

__all__ = ["carry_out", "swap_"]

_LARGEST_SCALE = 4.0
"""Of a view's output: shared rows move by one learning rate, and the output by that times the scale."""


def swap_(
    model: nn.Module,
    method: str = "unified",
    budget: str | int | None = "25%",
    *,
    include: Selector = None,
    exclude: Selector = None,
    optimizer: Any = None,
    gradient: Gradient = "dense",
    init: str = "fresh",
    unseen: Unseen | None = "error",
    counts: Mapping[str, Any] | None = None,
    rows: str | None = None,
    train_memory: str | int | None = None,
    seed: int = 0,
    verbose: bool = True,
    **method_options: Any,
) -> SwapResult:
    """Replace the embedding tables of ``model``, in place, by rectab tables within one budget.

    Works on plain torch (``nn.Embedding``, ``nn.EmbeddingBag``), torchrec's unsharded ``EmbeddingBagCollection`` and
    ``EmbeddingCollection``, FuxiCTR's ``FeatureEmbedding`` and DeepCTR-Torch's ``embedding_dict``. Tables of equal
    width and like scale become the vocabularies of one rectab table; every alias is replaced; optimizers that hold a
    replaced table are edited in place. Either all of it is done or, with an error, nothing.

    Args:
        model: what to change.
        method: a registered table method (``rectab tables`` lists them).
        budget: bytes of all new tables together: ``"25%"`` of those replaced, ``"64MiB"``, a number; None for the
            method's own size.
        include: only these tables: shell patterns of dotted names, or a function of (name, module).
        exclude: not these.
        optimizer: one or several already built over ``model``. Those that the model keeps itself are found.
        gradient: ``dense`` or ``sparse`` for a torch optimizer; ``row`` for rectab's row optimizers, which get
            ``SwapResult.row_stores()``.
        init: ``fresh``: new values with the std of the table replaced. ``trained``: from its weights.
        unseen: what an id outside its vocabulary reads, see :mod:`rectab.tables.unseen`; by default it raises
            IndexError, as torch's tables do on the CPU.
        counts: by table name, how often each id occurs in training: weighs the errors of ``init="trained"``, and some
            methods need it.
        rows: how rows are held (``int8``, ``bf16``, ...), see :mod:`rectab.ops.formats`; None for the dtype of the
            tables replaced.
        train_memory: most bytes that training all new tables may take, read as ``budget`` is: rows, gradients and the
            state of Adam; None sets no limit.
        seed: of initial values.
        verbose: print what was done, with bytes before and after.
        **method_options: the method's own (``num_chunks=4``).

    Returns:
        What can undo it, train the rows and map checkpoints both ways.

    Raises:
        ValueError: a table, an optimizer or an option does not allow it; every reason comes with what to do.
        InfeasibleBudget: with the smallest budget that is feasible, or with what training takes.
    """
    swap_plan = plan_swap(
        model,
        method,
        budget,
        include=include,
        exclude=exclude,
        gradient=gradient,
        init=init,
        unseen=unseen,
        counts=counts,
        rows=rows,
        train_memory=train_memory,
        seed=seed,
        **method_options,
    )
    result = carry_out(model, swap_plan, optimizer)
    if verbose:
        print(result)
    return result


def carry_out(model: nn.Module, swap_plan: SwapPlan, optimizer: Any = None) -> SwapResult:
    """Do what ``swap_plan`` says. Everything that can fail happens before the model is touched."""
    meta = [f.name for t in swap_plan.tables for f in t.found if f.weight.device.type == "meta"]
    if meta and swap_plan.init == "trained":
        raise ValueError(f"tables {meta} are on the meta device and have no weights to start from; use init='fresh'")
    gradient = swap_plan.tables[0].plan.options.gradient
    _check_penalties(model, gradient)
    tables, errors = _build(swap_plan)
    replacements: dict[nn.Module, nn.Module] = {}
    views: dict[str, SwappedView] = {}
    parameters: dict[nn.Parameter, list[nn.Parameter]] = {}
    parameter_names: dict[nn.Parameter, str] = {}
    for planned, table in zip(swap_plan.tables, tables, strict=True):
        successors = _host_trained(table)
        for index, found in enumerate(planned.found):
            parameters[found.weight] = successors
            for place in found.places:
                view = replacements.setdefault(place.module, _view(table, index, place, planned, swap_plan.init))
                views[place.name] = view  # type: ignore[assignment]
        prefix = f"{planned.found[0].name}.table."
        parameter_names.update({parameter: prefix + name for name, parameter in table.named_parameters()})
    groups = [planned.found for planned in swap_plan.tables]
    replacement = Replacement(replacements, parameters)
    change = ModelChange.carry_out(model, groups, replacement, optimizer, gradient, parameter_names)
    return SwapResult(model, swap_plan, tables, views, errors, change)


def _build(swap_plan: SwapPlan) -> tuple[tuple[EmbeddingTable, ...], dict[str, float]]:
    """The tables, and the reconstruction error of every vocabulary if they start from trained weights."""
    tables, errors = [], {}
    for planned in swap_plan.tables:
        # Built on the CPU, where a seed gives the same values on every machine, and moved.
        table = planned.plan.build()
        if swap_plan.init == "fresh":
            _start(table, planned.scales)
        weight = planned.found[0].weight
        table = table.to(weight.device)
        for store in (module for module in table.modules() if isinstance(module, RowStore)):
            store.dtype = weight.dtype  # of vectors, whatever holds the rows
        if swap_plan.init == "trained":
            targets = targets_of(planned, [found.weight for found in planned.found], list(planned.scales))
            table.start_from(targets)
            for target, found in zip(targets, planned.found, strict=True):
                errors[found.name] = reconstruction_error(table, target)
        tables.append(table)
    return tuple(tables), errors


def _host_trained(table: EmbeddingTable) -> list[nn.Parameter]:
    """The parameters that a host's own optimizer and penalties are for; rows with row gradients are not."""
    if table.options.gradient == "row":
        return list(table.dense_parameters())
    return [parameter for parameter in table.parameters() if parameter.requires_grad]


def _start(table: EmbeddingTable, scales: Sequence[float]) -> None:
    """Rows that only one vocabulary reads start at the std of its host table."""
    if own_rows(table) and table.options.device != "meta":
        scale_rows(table, scales)


def _output_scale(table: EmbeddingTable, scale: float, init: str) -> float | None:
    """Of a view: rows that vocabularies share cannot have the std of each. Whether there is one depends on no draw."""
    if init == "trained" or own_rows(table):
        return None
    return min(max(scale, 1 / _LARGEST_SCALE), _LARGEST_SCALE)


def _view(table: EmbeddingTable, index: int, place: Place, planned: PlannedTable, init: str) -> SwappedView:
    module = place.module
    scale = _output_scale(table, planned.scales[index], init)
    start = partial(_start, scales=planned.scales)
    if isinstance(module, nn.EmbeddingBag):
        mode: Literal["sum", "mean"] = "sum" if module.mode == "sum" else "mean"
        view: SwappedView = SwappedBag(table, index, module.padding_idx, scale, start, mode, module.include_last_offset)
    else:
        view = SwappedEmbedding(table, index, module.padding_idx, scale, start)
    return view.train(module.training)


def _check_penalties(model: nn.Module, gradient: Gradient) -> None:
    """FuxiCTR penalises every parameter below its embedding layer, with a dense gradient that row training ignores."""
    if gradient == "row" and getattr(model, "_embedding_regularizer", None):
        raise ValueError(
            "the model's embedding_regularizer gives dense gradients, which row optimizers do not read; set "
            "model._embedding_regularizer = None and use the row optimizer's weight_decay"
        )
