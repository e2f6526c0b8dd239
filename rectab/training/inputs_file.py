"""What turns raw rows into the inputs of a run's model, on disk beside it: the recipe, what was learned from the
training rows, and where the other raw files lie; the values of vocabularies are in the id map's file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from rectab.data.dataset import PreparedDataset
from rectab.data.fitted import Fitted, InputRule
from rectab.data.id_map import IdMap
from rectab.data.recipe import Recipe
from rectab.data.serving import RawInputs
from rectab.id_bytes import IdRange
from rectab.metrics import FrequencySlices
from rectab.plain import read_plain
from rectab.schema import Schema
from rectab.tables.files import read_file, write_file
from rectab.training.ids_file import IDS_FILE, load_ids, write_ids

__all__ = ["INPUTS_FILE", "RunInputs", "inputs_of", "load_inputs", "write_inputs"]

INPUTS_FILE = "inputs.safetensors"
"""Where a run keeps what makes its inputs, within its folder."""

FORMAT_VERSION = 1


@dataclass(frozen=True)
class RunInputs:
    """How rows are read and told apart.

    Attributes:
        raw: makes inputs of raw rows.
        slices: of the schema's ``slice_by``; None if there is none.
    """

    raw: RawInputs
    slices: FrequencySlices | None


def write_inputs(
    dataset: PreparedDataset, folder: Path, omitted: Mapping[str, Sequence[IdRange]] | None = None
) -> None:
    """Write both files into a run's folder; nothing where the data set was not made by ``prepare``.

    Args:
        dataset: what the run was trained on.
        folder: of the run.
        omitted: by vocabulary, ranges of ids that read what id 0 reads.
    """
    told = dataset.description
    if "recipe" not in told or "inputs" not in told:
        return
    write_ids(dataset, folder, omitted)
    kept = {"name": dataset.name, **{key: told.get(key) for key in ("recipe", "inputs", "raw", "sources")}}
    slices, tensors = _slices(dataset), {}
    if slices is not None:
        tensors = {"slice_starts": torch.from_numpy(slices.starts), "slices": torch.from_numpy(slices.slices)}
    write_file(folder / INPUTS_FILE, "inputs", FORMAT_VERSION, kept, tensors)


def load_inputs(folder: Path, schema: Schema) -> RunInputs:
    """Read :func:`write_inputs`'s files.

    Args:
        folder: of the run.
        schema: of its model.

    Raises:
        FileNotFoundError: the folder lacks one of them.
        ValueError: one is damaged, of another kind or format version.
    """
    path = folder / INPUTS_FILE
    for file in (path, folder / IDS_FILE):
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}: no such file; a run of an earlier rectab has none: give --data, the prepared data set that "
                "it was trained on, or give rectab train the command that made the run once more"
            )
    description, tensors = read_file(path, "inputs", FORMAT_VERSION)
    slices = None
    if "slices" in tensors:
        slices = FrequencySlices(tensors["slice_starts"].numpy(), tensors["slices"].numpy())
    try:
        return RunInputs(_raw_inputs(description, schema, load_ids(folder / IDS_FILE)), slices)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}: cannot be used ({error}); copy or save it again") from error


def inputs_of(dataset: PreparedDataset, schema: Schema) -> RunInputs:
    """The same of the prepared data set that a run was trained on.

    Raises:
        ValueError: it was not made by ``prepare``, or by an early version.
    """
    ids = IdMap.build(dataset)
    if ids is None or "recipe" not in dataset.description or "inputs" not in dataset.description:
        raise ValueError(f"{dataset.path}: does not say how raw rows become ids; run `rectab prepare` again")
    return RunInputs(_raw_inputs(dataset.description, schema, ids), _slices(dataset))


def _slices(dataset: PreparedDataset) -> FrequencySlices | None:
    by = dataset.schema.slice_by
    return None if by is None else FrequencySlices.of_training(dataset.schema, dataset.train.column(by))


@dataclass(frozen=True)
class _Source:
    file: str
    sha256: str


@dataclass(frozen=True)
class _Told:
    """What a data set's description tells of its making."""

    recipe: dict[str, Any]
    inputs: tuple[InputRule, ...]
    sources: tuple[_Source, ...] = ()
    raw: str | None = None


def _raw_inputs(description: Mapping[str, Any], schema: Schema, ids: IdMap) -> RawInputs:
    sources = [{key: source[key] for key in ("file", "sha256")} for source in description.get("sources") or ()]
    told = read_plain(_Told, {**description, "sources": sources}, extra=True)
    try:
        recipe = Recipe.model_validate(told.recipe)
    except ValidationError as error:
        raise ValueError(f"its recipe is none: {error}") from error
    return RawInputs(
        recipe,
        schema,
        Fitted.of(told.inputs, ids),
        None if told.raw is None else Path(told.raw),
        {source.file: source.sha256 for source in told.sources},
    )
