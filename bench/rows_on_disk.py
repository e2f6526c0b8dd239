"""Training steps with rows and optimizer state in files, under a memory limit, beside the same in memory.

``rows_on_disk.py [--limit-mb 256] [--times 4] [--exponents 1.28 1.05] [--steps 30] [--in DIR]``

A full table of 26 fields, D = 16, RowAdam, batches of 4,096; rows and their state take ``times`` the limit. Two
models train on the same batches, one in memory and then one as ``rectab train --rows-in`` does it, with undo log and
prefetching of the next batch. Wall time of a step: of lookups, backward and update of rows
alone, and of a whole DCNv2.

The limit is kept by this script, as a control group of a container would need rights that are not always there: after
every step it asks the system how many pages of the files are in memory, writes what is changed, and takes out those
that were used longest ago, in a thread beside the next step, as a kernel's own does. A step waits for that of the step
before it.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from workloads import Workload, model_batches, schema_of

from rectab.batch import Batch
from rectab.models import CTRModel, ModelConfig
from rectab.tables import plan
from rectab.training import TrainConfig
from rectab.training.optimizers import OptimizerSet
from rectab.training.rows_on_disk import RowsOnDisk, page_ins

DIM, HELD = 16, 196  # bytes of a row, its two moments, and when it was updated last
PAGE, _SETTLING = mmap.PAGESIZE, 4
_LIBC = ctypes.CDLL(None, use_errno=True)
_START, _WAIT = 2, 1 | 4  # of sync_file_range
_NEAR = 64  # pages between two that are written by one call


class Limit:
    """Keeps the pages of some tensors in files below a number of bytes, and forgets those used longest ago."""

    def __init__(self, tensors: list[Tensor], folder: Path, limit: int) -> None:
        self.tensors, self.limit, self.step, self.taken_out = tensors, limit // PAGE, 0, 0
        self.files = [os.open(path, os.O_RDWR) for path in sorted(folder.glob("rows-*.bin"))]
        self.row_bytes = [t.numel() * t.element_size() // len(t) for t in tensors]
        self.pages = [-(-t.numel() * t.element_size() // PAGE) for t in tensors]
        sizes = [os.fstat(file).st_size for file in self.files]
        assert sizes == [t.numel() * t.element_size() for t in tensors]
        self.used = [np.zeros(count, np.int64) for count in self.pages]

    def use(self, rows: np.ndarray) -> None:
        """The pages of these rows are used now."""
        self.step += 1
        rows = np.unique(rows)
        for used, size in zip(self.used, self.row_bytes, strict=True):
            used[rows * size // PAGE] = self.step

    def resident(self) -> list[np.ndarray]:
        """bool [pages] of every tensor."""
        found = []
        for tensor, pages in zip(self.tensors, self.pages, strict=True):
            told = np.zeros(pages, np.uint8)
            size = ctypes.c_size_t(tensor.numel() * tensor.element_size())
            _LIBC.mincore(ctypes.c_void_p(tensor.data_ptr()), size, told.ctypes.data_as(ctypes.c_void_p))
            found.append(told & 1 == 1)
        return found

    def keep(self) -> None:
        there = self.resident()
        beyond = sum(int(part.sum()) for part in there) - self.limit
        if beyond <= 0:
            return
        beyond += self.limit // 10  # a kernel too goes on until there is some room
        places = [np.flatnonzero(part) for part in there]
        used = np.concatenate([u[place] for u, place in zip(self.used, places, strict=True)])
        oldest = np.zeros(len(used), np.bool_)
        oldest[np.argpartition(used, beyond - 1)[:beyond]] = True
        self.taken_out += beyond
        runs, ends = [], np.cumsum([len(place) for place in places])
        for number, (place, end) in enumerate(zip(places, ends, strict=True)):
            gone = place[oldest[end - len(place) : end]]
            runs += [(number, *run) for run in _runs(gone, 1)]
            for write in (_START, _START | _WAIT):  # all writes are under way before one is waited for
                for first, size in _runs(gone, _NEAR):
                    _LIBC.sync_file_range(self.files[number], ctypes.c_int64(first), ctypes.c_int64(size), write)
        for number, first, size in runs:  # out of the process: of a file, so what was written stays
            start = ctypes.c_void_p(self.tensors[number].data_ptr() + first)
            _LIBC.madvise(start, ctypes.c_size_t(size), mmap.MADV_DONTNEED)
        for number, first, size in runs:
            os.posix_fadvise(self.files[number], first, size, os.POSIX_FADV_DONTNEED)


def _runs(pages: np.ndarray, near: int) -> list[tuple[int, int]]:
    """(first byte, bytes) of rising pages, those that are at most ``near`` apart together."""
    parts = np.split(pages, np.flatnonzero(np.diff(pages) > near) + 1)
    return [(int(part[0]) * PAGE, int(part[-1] - part[0] + 1) * PAGE) for part in parts if len(part)]


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class RowsAlone(nn.Module):
    """Lookups of a batch and a loss of them: what a step costs without a network."""

    def __init__(self, model: CTRModel) -> None:
        super().__init__()
        self.table, self.vocabularies = model.table, model.field_vocabularies

    def forward(self, batch: Batch) -> Tensor:
        vectors: Tensor = self.table(batch.ids, self.vocabularies).mean(2).mean(1)
        return vectors


class Trained:
    """A model and its optimizers, with rows in memory or in files."""

    def __init__(self, workload: Workload, whole: bool, folder: Path | None) -> None:
        self.disk = None if folder is None else RowsOnDisk(folder, {"bench": "rows on disk"})

        def make() -> CTRModel:
            torch.manual_seed(0)
            schema = schema_of(workload)
            table = plan("full", schema.vocabularies, DIM).build()
            return CTRModel(schema, table, ModelConfig.from_options("dcnv2"))

        self.ctr = make() if self.disk is None else self.disk.build(make)
        config = TrainConfig(lr=1e-3)
        make_optimizers = lambda: OptimizerSet(self.ctr, config)  # noqa: E731
        self.optimizers = make_optimizers() if self.disk is None else self.disk.attached(make_optimizers)
        if self.disk is not None:
            self.disk.resume(None)
        self.model: nn.Module = self.ctr if whole else RowsAlone(self.ctr)

    def batches(self, given: list[Batch]) -> Iterator[Batch]:
        source = (batch for batch in given)
        return source if self.disk is None else self.disk.prefetched(source, self.ctr)

    def step(self, batch: Batch) -> None:
        self.optimizers.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(self.model(batch), batch.labels).backward()
        self.optimizers.step()

    def tensors(self) -> list[Tensor]:
        rows = self.optimizers.by_part["rows"]
        return [t for name in rows.rows for t in self.disk._rows[name]]  # type: ignore[attr-defined, union-attr]


def compare(arguments: argparse.Namespace, exponent: float, whole: bool, folder: Path) -> None:
    limit = arguments.limit_mb << 20
    rows = int(arguments.times * limit / HELD) // 26 * 26
    workload = Workload(rows, DIM, exponent=exponent, scattered=False)
    given = model_batches(workload, arguments.warm_up + _SETTLING + arguments.steps)
    memory, disk = Trained(workload, whole, None), Trained(workload, whole, folder)
    held, first = Limit(disk.tensors(), folder, limit), np.arange(26) * workload.rows_per_feature
    for tensor in disk.tensors():
        tensor.copy_(tensor.clone())  # a file that nothing was written to has nothing to be read from
    held.keep()
    first_rows = [(batch.ids.numpy() + first).reshape(-1) for batch in given]
    for rows_read in first_rows[: arguments.warm_up]:
        held.use(rows_read)
        for tensor in held.tensors:
            tensor[torch.from_numpy(np.unique(rows_read))].sum()
        held.keep()
    given, first_rows = given[arguments.warm_up :], first_rows[arguments.warm_up :]
    in_memory, in_files = [], []
    for batch in memory.batches(given):
        in_memory.append(seconds(lambda b=batch: memory.step(b)))
    before, out, pool = 0, 0, ThreadPoolExecutor(1)
    done: Future[None] | None = None
    source, number = disk.batches(given), 0
    while True:
        if number == _SETTLING:
            before, out = page_ins(), held.taken_out
        start = time.perf_counter()
        batch = next(source, None)  # the rows of the one behind it are asked for now
        if batch is None:
            break
        disk.step(batch)
        if done is not None:
            done.result()
        in_files.append(time.perf_counter() - start)
        for rows_read in first_rows[number : number + 2]:  # of this step, and of the next, which are being read
            held.use(rows_read)
        done, number = pool.submit(held.keep), number + 1
    pool.shutdown()
    in_memory, in_files = in_memory[_SETTLING:], in_files[_SETTLING:]
    medians = [1e3 * statistics.median(values) for values in (in_memory, in_files)]
    means = [1e3 * statistics.fmean(values) for values in (in_memory, in_files)]
    resident = sum(int(part.sum()) for part in held.resident()) * PAGE / 2**20
    told = [
        f"{medians[1] / medians[0]:.2f}",
        f"{means[1] / means[0]:.2f}",
        f"{(page_ins() - before) / len(in_files):,.0f}",
    ]
    told += [f"{(held.taken_out - out) / len(in_files):,.0f}", f"{resident:.0f}"]
    kind = "DCNv2" if whole else "rows alone"
    print("|", " | ".join([kind, f"{exponent}", *(f"{m:.0f}" for m in medians), *told]), "|", flush=True)
    assert disk.disk is not None
    disk.disk.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit-mb", type=int, default=256)
    parser.add_argument("--times", type=float, default=4.0, help="rows and state, as a multiple of the limit")
    parser.add_argument("--exponents", type=float, nargs="+", default=[1.28, 1.05])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=40, help="batches that are read first, and not trained on")
    parser.add_argument("--only", choices=["rows", "dcnv2"], help="one of the two kinds of step")
    parser.add_argument("--in", dest="folder", help="where the files are made; a temporary folder if not given")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"rows and state {arguments.times:g} times the limit of {arguments.limit_mb} MiB")
    print("| step | zipf | memory, ms | files, ms | ratio | of means | page-ins a step | taken out | MiB at the end |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for whole in [False, True] if arguments.only is None else [arguments.only == "dcnv2"]:
        for exponent in arguments.exponents:
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                compare(arguments, exponent, whole, Path(folder) / "rows")


if __name__ == "__main__":
    main()
