"""The data sets of a sweep: opened, or prepared first from a recipe, and described for the report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rectab.data import PreparedDataset, Recipe, load_recipe, prepare
from rectab.metrics import auc
from rectab.sweep.config import SweepConfig, SweepConfigError
from rectab.sweep.entries import DatasetEntry
from rectab.sweep.grid import DatasetInfo

__all__ = ["open_datasets"]


def open_datasets(config: SweepConfig, folder: Path, say: Callable[[str], None]) -> list[DatasetInfo]:
    """Open every data set of a sweep, preparing recipes into ``folder/data``.

    Args:
        config: the sweep, with absolute paths.
        folder: the sweep's folder.
        say: called with a line of text when something takes time.

    Raises:
        DataError: a data set or recipe is not valid.
        SweepConfigError: a recipe or the raw files of one are not there, or two data sets have the same name.
    """
    described = [
        _describe(entry, _open(entry, f"datasets[{position}]", folder, say))
        for position, entry in enumerate(config.datasets)
    ]
    names = [info.name for info in described]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SweepConfigError(f"datasets: repeated {', '.join(repeated)}; give each its own name")
    return described


def _open(entry: DatasetEntry, key: str, folder: Path, say: Callable[[str], None]) -> PreparedDataset:
    if entry.path is not None:
        return PreparedDataset.open(entry.path)
    assert entry.recipe is not None
    path = Path(entry.recipe)
    if not path.is_file():
        raise SweepConfigError(f"{key}.recipe: no such recipe {path}")
    # Named by the recipe's text, what changes in it, and the raw folder, so that a changed recipe is prepared anew.
    changes = json.dumps(entry.changes, sort_keys=True, default=str) if entry.changes else ""
    mark = hashlib.sha256(path.read_bytes() + f"{entry.raw}{changes}".encode()).hexdigest()[:8]
    out = folder / "data" / f"{path.stem}-{mark}"
    if out.is_dir():
        return PreparedDataset.open(out)
    recipe = load_recipe(path, entry.changes)
    _check_raw(entry, recipe, f"{key}.raw")
    out.parent.mkdir(parents=True, exist_ok=True)
    say(f"preparing {path.name}")
    return prepare(recipe, entry.raw, out, progress=lambda line: say(f"  {line}"))


def _check_raw(entry: DatasetEntry, recipe: Recipe, key: str) -> None:
    if entry.raw is None and recipe.synthetic is None:
        raise SweepConfigError(f"{key}: missing; the recipe {entry.recipe} needs the folder of its raw files")
    if entry.raw is not None and not Path(entry.raw).is_dir():
        raise SweepConfigError(f"{key}: no such folder {entry.raw}; {entry.describe_raw()}")


def _describe(entry: DatasetEntry, dataset: PreparedDataset) -> DatasetInfo:
    splits = (dataset.train, dataset.valid, dataset.test)
    probability = dataset.test.probability
    return DatasetInfo(
        name=entry.name or dataset.name,
        path=str(dataset.path.resolve()),
        fingerprint=dataset.fingerprint(),
        vocabularies={v.name: v.num_embeddings for v in dataset.schema.vocabularies},
        best_auc=None if probability is None else float(auc(dataset.test.labels, probability)),
        rows={split.name: len(split) for split in splits},
        positive_rate={split.name: float(np.mean(split.labels)) for split in splits},
        slice_by=dataset.schema.slice_by,
    )
