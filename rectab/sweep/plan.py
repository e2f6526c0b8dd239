"""A sweep as a plan: its runs and trials, and what is on disk of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rectab.plain import read_plain, read_value
from rectab.sweep.config import SweepConfig
from rectab.sweep.grid import CellKey, DatasetInfo, RunSpec, expand_runs, expand_trials
from rectab.sweep.store import FORMAT_VERSION, RunStore, SweepFolderError
from rectab.sweep.tuning import choose_settings
from rectab.tables.plugins import plugin_names
from rectab.tables.registry import methods

__all__ = ["SweepPlan", "plan_from_folder"]


@dataclass(frozen=True)
class SweepPlan:
    """A sweep with its data sets known, and what is on disk of it.

    Attributes:
        config: the sweep.
        datasets: one per entry of ``config.datasets``.
        store: the folder.
        command: how it was started, to be repeated by a reader of the report.
    """

    config: SweepConfig
    datasets: list[DatasetInfo]
    store: RunStore
    command: str

    def trials(self) -> dict[CellKey, list[RunSpec]]:
        """Tuning trials by cell."""
        return expand_trials(self.config, self.datasets)

    def trial_specs(self) -> list[RunSpec]:
        """Tuning trials, each once."""
        return list({spec.hash: spec for specs in self.trials().values() for spec in specs}.values())

    def chosen(self) -> dict[CellKey, dict[str, Any]]:
        """What tuning chose, of the trials that are on disk."""
        return choose_settings(self.config, self.trials(), self.store.read_run)

    def runs(self) -> list[RunSpec]:
        """Every reported run."""
        return expand_runs(self.config, self.datasets, self.chosen())

    def stale(self) -> list[str]:
        """Run files of an older configuration; they are left alone and do not count."""
        return self.store.stale_runs({spec.hash for spec in [*self.trial_specs(), *self.runs()]})

    @property
    def tuned(self) -> tuple[str, ...]:
        """Training settings that trials try."""
        return () if self.config.tuning is None else tuple(self.config.tuning.grid)

    def unfinished(self) -> list[str]:
        """Hashes of runs and trials that failed or are not there yet."""
        records = {spec.hash: self.store.read_run(spec.hash) for spec in [*self.trial_specs(), *self.runs()]}
        return [key for key, record in records.items() if record is None or record["status"] == "failed"]

    def failed(self) -> list[tuple[str, str]]:
        """(what it is, why) of every run and trial that failed."""
        records = [(spec, self.store.read_run(spec.hash)) for spec in [*self.trial_specs(), *self.runs()]]
        failed = [(spec, r) for spec, r in records if r is not None and r["status"] == "failed"]
        return [(spec.describe(self.tuned), str(record["error"])) for spec, record in failed]

    def save(self) -> None:
        """Write ``sweep.json``, from which the report is made."""
        self.store.write_sweep(
            {
                "format": FORMAT_VERSION,
                "command": self.command,
                "plugins": plugin_names(),
                "config": self.config.model_dump(),
                "datasets": [asdict(info) for info in self.datasets],
            }
        )


@dataclass(frozen=True)
class _Method:
    method: str


def plan_from_folder(folder: Path) -> SweepPlan:
    """The sweep that was last started in a folder.

    Raises:
        SweepFolderError: there is none, or it trained a method that is not known here.
    """
    store = RunStore(folder)
    content = store.read_sweep()
    try:
        # Named and not imported: a folder of results must not decide what code runs.
        used = {read_plain(_Method, entry, "methods", extra=True).method for entry in content["config"]["methods"]}
        plugins = read_value(list[str], list(content.get("plugins", ())), "plugins")
        if unknown := sorted(used - {method.name for method in methods()}):
            given = " ".join(f"--plugin {name}" for name in plugins) or "its plugin"
            raise SweepFolderError(f"{folder}: it trained methods {unknown}, which are not known here; give {given}")
        datasets = [read_plain(DatasetInfo, info, "datasets") for info in content["datasets"]]
        return SweepPlan(SweepConfig.model_validate(content["config"]), datasets, store, content["command"])
    except SweepFolderError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        told = " ".join(str(error).split())
        raise SweepFolderError(f"{folder / 'sweep.json'}: damaged ({told}); start the sweep again") from error
