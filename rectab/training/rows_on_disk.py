"""Training with rows and optimizer state in files: killed at any moment, it goes on from its last checkpoint.

Rows in files are written as training goes. What makes them again what they were at the last checkpoint is a journal of
the rows written since (:mod:`rectab.optim.journal`), and at the best evaluation another one
(:mod:`rectab.training.best_rows`). A checkpoint is then the small rest of the model and the names of two journals: its
cost follows the rows that were touched, not the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from rectab.batch import Batch
from rectab.models import CTRModel
from rectab.ops.mapped import MappedFiles
from rectab.optim import RowOptimizer
from rectab.optim.journal import RowJournal
from rectab.tables.base import EmbeddingTable
from rectab.training.device import one_ahead
from rectab.training.optimizers import OptimizerSet

__all__ = ["RowsOnDisk", "page_ins"]

MadeT = TypeVar("MadeT")

_READERS = 8  # a disk answers as many questions at once as it is asked
_ROWS_A_READER = 2048


def page_ins() -> int:
    """Pages that this process has had to read from a disk so far; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


class RowsOnDisk:
    """The files of one run of one stage.

    Args:
        folder: where they lie.
        identity: of the run, plain data.

    Raises:
        ValueError: the folder holds the rows of another run.
    """

    def __init__(self, folder: Path, identity: Any) -> None:
        self.files = MappedFiles(folder, identity)
        self._rows: dict[str, list[Tensor]] = {}
        self._generation = 0
        self._since: RowJournal | None = None
        self._optimizer: RowOptimizer | None = None
        self._pool = ThreadPoolExecutor(max_workers=_READERS)

    def build(self, make: Callable[[], MadeT]) -> MadeT:
        """What ``make`` gives, its rows in the files."""
        with self.files.active():
            return make()

    def attached(self, make: Callable[[], OptimizerSet]) -> OptimizerSet:
        """Optimizers, their state in the files; from now on, rows are noted before they are written."""
        made = self.build(make)
        self._attach(made.rows)
        return made

    def _attach(self, optimizer: RowOptimizer | None) -> None:
        if optimizer is None:
            raise ValueError("rows in files are trained by row optimizers alone; use gradient 'row'")
        self._optimizer = optimizer
        for name, updater in optimizer.rows.items():
            held = (*updater.store.tensors.values(), *updater.per_row().values())
            self._rows[name] = [t for t in held if self.files.owns(t)]
            updater.before_write = partial(self._note, name)
        if not self.files.reopened:
            self.files.keep()

    def _note(self, name: str, rows: Tensor) -> None:
        if self._since is not None:
            self._since.note(name, rows)

    # What is in files is not in the checkpoint.

    def without_rows(self, state: Any) -> Any:
        """Nested state without the tensors that lie in the files."""
        if isinstance(state, dict):
            kept = {k: v for k, v in state.items() if not (isinstance(v, Tensor) and self.files.owns(v))}
            return {key: self.without_rows(value) for key, value in kept.items()}
        return [self.without_rows(item) for item in state] if isinstance(state, list) else state

    def with_rows(self, state: Any, own: Any) -> Any:
        """``state`` of :meth:`without_rows` and, from ``own``, the tensors in the files as they are."""
        if isinstance(own, dict) and isinstance(state, dict):
            held = {k: v for k, v in own.items() if isinstance(v, Tensor) and self.files.owns(v)}
            return {key: self.with_rows(value, own.get(key)) for key, value in state.items()} | held
        if isinstance(own, list) and isinstance(state, list) and len(own) == len(state):
            return [self.with_rows(*pair) for pair in zip(state, own, strict=True)]
        return state

    # Checkpoints.

    def _journal(self, generation: int) -> RowJournal:
        return RowJournal(self.files.folder / f"since-{generation:06d}.journal", self._rows)

    def begin_checkpoint(self) -> dict[str, Any]:
        """Plain data for a checkpoint that is about to be written."""
        self.files.flush()
        return {"generation": self._generation + 1}

    def end_checkpoint(self) -> None:
        """The checkpoint is written: what was noted before it is not needed any longer."""
        self._start(self._generation + 1)

    def _start(self, generation: int) -> None:
        old, self._generation = self._since, generation
        self._since = self._journal(generation)
        if old is not None and old.path != self._since.path:
            old.remove()
        for path in self.files.folder.glob("since-*.journal"):
            if path != self._since.path:
                path.unlink()

    def resume(self, told: dict[str, Any] | None) -> None:
        """Make rows what they were at the checkpoint that told this; None: as they were first.

        Raises:
            ValueError: the folder does not go with the checkpoint.
        """
        generation = 0 if told is None else int(told["generation"])
        folder = self.files.folder
        later = sorted(int(p.stem.split("-")[1]) for p in folder.glob("since-*.journal"))
        if any(number > generation for number in later) or (told is None and later not in ([], [0])):
            raise ValueError(f"{folder}: holds rows of a later moment than the checkpoint; delete both to start again")
        written_since = self._journal(generation)
        written_since.roll_back()
        written_since.remove()
        self._since = None
        self._start(generation)

    def finish(self) -> None:
        """Delete the files; tensors stay usable."""
        self._pool.shutdown()
        self.files.remove()

    # Coming batches.

    def prefetched(self, source: Iterator[Batch], model: CTRModel) -> Iterator[Batch]:
        """The same batches; while the step of one runs, the rows of the next are read, many at once."""

        def send(batch: Batch) -> Batch:
            self._pool.submit(self._touch, batch, model)
            return batch

        with closing(one_ahead(source, send, lambda batch: batch)) as batches:
            yield from batches

    @torch.no_grad()
    def _touch(self, batch: Batch, model: CTRModel) -> None:
        table = model.table
        if type(table).reads is EmbeddingTable.reads or self._optimizer is None:
            return  # such a table does not say what it reads
        by_store = {id(updater.store): name for name, updater in self._optimizer.rows.items()}
        lookups = [(batch.ids, model.field_vocabularies)]
        for feature in (f for features in model.schema.behaviours.values() for f in features if len(model.behaviours)):
            index = torch.tensor(model.schema.vocabulary_index(feature.vocabulary))
            lookups.append((batch.histories[feature.name].values, index))
        for ids, vocabulary in lookups:
            for store, rows in table.reads(ids, vocabulary.expand(ids.shape)):
                for part in rows.unique().split(_ROWS_A_READER):
                    for tensor in self._rows[by_store[id(store)]]:
                        self._pool.submit(torch.index_select, tensor.view(len(tensor), -1)[:, 0].detach(), 0, part)
