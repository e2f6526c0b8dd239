"""The data sets of a sweep: opened, or prepared first from a recipe, and described for the report."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rectab.data import PreparedDataset, prepare
from rectab.sweep.config import DatasetEntry, SweepConfig, SweepConfigError
from rectab.sweep.grid import DatasetInfo
from rectab.training.metrics import auc

__all__ = ["open_datasets"]


def open_datasets(config: SweepConfig, folder: Path, say: Callable[[str], None]) -> list[DatasetInfo]:
    """Open every data set of a sweep, preparing recipes into ``folder/data``.

    Args:
        config: the sweep, with absolute paths.
        folder: the sweep's folder.
        say: called with a line of text when something takes time.

    Raises:
        DataError: a data set or recipe is not valid.
        SweepConfigError: two data sets have the same name.
    """
    described = [_describe(entry, _open(entry, folder, say)) for entry in config.datasets]
    names = [info.name for info in described]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SweepConfigError(f"datasets: repeated {', '.join(repeated)}; give each its own name")
    return described


def _open(entry: DatasetEntry, folder: Path, say: Callable[[str], None]) -> PreparedDataset:
    if entry.path is not None:
        return PreparedDataset.open(entry.path)
    assert entry.recipe is not None
    recipe = Path(entry.recipe)
    if not recipe.is_file():
        raise SweepConfigError(f"{recipe}: no such recipe")
    # Named by the recipe's text and the raw folder, so that a changed recipe is prepared anew.
    key = hashlib.sha256(recipe.read_bytes() + str(entry.raw).encode()).hexdigest()[:8]
    out = folder / "data" / f"{recipe.stem}-{key}"
    if out.is_dir():
        return PreparedDataset.open(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    say(f"preparing {recipe.name}")
    return prepare(recipe, entry.raw, out, progress=lambda line: say(f"  {line}"))


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
