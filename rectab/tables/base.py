"""The contract every embedding table keeps: ids of any vocabulary in, vectors out, bytes counted.

One table serves all vocabularies of a model. That is what makes multiplexing, pruning across fields and one global byte
budget natural. A table never knows the model around it, and a model never knows which table it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from rectab.ops import RowStore, served_format
from rectab.ops.dispatch import is_eager
from rectab.schema import Vocabulary
from rectab.tables.addressing import Address
from rectab.tables.findings import Finding
from rectab.tables.fit import FitTarget, fit_table
from rectab.tables.ledger import Ledger, measure, measure_tensors, parameters_held, state_of
from rectab.tables.options import TableOptions
from rectab.tables.served_rows import with_rows_served
from rectab.tables.shards import HoldsAllRows
from rectab.tables.unseen import check_vocabulary, guard_outside, place_unseen, refuse_outside, vocabulary_tensor

if TYPE_CHECKING:
    from rectab.optim import RowOptimizer, RowRule
    from rectab.tables.staged import StageRunner
    from rectab.tables.views import BagView, EmbeddingView

__all__ = ["EmbeddingTable", "TableOptions"]

MAX_DIM = 1 << 16
"""Widest vector of a table: what is wider is another number by mistake, or a forged file."""

ConfigT = TypeVar("ConfigT")


class EmbeddingTable(nn.Module, HoldsAllRows, Generic[ConfigT]):
    """Base of all tables.

    A method says where its rows are (:meth:`reads`, :meth:`addresses`) and how they make a vector (``combine``), or
    implements :meth:`lookup` itself; it sets its tensors up in ``__init__`` from ``config`` alone (so that it can be
    built on the meta device to be counted), and registers itself (:mod:`rectab.tables.registry`). It never sees a
    vocabulary index or, unless it serves any id, an id that is outside.

    Args:
        vocabularies: every vocabulary the table serves, in schema order.
        embedding_dim: width D of the vectors.
        config: the method's own config.
        options: how it is held and trained.
    """

    method: ClassVar[str]
    serves_any_id: ClassVar[bool] = False
    """As the method's record says."""
    combine: ClassVar[Literal["concat", "sum", "product"] | None] = None
    """How the rows that an id reads make its vector; None for a method with a lookup of its own."""
    ids_move: ClassVar[bool] = False
    """Whether ids get and lose rows by what is looked up."""
    learns_in_lookups: ClassVar[bool] = False
    """Whether lookups in training change what the table keeps, as statistics of a batch do."""
    lookup_refuses: bool = False
    """True if :meth:`lookup` raises IndexError by itself for every id outside, so that nobody has to look twice."""

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: ConfigT,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= embedding_dim <= MAX_DIM:
            raise ValueError(f"embedding_dim must be in 1..{MAX_DIM}, got {embedding_dim}")
        if not vocabularies:
            raise ValueError("a table needs at least one vocabulary")
        hashed = [v.name for v in vocabularies if v.hashed]
        if hashed and not self.serves_any_id:
            name = self.method.partition(".")[0]
            raise ValueError(f"{name} needs a closed set of ids, but vocabularies {hashed} are hashed")
        self.vocabularies = tuple(vocabularies)
        self.embedding_dim = embedding_dim
        self.config = config
        self.options = options or TableOptions()

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return next(chain(self.parameters(), self.buffers())).device

    @property
    def dtype(self) -> torch.dtype:
        """Of its vectors."""
        return next((m.dtype for m in self.modules() if isinstance(m, RowStore)), torch.float32)

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        """int64 [*] ids, int64 vocabulary indices broadcastable to ids -> float [*, D]."""
        at_once = self.gathered(ids, vocabulary)
        if at_once is not None:
            return at_once
        parts = [store(rows) for store, rows in self.reads(ids, vocabulary)]
        if self.combine == "concat":
            flat = [part.flatten(-2) for part in parts]
            return flat[0] if len(flat) == 1 else torch.cat(flat, -1)
        rows = parts[0] if len(parts) == 1 else torch.cat(parts, -2)
        return rows.prod(-2) if self.combine == "product" else rows.sum(-2)

    def reads(self, ids: Tensor, vocabulary: Tensor) -> list[tuple[RowStore, Tensor]]:
        """(store, its rows int64 [*, k] of every id), in the order of the chunks; arguments as for :meth:`lookup`."""
        raise NotImplementedError(f"{type(self).__name__} implements neither reads nor lookup")

    def gathered(self, ids: Tensor, vocabulary: Tensor) -> Tensor | None:
        """What :meth:`lookup` gives by :meth:`reads`, in one kernel; None without one, or where a gradient is kept."""
        return None

    def forward(self, ids: Tensor, vocabulary: Tensor | int, left_out: Tensor | None = None) -> Tensor:
        """Vectors of ids.

        Args:
            ids: int64 or int32 [*], any shape, also empty.
            vocabulary: which vocabulary each id is of: an index, or int64 broadcastable to ``ids`` ([F] for [B, F]).
            left_out: bool [*]; these ids give zeros and no row hears of them, as padding must: rows may be shared, and
                a gradient of zeros would still move a row by an optimizer's momentum and decay.

        Returns:
            float [*, D].

        Raises:
            IndexError: the table has no such vocabulary; or a fitted vocabulary has no such id, and the method cannot
                serve it or ``unseen`` is ``error``. On CUDA it may be an assertion on the device, as in torch.
        """
        if ids.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"ids must be int64 or int32, got {ids.dtype}")
        vocabulary = check_vocabulary(vocabulary, len(self.vocabularies))
        ids = ids.to(torch.int64) if left_out is None else ids.to(torch.int64).masked_fill(left_out, 0)
        ids, zeros = self._placed(ids, vocabulary)
        if zeros is not None:
            left_out = zeros if left_out is None else left_out | zeros
        columns = vocabulary if isinstance(vocabulary, Tensor) else vocabulary_tensor(vocabulary, ids)
        try:
            return self.lookup(ids, columns) if left_out is None else self._lookup_without(left_out, ids, columns)
        except IndexError:
            refuse_outside(ids, vocabulary, self.vocabularies)  # which names the vocabulary
            raise

    def _placed(self, ids: Tensor, vocabulary: Tensor | int) -> tuple[Tensor, Tensor | None]:
        """Ids that :meth:`lookup` may see, and which of them give zeros. Raises IndexError."""
        unseen = self.options.unseen
        if unseen is not None and unseen != "error":
            ids, outside = place_unseen(ids, vocabulary, self.vocabularies, unseen)
            return ids, outside if unseen == "zero" else None
        if unseen is None and self.serves_any_id:
            return ids, None
        if not is_eager(ids):
            return guard_outside(ids, vocabulary, self.vocabularies)
        if self._must_look(ids):
            refuse_outside(ids, vocabulary, self.vocabularies)
        return ids, None

    def _lookup_without(self, left_out: Tensor, ids: Tensor, vocabulary: Tensor) -> Tensor:
        if ids.dim() == 0 and not is_eager(ids):  # vmap cannot index by a scalar
            return self._lookup_without(left_out.reshape(1), ids.reshape(1), vocabulary.reshape(1))[0]
        if not is_eager(ids, left_out) or (ids.is_cuda and self.options.gradient == "dense"):
            return self.lookup(ids, vocabulary).masked_fill(left_out.unsqueeze(-1), 0.0)
        kept = ~left_out
        if kept.all():
            return self.lookup(ids, vocabulary)
        found = self.lookup(ids[kept], vocabulary if vocabulary.dim() == 0 else vocabulary.expand(ids.shape)[kept])
        places = kept.unsqueeze(-1).expand(*ids.shape, self.embedding_dim)
        return found.new_zeros(places.shape).masked_scatter(places, found)

    def _must_look(self, ids: Tensor) -> bool:
        """Whether ids outside are to be refused and :meth:`lookup` does not do it, or not at once."""
        if self.options.unseen is None:
            return not (self.serves_any_id or self.lookup_refuses)
        return ids.is_cuda or not self.lookup_refuses

    def addresses(self) -> tuple[Address, ...]:
        """Where lookups land; empty for a method whose addressing is not by ranges of rows."""
        return ()

    @property
    def is_rows_end_to_end(self) -> bool:
        """Whether a vector is the rows of :meth:`reads` laid end to end."""
        return self.combine == "concat" and type(self).lookup is EmbeddingTable.lookup

    @property
    def is_plain_rows(self) -> bool:
        """The same, of rows that :meth:`addresses` tells of."""
        return self.is_rows_end_to_end and self.is_combined_rows

    @property
    def is_combined_rows(self) -> bool:
        """Whether :meth:`addresses` and ``combine`` say all there is to say of a vector."""
        return type(self).lookup is EmbeddingTable.lookup and bool(self.addresses())

    def start_from(self, targets: Sequence[FitTarget], seed: int = 0) -> None:
        """Set the weights so that the vectors come nearest to the targets', see :mod:`rectab.tables.fit`."""
        fit_table(self, targets, seed)

    def row_stores(self) -> Iterator[tuple[str, RowStore]]:
        """(name, store) of every row store that is trained."""
        for name, module in self.named_modules():
            if isinstance(module, RowStore) and module.trained:
                yield name, module

    def dense_parameters(self) -> Iterator[nn.Parameter]:
        """Trained parameters outside row stores: scales, thresholds, decoders."""
        rows = {id(held) for _, store in self.row_stores() for held in (store.anchor, *store.tensors.values())}
        return (p for p in self.parameters() if p.requires_grad and id(p) not in rows)

    def ledger(self, optimizer: Any = None) -> Ledger:
        """Every tensor held, and the state of ``optimizer`` (a torch or a row optimizer) if one is given."""
        ledger = measure(self)
        if optimizer is None:
            return ledger
        gradients = [(f"{n}.grad", p.grad) for n, p in parameters_held(self) if p.grad is not None]
        return ledger + measure_tensors(gradients, "gradient") + measure_tensors(state_of(optimizer), "optimizer")

    def serving(self) -> EmbeddingTable:
        """The deployable form: the same outputs, without search-time state. Its ledger is what a budget limits.

        Rows that training ends with in codes (:mod:`rectab.ops.stepped_formats`) are encoded here.
        """
        return self if served_format(self.options.rows).name == self.options.rows else with_rows_served(self)

    def planned_serving(self) -> Ledger:
        """Serving bytes as far as they are known before training; works on the meta device.

        A method that learns its size gives the largest serving form that its training may end in.
        """
        return self.serving().ledger()

    def bytes_between_stages(self) -> int:
        """Most bytes that the method's own steps hold while no optimizer is there (pruning, encoding), this table
        included; 0 if it has none."""
        return 0

    def rules(self) -> dict[str, RowRule]:
        """By store name, the update rules of stores that do not follow the optimizer of the run."""
        return {}

    def after_step(self, step: int, optimizer: RowOptimizer | None) -> None:
        """Called after every step of training, in rectab's trainer and in a host's loop: a table may promote, prune or
        evict rows. What it keeps between steps belongs in its buffers.

        Args:
            step: number of steps so far, from 1.
            optimizer: of the rows, which can ``move`` and ``reset`` them with their state; None: it is torch's.
        """

    def ids_held(self, tensor: Callable[[str], Tensor]) -> dict[str, np.ndarray]:
        """Ids with rows of their own, int64 ascending, by vocabulary, where they move; ``tensor`` gives its state."""
        return {}

    def learned(self) -> tuple[Finding, ...]:
        """What training decided about the table, for reports; empty if it decides nothing."""
        return ()

    def records(self) -> tuple[str, ...]:
        """Names in the ``state_dict`` of what is no weight: it stays as it is when the best weights are loaded."""
        return ()

    def train_with(self, trainer: StageRunner) -> EmbeddingTable:
        """Train this table in ``trainer``'s model, here in one stage. Returns the table trained last."""
        trainer.run("train")
        return trainer.table

    def vocabulary_index(self, name: str) -> int:
        """Index of the named vocabulary. Raises KeyError."""
        for index, vocabulary in enumerate(self.vocabularies):
            if vocabulary.name == name:
                return index
        raise KeyError(f"the table has no vocabulary {name!r}, only {[v.name for v in self.vocabularies]}")

    def embedding(self, name: str, padding_idx: int | None = None) -> EmbeddingView:
        """The named vocabulary with the contract of ``nn.Embedding``; shares this table's rows."""
        from rectab.tables.views import EmbeddingView

        return EmbeddingView(self, self.vocabulary_index(name), padding_idx)

    def bag(
        self,
        name: str,
        mode: Literal["sum", "mean"] = "mean",
        padding_idx: int | None = None,
        include_last_offset: bool = False,
    ) -> BagView:
        """The named vocabulary with the contract of ``nn.EmbeddingBag``; shares this table's rows."""
        from rectab.tables.views import BagView

        return BagView(self, self.vocabulary_index(name), mode, padding_idx, include_last_offset)

    def extra_repr(self) -> str:
        return f"vocabularies={len(self.vocabularies)}, embedding_dim={self.embedding_dim}, config={self.config}"
