"""A model that several processes hold replicas of and train together, each on its part of every batch.

The dense part is averaged by torch's ``DistributedDataParallel``. Row gradients are gathered by their stores
(:mod:`rectab.ops.gradients`), so that every replica makes the same update of the same rows; batch norm and Dice take
their statistics over all processes, dropout its mask from that of the whole batch. So a step is that of one process, up
to the order of sums, and replicas stay the same to the bit.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from rectab.batch import Batch
from rectab.models import CTRModel
from rectab.processes import Processes, current, sharing
from rectab.tables.base import EmbeddingTable
from rectab.tables.registry import find_record
from rectab.training.config import TrainConfig

__all__ = ["Replicas", "check_replicas", "check_shards", "shardings"]

_ALONE = "start it without torchrun"


class Replicas:
    """This process's replica of ``model``; its weights become those of the first process.

    Args:
        processes: that train it.
        model: on the device that trains.
    """

    def __init__(self, processes: Processes, model: CTRModel) -> None:
        self._count = processes.count
        own = {name for name, _ in model.named_parameters() if name.startswith(_of_shards(model))}
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, own)  # torch's, for torchrec
        # Weights of dense features that the data do not have get no gradient, and DDP waits for one unless told.
        unused = any(p.requires_grad and not p.numel() for p in model.parameters())
        self._model = DistributedDataParallel(model, forward_sync_buffers=False, find_unused_parameters=unused)

    def __call__(self, batch: Batch) -> Tensor:
        """Logits float [B] of this process's B rows of the batch; a process without rows takes part all the same."""
        with sharing(batch.share):
            outputs: Tensor = self._model(batch)
        return outputs

    def mean(self, losses: Tensor, batch: Batch) -> Tensor:
        """What to minimise here so that all processes together minimise the mean loss of the batch's rows: its average
        over the processes is that mean."""
        return losses.sum() * (self._count / batch.total)


def _of_shards(model: CTRModel) -> tuple[str, ...]:
    """How names begin, in the model, of rows that no other process holds."""
    return tuple(f"table.{shard.name}." for shard in model.table.shards() or ())


def check_replicas(method: str, config: TrainConfig, rows_in: bool = False, shared: bool = False) -> None:
    """Raises ValueError for what cannot be trained as replicas, with what to do.

    Args:
        method: of the table.
        config: how it is to be trained.
        rows_in: whether rows are to lie in files.
        shared: whether runs are to be shared with others.
    """
    record = find_record(method)
    if record.trained_as is not None:
        raise ValueError(
            f"{method} is encoded of trained tables by one process: train --table {record.trained_as} in several, then "
            "`rectab compress` that run"
        )
    if record.needs_own_trainer or record.learns_from_validation:
        raise ValueError(f"{method} trains in stages of its own, in one process: {_ALONE}, or take another table")
    if _learns_from_ids(record.table):
        raise ValueError(
            f"{method} learns from the ids that it looks up, and a process sees its own part of them only: {_ALONE}, "
            "or take a table of fixed rows (full, hashed, unified, narrow, ...)"
        )
    if config.gradient == "sparse":
        raise ValueError("train.gradient 'sparse' is for one process (DDP sums no such gradients); use 'row'")
    for what, asked in (
        ("train.objective 'topk'", config.objective == "topk"),
        ("train.elastic", bool(config.elastic)),
        ("train.best_weights 'log'", config.best_weights == "log"),
        ("train.cowclip", config.cowclip is not None),
        (f"train.row_frequency {config.row_frequency!r}", config.row_frequency != "none"),
        ("--rows-in", rows_in),
        ("--trained", shared),
    ):
        if asked:
            raise ValueError(f"{what} is for one process: {_ALONE}, or leave it out")


def _learns_from_ids(table: type[EmbeddingTable]) -> bool:
    return table.ids_move or table.learns_in_lookups or table.after_step is not EmbeddingTable.after_step


def check_shards(config: TrainConfig, shard: str | None) -> None:
    """Raises ValueError for what cannot be trained where each process holds a part of the rows, with what to do.

    Args:
        config: how it is to be trained.
        shard: how rows are to be shared out; None if they are not.
    """
    if shard is None:
        if config.fused_optimizer:
            raise ValueError("train.fused_optimizer is of rows that torchrec shards: add --shard, or leave it out")
        return
    if current() is None:
        raise ValueError(
            "--shard is of several processes: start it with torchrun --nproc-per-node N -m rectab train ..."
        )
    whole = "leave --shard out, so that every process holds all rows, or leave the setting out"
    for what, asked in (
        ("train.gradient (other than 'row')", config.gradient != "row"),
        ("train.restart_rows", config.restart_rows),
        ("train.row_square 'factored' (which takes means over all rows)", config.row_square == "factored"),
    ):
        if asked:
            raise ValueError(f"{what} is not for rows that are sharded: {whole}")
    if shard == "column_wise" and _keeps_numbers_of_rows(config):
        raise ValueError(
            "--shard column_wise cuts rows, and the optimizer keeps a number for a row (row-wise Adagrad, row_square "
            "'row', row_state 'int8'), which would be another in every part: use table_wise or row_wise"
        )


def shardings(shard: str, config: TrainConfig) -> tuple[str, ...]:
    """What the planner may choose from."""
    if shard != "auto":
        return (shard,)
    return ("table_wise", "row_wise") if _keeps_numbers_of_rows(config) else ("table_wise", "row_wise", "column_wise")


def _keeps_numbers_of_rows(config: TrainConfig) -> bool:
    """Whether the row optimizer's state has numbers that are of all elements of a row."""
    training = config.row_training
    return training.optimizer == "adagrad" or training.square == "row" or training.state == "int8"
