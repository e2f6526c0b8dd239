"""What is timed on rows: rectab's stores and optimizers, FBGEMM's TBE, torch's embeddings; and the bytes they hold.

The bytes that a lookup must at least move: its ids and every distinct row are read once, a vector is written for every
lookup. A step adds: gradients of the vectors are read, every distinct row and its state are read and written once more.
Of a dense gradient: the whole table's gradient is written and read, and all rows and their state are read and written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rounds import Candidate
from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).parents[1])]

from workloads import Workload, age  # noqa: E402

from rectab.ops import RowStore, kernel_name  # noqa: E402
from rectab.optim import RowAdagrad, RowAdam, RowOptimizer  # noqa: E402

__all__ = ["GROUPS", "Contender", "Data", "Workload", "fitting", "rectab_contender"]

DENSE_ROWS = 2_000_000  # up to which a dense Adam step is worth waiting for
L2 = 1e-5
Run = Callable[[Tensor], object]
Made = tuple[Run, Sequence[Tensor]]


class Data:
    """Batches of a workload, the gradient of the vectors they look up, and how many rows a batch touches."""

    def __init__(self, workload: Workload, batches: list[Tensor]) -> None:
        self.workload, self.batches = workload, batches
        self.shape = (workload.num_rows, workload.row_dim)
        self.gradient = torch.randn(workload.batch_size, workload.num_features, workload.row_dim) * 0.01
        counted = batches[:4]
        self.distinct = sum(batch.unique().numel() for batch in counted) / len(counted)
        self.row_bytes = 4 * workload.row_dim

    def as_bags(self) -> list[Tensor]:
        return [batch.reshape(-1, 1) for batch in self.batches]


@dataclass(frozen=True)
class Contender:
    """Something that could be timed, before it takes memory.

    Attributes:
        data: what it is timed on.
        name: whose it is and what it does.
        gradient: as of a :class:`Candidate`; ``none`` for a lookup.
        make: allocates it; gives what is timed and its batches.
        state_bytes: of a row in the optimizer.
        spare_bytes: of a row, for a table's gradient and what an update of all rows needs meanwhile.
        kernel: implementation of rectab's kernels; empty for others.
        too_slow: why it is not waited for, if so.
    """

    data: Data
    name: str
    gradient: str
    make: Callable[[Data], Made]
    state_bytes: int = 0
    spare_bytes: int = 0
    kernel: str = ""
    too_slow: str = ""

    @property
    def held_bytes(self) -> int:
        return self.data.shape[0] * (self.data.row_bytes + self.state_bytes + self.spare_bytes)

    @property
    def moved_bytes(self) -> float:
        """Of a run, at least; see the module's text."""
        data = self.data
        vectors = data.gradient.numel() * 4
        lookup = data.batches[0].numel() * 8 + data.distinct * data.row_bytes + vectors
        if self.gradient == "none":
            return lookup
        touched = data.shape[0] if self.gradient == "dense" else data.distinct
        whole_gradient = 2 * touched * data.row_bytes if self.gradient == "dense" else 0
        return lookup + vectors + whole_gradient + 2 * touched * (data.row_bytes + self.state_bytes)

    def candidate(self) -> Candidate:
        run, inputs = self.make(self.data)
        details = {"moved_bytes": self.moved_bytes, "held_bytes": self.held_bytes, "kernel": self.kernel}
        return Candidate(self.name, self.gradient, run, inputs, details=details)


def fitting(contenders: Sequence[Contender], max_bytes: float) -> tuple[list[Contender], list[str]]:
    """The contenders that lie in ``max_bytes`` together, in their order, and what was left out and why.

    Without the first, which the others are compared with, there is none.
    """
    kept: list[Contender] = []
    left_out = []
    for contender in contenders:
        held = sum(other.held_bytes for other in kept)
        if not kept and contender is not contenders[0]:
            left_out.append(f"{contender.name}: nothing to compare it with")
        elif contender.too_slow:
            left_out.append(f"{contender.name}: {contender.too_slow}")
        elif held + contender.held_bytes > max_bytes:
            beside = f" beside {held / 1e9:.1f} GB of others" if held else ""
            size = f"{contender.held_bytes / 1e9:.1f} GB{beside}"
            left_out.append(f"{contender.name}: {size}; at most {max_bytes / 1e9:.1f} GB")
        else:
            kept.append(contender)
    return kept, left_out


def _rectab_step(data: Data, optimizer: Callable[..., RowOptimizer], weight_decay: float) -> Run:
    """Lookup, backward and update; with ``weight_decay`` as after thousands of steps (:func:`workloads.age`)."""
    store, gradient = RowStore(*data.shape), data.gradient
    rows = optimizer([("rows", store)], weight_decay=weight_decay)
    if weight_decay:
        age(rows, data.workload)

    def step(batch: Tensor) -> None:
        store(batch).backward(gradient)
        rows.step()

    return step


def rectab_contender(data: Data, name: str, weight_decay: float = 0.0) -> Contender:
    """A row optimizer of rectab by the name of its class."""
    state_bytes = {"RowAdagrad": 4, "RowAdam": 2 * data.row_bytes + 4}[name]
    optimizer = {"RowAdagrad": RowAdagrad, "RowAdam": RowAdam}[name]
    shown = f"rectab {name}" + (" + L2" if weight_decay else "")
    make = partial(_rectab, optimizer=optimizer, weight_decay=weight_decay)
    return Contender(data, shown, "row", make, state_bytes=state_bytes, kernel=kernel_name("cpu"))


def _rectab(data: Data, optimizer: Callable[..., RowOptimizer], weight_decay: float) -> Made:
    return _rectab_step(data, optimizer, weight_decay), data.batches


def _torch_step(module: nn.Module, optimizer: torch.optim.Optimizer, gradient: Tensor) -> Run:
    def step(batch: Tensor) -> None:
        optimizer.zero_grad()
        out = module(batch)
        out.backward(gradient.view(out.shape))
        optimizer.step()

    return step


def _sparse_adam(data: Data) -> Made:
    module = nn.Embedding(*data.shape, sparse=True)
    optimizer = torch.optim.SparseAdam(module.parameters())
    step = _torch_step(module, optimizer, data.gradient)
    step(data.batches[0])
    # Its state begins as memory that the system hands out at the first touch of a page: touched here, not in a round.
    for tensor in optimizer.state[module.weight].values():
        if isinstance(tensor, Tensor):
            tensor.zero_()
    return step, data.batches


def _sparse_adagrad(data: Data) -> Made:
    module = nn.EmbeddingBag(*data.shape, mode="sum", sparse=True)
    return _torch_step(module, torch.optim.Adagrad(module.parameters()), data.gradient), data.as_bags()


def _dense_adam(data: Data) -> Made:
    module = nn.Embedding(*data.shape)
    return _torch_step(module, torch.optim.Adam(module.parameters()), data.gradient), data.batches


class _TableBatched:
    """FBGEMM's fused table-batched embedding on CPU: F tables of equal size, bags of one."""

    def __init__(self, data: Data) -> None:
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            ComputeDevice,
            SplitTableBatchedEmbeddingBagsCodegen,
        )

        workload = data.workload
        features, batch_size = workload.num_features, workload.batch_size
        spec = (workload.rows_per_feature, workload.row_dim, EmbeddingLocation.HOST, ComputeDevice.CPU)
        self.tables = SplitTableBatchedEmbeddingBagsCodegen(
            [spec] * features, optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD, learning_rate=0.01, eps=1e-10
        )
        self.tables.init_embedding_weights_uniform(-0.01, 0.01)
        for states in self.tables.split_optimizer_states():
            for state in states:
                state.zero_()  # touches its pages, as of SparseAdam's
        first = torch.arange(features) * workload.rows_per_feature
        self.inputs = [(batch - first).t().reshape(-1) for batch in data.batches]
        self.offsets = torch.arange(batch_size * features + 1)
        self.gradient = data.gradient.reshape(batch_size, -1)

    def lookup(self, indices: Tensor) -> Tensor:
        return self.tables(indices, self.offsets)

    def step(self, indices: Tensor) -> None:
        self.lookup(indices).backward(self.gradient)


def _tbe(data: Data, what: str) -> Made:
    tables = _TableBatched(data)
    return getattr(tables, what), tables.inputs


def _lookups(data: Data) -> list[Contender]:
    make = partial(Contender, data, gradient="none")
    return [
        make("rectab RowStore", make=lambda d: (RowStore(*d.shape), d.batches), kernel=kernel_name("cpu")),
        make("fbgemm TBE", make=partial(_tbe, what="lookup"), spare_bytes=4),  # it has its optimizer's state
        make("nn.Embedding", make=lambda d: (nn.Embedding(*d.shape), d.batches)),
        make("nn.EmbeddingBag", make=lambda d: (nn.EmbeddingBag(*d.shape, mode="sum"), d.as_bags())),
    ]


def _adagrads(data: Data) -> list[Contender]:
    return [
        rectab_contender(data, "RowAdagrad"),
        Contender(data, "fbgemm TBE rowwise Adagrad", "fused", partial(_tbe, what="step"), state_bytes=4),
        Contender(data, "EmbeddingBag + Adagrad", "sparse", _sparse_adagrad, state_bytes=data.row_bytes),
    ]


def _adams(data: Data) -> list[Contender]:
    moments, spare = 2 * data.row_bytes, 3 * data.row_bytes
    slow = f"more than {DENSE_ROWS:,} rows; it is not waited for" if data.shape[0] > DENSE_ROWS else ""
    return [
        rectab_contender(data, "RowAdam"),
        Contender(data, "Embedding + SparseAdam", "sparse", _sparse_adam, moments),
        rectab_contender(data, "RowAdam", L2),
        Contender(data, "Embedding + Adam", "dense", _dense_adam, moments, spare, too_slow=slow),
    ]


GROUPS: dict[str, Callable[[Data], list[Contender]]] = {"lookup": _lookups, "adagrad": _adagrads, "adam": _adams}
"""Timed one group after the other, the memory of one given back before the next; the first of each is the reference."""
