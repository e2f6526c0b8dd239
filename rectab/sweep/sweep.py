"""Run a sweep: every method at every budget on the same data, resumable at any kill."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from rectab.sweep.config import SweepConfigError, load_config
from rectab.sweep.grid import DatasetInfo, RunSpec
from rectab.sweep.plan import SweepPlan, plan_from_folder
from rectab.sweep.pool import run_all
from rectab.sweep.progress import SweepProgress
from rectab.sweep.results import write_results
from rectab.sweep.statistics import DECIDING_SEEDS
from rectab.sweep.store import RunStore, exclusive
from rectab.sweep.worker import DEFAULT_RUNNER
from rectab.tables.plugins import plugin_names
from rectab.tables.registry import get_method, shares_training

__all__ = ["SweepPlan", "plan_from_folder", "run_sweep"]


def run_sweep(
    config_path: Path | str,
    out_dir: Path | str,
    *,
    jobs: int | None = None,
    retry_failed: bool = False,
    trained: Path | str | None = None,
    device: torch.device | str = "cpu",
    devices: Sequence[torch.device | str] = (),
    runner: str = DEFAULT_RUNNER,
    datasets: list[DatasetInfo] | None = None,
    console: Console | None = None,
) -> SweepPlan:
    """Run what is not there yet and write ``results.parquet``. The same call goes on where a killed one stopped.

    Args:
        config_path: the sweep file.
        out_dir: its folder.
        jobs: runs at a time, each in its own process; the sweep file's if None.
        retry_failed: run failed runs again.
        trained: folder of finished runs of the full table (``rectab train --out``): those that a run is, or that its
            table is encoded of, are read and not trained, and what is trained is kept there. None: a folder of the
            sweep, which is removed when all its runs are there.
        device: where every run is trained, see :func:`rectab.training.device.resolve_device`.
        devices: several, in place of ``device``: each process has one of them, which a run takes that is free. Without
            ``jobs`` there is a process for each.
        runner: ``module:function`` that trains one run.
        datasets: already described data sets, instead of opening those of the file.
        console: where progress is shown.

    Raises:
        SweepConfigError: the file is not valid, or a recipe or raw folder that it names is not there.
        DataError: a data set is not.
        SweepFolderError: another sweep is running in the folder.
    """
    config, store = load_config(config_path), RunStore(Path(out_dir))
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    with exclusive(store.folder):
        if datasets is None:
            from rectab.sweep.sources import open_datasets

            try:
                datasets = open_datasets(config, store.folder, lambda line: _say(console, line))
            except SweepConfigError as error:
                raise SweepConfigError(f"{config_path}: {error}") from None
        command = f"rectab sweep {config_path} --out {out_dir}" + (f" --jobs {jobs}" if jobs else "")
        command += f" --trained {trained}" if trained else ""
        places = [str(place) for place in devices]
        command += f" --devices {','.join(places)}" if places else "" if str(device) == "cpu" else f" --device {device}"
        command += "".join(f" --plugin {name}" for name in plugin_names())
        plan = SweepPlan(config, datasets, store, command)
        plan.save()
        if len(config.seeds) < DECIDING_SEEDS:
            _say(
                console,
                f"{len(config.seeds)} seed{'s' * (len(config.seeds) > 1)} cannot decide which table is better; "
                f"{DECIDING_SEEDS} or more can (seeds = [0, 1, 2])",
            )
        trials = plan.trial_specs()
        # Trials only decide settings, so the number of runs is known before they are.
        total = len(trials) + len(plan.runs())
        share = trained is not None or any(get_method(entry.method).trained_as for entry in config.methods)
        folder = (store.trained_path if trained is None else Path(trained)).resolve() if share else None
        with SweepProgress(total, plan.tuned, console) as progress:
            for specs in (lambda: trials, plan.runs):
                placed = [replace(spec, device=str(device)) for spec in specs()]
                missing = _missing(_sharing(placed, folder), store, retry_failed)
                progress.skip(len(placed) - len(missing))
                at_a_time = jobs or len(places) or config.jobs
                for spec, record in run_all(missing, store, runner, at_a_time, devices=places) if missing else ():
                    progress.finished(spec, record)
            stale = plan.stale()
            if stale:
                progress.say(f"{len(stale)} run files of an older configuration are ignored: {' '.join(stale[:5])} ...")
        write_results(plan)
        if not plan.unfinished():
            shutil.rmtree(store.trained_path, ignore_errors=True)
    return plan


def _sharing(specs: Sequence[RunSpec], folder: Path | None) -> list[RunSpec]:
    """The runs, told where trainings that several of them share lie; those of one method that share one in a row."""
    if folder is None:
        return list(specs)
    told = [replace(s, trained=str(folder)) if shares_training(s.method) else s for s in specs]
    groups = (list(group) for _, group in groupby(told, lambda s: (s.dataset, s.model_label, s.method_label)))
    return [s for group in groups for s in (sorted(group, key=lambda s: s.seed) if group[0].trained else group)]


def _say(console: Console | None, line: str) -> None:
    (console or Console(file=sys.stdout)).print(line, markup=False, highlight=False)


def _was_limited(record: dict[str, Any], spec: RunSpec) -> bool:
    """Whether the run may have been left out under another limit of training memory."""
    return record["status"] == "infeasible" and record["spec"].get("train_memory") != spec.train_memory


def _missing(specs: Sequence[RunSpec], store: RunStore, retry_failed: bool) -> list[RunSpec]:
    """What is to be run, once each."""
    missing: dict[str, RunSpec] = {}
    for spec in specs:
        record = store.read_run(spec.hash)
        if record is None or (retry_failed and record["status"] == "failed") or _was_limited(record, spec):
            missing.setdefault(spec.hash, spec)
    return list(missing.values())
