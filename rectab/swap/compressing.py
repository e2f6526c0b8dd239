"""``compress_``: the trained embedding tables of a host's model in packed bytes, with no further training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from rectab.swap.change import ModelChange
from rectab.swap.encoding import encoded, read_counts, traffic
from rectab.swap.find import FoundTable, Selector, find_tables
from rectab.swap.measuring import loss_by_logits, measure
from rectab.swap.packed_views import packed_view
from rectab.swap.reading import Meaning, Reading
from rectab.swap.references import Replacement
from rectab.tables.budget import parse_budget
from rectab.tables.quantized import RankedTable

__all__ = ["CompressResult", "compress_", "put_tables"]


@dataclass
class CompressResult:
    """A compressed model.

    Attributes:
        model: the model that was changed.
        tables: the packed table of every weight, by its first dotted path.
        bytes: of all of them: payloads, headers and partitions.
        bytes_before: of the weights they replace.
        loss_predicted: AUC that it costs if the model's own probabilities are right; None without batches, or if the
            model does not give one logit or probability a row.
    """

    model: nn.Module
    tables: dict[str, RankedTable]
    bytes: int
    bytes_before: int
    loss_predicted: float | None
    _change: ModelChange | None = field(repr=False)

    def undo(self) -> None:
        """Put the model's own tables back. Raises RuntimeError if they are back or gone."""
        if self._change is None:
            raise RuntimeError("the original tables are back or gone; nothing to undo")
        self._change.undo()
        self.discard_originals()

    def discard_originals(self) -> None:
        """Let go of the model's own tables, which are kept in memory only for :meth:`undo`."""
        self._change = None

    def __str__(self) -> str:
        loss = "not predicted" if self.loss_predicted is None else f"{self.loss_predicted:.4f} predicted"
        return (
            f"compressed: {len(self.tables)} tables, {self.bytes_before} -> {self.bytes} bytes "
            f"({self.bytes / self.bytes_before:.1%}), AUC lost: {loss}"
        )


def compress_(
    model: nn.Module,
    budget: str | int,
    *,
    counts: Mapping[str, Any] | None = None,
    batches: Iterable[Any] | None = None,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    outputs: Meaning | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    include: Selector = None,
    exclude: Selector = None,
    optimizer: Any = None,
    seed: int = 0,
    verbose: bool = True,
) -> CompressResult:
    """Replace the trained tables of a model, in place, by packed ones within ``budget``; to be served.

    Works on plain torch (``nn.Embedding``, ``nn.EmbeddingBag``), torchrec's unsharded collections, FuxiCTR and
    DeepCTR-Torch. Nothing is trained. Either all of it is done or, with an error, nothing.

    Args:
        model: a trained one; tables that are frozen are compressed like the others.
        budget: bytes of all packed tables, partitions included: ``"10%"`` of those replaced, ``"4MiB"``, a number.
        counts: by dotted name, int64 [num_embeddings]: how often each id occurs in training.
        batches: what the model takes, for some training rows: each a tensor, a tuple of positional or a dict of keyword
            arguments, or the one thing that it takes; at most 20,000 rows are read. Gradients are measured on them, and
            counts where none are given.
        forward: ``forward(model, batch)`` gives the outputs, where calling the model does not.
        outputs: whether the model gives ``"logits"`` or ``"probabilities"``; None tells it from their values.
        loss: ``loss(outputs, batch)``, a number or one a row: gradients are those of the loss, for models whose outputs
            are not logits; no AUC is then predicted.
        include, exclude: as for :func:`rectab.swap_`.
        optimizer: one or several over ``model`` that are to let go of the tables. Those the model keeps are found.
        seed: of the fits.
        verbose: print what was done.

    Returns:
        What can undo it. Its ``tables`` and the model's ``state_dict`` are all that :func:`rectab.load_compressed_`
        needs in another process.

    Raises:
        ValueError: tables that cannot be compressed, counts or batches that do not fit the model.
        InfeasibleBudget: with the smallest budget that is feasible.
    """
    found, _ = find_tables(model, include, exclude, frozen=True)
    _check_weights(found)
    given = read_counts(found, counts or {})
    before = sum(table.bytes for table in found)
    limit = parse_budget(budget if isinstance(budget, int) else str(budget), before)
    reading = Reading(forward, outputs, loss)
    taken = None if batches is None else reading.take(model, batches)
    meaning = None if taken is None else reading.meaning(taken)
    measured = None if taken is None else measure(model, found, taken, reading, meaning)
    if measured is None:
        _warn_unmeasured(found, given)
    tables = encoded(found, traffic(found, given, measured), measured, limit, seed)
    result = put_tables(model, found, tables, optimizer)
    if taken is not None:
        try:
            result.loss_predicted = loss_by_logits(model, taken, reading, meaning)
        except BaseException:
            result.undo()  # nobody else could
            raise
    if verbose:
        print(result)
    return result


def _check_weights(found: Sequence[FoundTable]) -> None:
    meta = [f.name for f in found if f.weight.device.type == "meta"]
    if meta:
        raise ValueError(
            f"tables {meta} are on the meta device and have no weights to compress; load the trained ones first, or a "
            "compressed checkpoint with rectab.load_compressed_"
        )
    if all(f.std == 0 for f in found):
        raise ValueError(f"all ids of the tables {[f.name for f in found]} have one vector; load trained weights first")


def _warn_unmeasured(found: Sequence[FoundTable], given: Mapping[str, Any]) -> None:
    uncounted = [table.name for table in found if table.name not in given]
    alike = f", and without counts all ids of {uncounted} weigh alike" if uncounted else ""
    warnings.warn(
        f"compress_: without batches no gradients are measured{alike}; the same bytes then cost more AUC (docs/swap.md "
        "has an example), and no loss is predicted",
        stacklevel=3,
    )


def put_tables(
    model: nn.Module, found: Sequence[FoundTable], tables: Sequence[RankedTable], optimizer: Any = None
) -> CompressResult:
    """Put packed tables in the places of those found."""
    new: dict[nn.Module, nn.Module] = {}
    for f, table in zip(found, tables, strict=True):
        for place in f.places:
            new.setdefault(place.module, packed_view(table, place.module))
    replacement = Replacement(new, {f.weight: [] for f in found})
    change = ModelChange.carry_out(model, [[f] for f in found], replacement, optimizer)
    named = {f.name: table for f, table in zip(found, tables, strict=True)}
    held, before = sum(table.ledger().bytes for table in tables), sum(f.bytes for f in found)
    return CompressResult(model, named, held, before, None, change)
