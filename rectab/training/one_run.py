"""One run that is to be made: trained, taken from where it lies finished, or encoded of runs that are trained first."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch

from rectab.data.dataset import PreparedDataset
from rectab.models import ModelConfig
from rectab.models.elastic import ElasticModel
from rectab.processes import leads
from rectab.tables import Plan, get_method, plan
from rectab.tables.base import EmbeddingTable
from rectab.training.artifact import MODEL_FILE, save_model
from rectab.training.compress.finetune import FineTune, Tuned, fine_tune_choice
from rectab.training.compress.folder import write_run
from rectab.training.compress.results import encoded_result
from rectab.training.compress.widths import Choice, Widths, open_runs
from rectab.training.config import TrainConfig
from rectab.training.elastic_folder import write_width
from rectab.training.finished import RESULT_FILE, complete, load_result, planned_identity
from rectab.training.inputs_file import write_inputs
from rectab.training.measuring import attention_weights, metrics_on_test
from rectab.training.precision import device_of, peak_memory_bytes
from rectab.training.progress import ProgressMode
from rectab.training.replicas import shardings
from rectab.training.result import RunResult, versions
from rectab.training.rows_on_disk import RowsOnDisk
from rectab.training.shared import SharedRuns
from rectab.training.trainer import Trainer

__all__ = ["OneRun"]


@dataclass(frozen=True)
class OneRun:
    """One run that is to be made; fields as the arguments of :func:`train_once`."""

    dataset: PreparedDataset
    planned: Plan
    model: ModelConfig
    config: TrainConfig
    read_test: bool
    explain_rows: int
    progress: ProgressMode
    device: torch.device
    begin: float
    rows_in: Path | None = None
    shard: str | None = None

    def train(self, out_dir: Path | None) -> RunResult:
        """Train, and measure the serving form."""
        disk = self._rows_on_disk()
        kept = out_dir if leads() else None
        trainer = Trainer(
            self.dataset,
            self._table() if disk is None else disk.build(self.planned.build),
            self.model,
            self.config,
            checkpoints=None if out_dir is None else out_dir / "checkpoints",
            progress=self.progress,
            rows_on_disk=disk,
            device=self.device,
        )
        trainer.restart(trainer.fit().serving(), trainer.model.state_dict())
        result = _measure(trainer, self.planned, self.read_test, self.explain_rows, self.begin, kept)
        if kept is not None and isinstance(trainer.model, ElasticModel):
            for width in self.config.elastic:
                write_width(trainer.model, width, self.dataset, result, kept)
            trainer.model = trainer.model.taken(self.planned.embedding_dim)
        if kept is not None:
            save_model(trainer.model, kept / MODEL_FILE)
            write_inputs(self.dataset, kept)
            result.save(kept / RESULT_FILE)
            trainer.checkpoints.remove()
        if disk is not None:
            disk.finish()
        return result

    def _table(self) -> EmbeddingTable:
        """The table that is trained; where it is sharded, this process's part of it."""
        if self.shard is None:
            return self.planned.build()
        if find_spec("torchrec") is None:
            raise ValueError("--shard needs torchrec: pip install torchrec fbgemm-gpu (fbgemm-gpu-cpu without a GPU)")
        from rectab.swap.torchrec_table import ShardedTable

        fused = self.config.row_training.optimizer if self.config.fused_optimizer else None
        return ShardedTable(self.planned, shardings(self.shard, self.config), self.device, fused)

    def _rows_on_disk(self) -> RowsOnDisk | None:
        """The files of ``rows_in``. Raises ValueError for a run that cannot have its rows there."""
        if self.rows_in is None:
            return None
        method, config = get_method(self.planned.method), self.config
        if method.needs_own_trainer:
            raise ValueError(f"{method.name} trains in stages of its own; its rows cannot lie in files (--rows-in)")
        if self.device.type != "cpu" or config.gradient != "row":
            raise ValueError("rows that lie in files (--rows-in) are trained on the CPU, with gradient 'row'")
        if config.embedding_l2 and config.embedding_l2_mode == "full":
            raise ValueError(
                "embedding_l2 of the whole table writes every row at every evaluation; with rows in files (--rows-in) "
                "set train.embedding_l2_mode to 'lazy' or 'minibatch'"
            )
        identity = planned_identity(self.dataset, self.planned, self.model, config)
        return RowsOnDisk(self.rows_in, identity)

    def take(self, shared: SharedRuns, out_dir: Path) -> RunResult:
        """Copy what ``shared`` has of this run; it is trained there if it has not."""
        folder = self._trained(shared)
        shutil.copyfile(folder / MODEL_FILE, out_dir / MODEL_FILE)
        write_inputs(self.dataset, out_dir)
        result = load_result(folder)
        assert result is not None
        result = replace(result, table=self.planned.to_json(), test=None, slices={}, attention=[])
        result.save(out_dir / RESULT_FILE)
        return complete(result, out_dir, self.dataset, self.config, self.read_test, self.explain_rows, self.device)

    def _trained(self, shared: SharedRuns) -> Path:
        """The folder of this run in ``shared``, finished."""
        blind = replace(self, read_test=False, explain_rows=0)
        identity = planned_identity(self.dataset, self.planned, self.model, self.config)
        return shared.get(identity, blind.train)

    def encode(self, shared: SharedRuns | None, out_dir: Path | None) -> RunResult:
        """Train the method that this one's table is encoded of, at every width, and encode."""
        with ExitStack() as stack:
            if shared is None:
                own = None if out_dir is None else out_dir / "trained"
                shared = SharedRuns(own or Path(stack.enter_context(tempfile.TemporaryDirectory())))
            folders = [run._trained(shared) for run in self._sources()]
            begin = time.perf_counter()
            widths = self._widths(shared, folders)
            choice, tuned = self._tuned(widths.encode(self._encoded_bytes()))
            result = encoded_result(choice, widths, self.planned, self.read_test, begin, out_dir)
            if tuned is not None:
                result = tuned.told_in(result)
            attention = attention_weights(choice.encoded.model, self.dataset, self.explain_rows)
            result = replace(result, attention=attention)
            if out_dir is not None:
                write_run(out_dir, choice.encoded, result)
        return result

    def _tuned(self, choice: Choice) -> tuple[Choice, Tuned | None]:
        """The choice as it is served, and what fine-tuning gave if it was asked for."""
        config = self.planned.config
        if config.finetune == "none":
            return choice, None
        return fine_tune_choice(choice, FineTune(config.finetune, config.finetune_epochs, config.distill))

    def _widths(self, shared: SharedRuns, folders: list[Path]) -> Widths:
        written = [(folder, (folder / RESULT_FILE).stat().st_mtime_ns) for folder in folders]
        planned = self.planned
        shape = planned.config.shape
        key = (self.dataset.fingerprint(), self.device, planned.full_bytes, planned.count_ids, shape, *written)
        return shared.last(
            key,
            lambda: Widths(open_runs(folders, self.dataset, self.device), planned.full_bytes, planned.count_ids, shape),
        )

    def _encoded_bytes(self) -> int:
        """What is encoded to: the budget, as far as the largest table needs it."""
        planned = self.planned
        most = planned.serving.bytes + (planned.map_bytes if planned.count_ids else 0)
        return most if planned.budget_bytes is None else min(planned.budget_bytes, most)

    def _sources(self) -> list[OneRun]:
        """The runs whose tables are encoded, one a width."""
        method = get_method(self.planned.method).trained_as
        assert method is not None
        one = (self.planned.embedding_dim,)
        widths = one if self.config.elastic else self.planned.config.widths or one  # an elastic run has all of its own
        return [
            replace(self, planned=plan(method, self.planned.vocabularies, width, None, options=self.planned.options))
            for width in widths
        ]


def _measure(
    trainer: Trainer, planned: Plan, read_test: bool, explain_rows: int, begin: float, folder: Path | None
) -> RunResult:
    """Evaluate the serving form and gather everything; ``folder`` gets the scores of the test rows."""
    config, dataset, table = trainer.config, trainer.dataset, trainer.table
    evaluation_begin = time.perf_counter()
    valid = trainer.evaluate("valid")
    test, slices = metrics_on_test(trainer.model, dataset, config, folder) if read_test else (None, {})
    test_seconds = time.perf_counter() - evaluation_begin
    train_seconds = sum(stage["seconds"] for stage in trainer.stages)
    samples = sum(stage["samples"] for stage in trainer.stages)
    return RunResult(
        dataset=dataset.name,
        fingerprint=dataset.fingerprint(),
        method=planned.method,
        table=planned.to_json(),
        model=trainer.model_config.to_json(),
        train=config.to_json(),
        valid=valid,
        test=test,
        slices=slices,
        budget_bytes=planned.budget_bytes,
        serving_bytes=_serving_bytes(table, planned),
        training_bytes=max((stage["table_training_bytes"] for stage in trainer.stages), default=0),
        map_bytes=planned.map_bytes,
        dense_bytes=sum(p.numel() * p.element_size() for p in trainer.model.dense_parameters()),
        train_seconds=train_seconds,
        evaluation_seconds=sum(stage["evaluation_seconds"] for stage in trainer.stages),
        test_seconds=test_seconds,
        wall_seconds=time.perf_counter() - begin,
        samples=samples,
        samples_per_second=samples / train_seconds if train_seconds else 0.0,
        peak_memory_bytes=peak_memory_bytes(),
        threads=torch.get_num_threads(),
        precision=trainer.precision,
        gradient=config.gradient,
        kernel=trainer.kernel,
        device=device_of(trainer.model),
        slice_by=dataset.schema.slice_by,
        versions=versions(),
        stages=trainer.stages,
        history=trainer.history,
        learned=[finding.to_json() for finding in table.learned()],
        attention=attention_weights(trainer.model, dataset, explain_rows),
    )


def _serving_bytes(table: EmbeddingTable, planned: Plan) -> int:
    size = table.ledger().bytes
    if planned.budget_bytes is not None and planned.within_budget(size) > planned.budget_bytes:
        raise AssertionError(f"{planned.method}: {size} bytes for a budget of {planned.budget_bytes}: a bug of rectab")
    return size
