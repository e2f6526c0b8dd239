"""The id map of a run on disk: beside the model, in a file of its own that says how it was damaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rectab.data.dataset import PreparedDataset
from rectab.data.id_map import IdMap
from rectab.id_bytes import IdRange
from rectab.plain import read_plain
from rectab.tables.files import read_file, write_file

__all__ = ["IDS_FILE", "load_ids", "save_ids", "write_ids"]

IDS_FILE = "ids.safetensors"
"""Where a run keeps its id map, within its folder."""

FORMAT_VERSION = 1


def write_ids(dataset: PreparedDataset, folder: Path, omitted: Mapping[str, Sequence[IdRange]] | None = None) -> None:
    """Write the map of a data set into a run's folder; nothing where the data set kept no values.

    Args:
        dataset: what the run was trained on.
        folder: of the run.
        omitted: by vocabulary, ranges of ids that read what id 0 reads.
    """
    made = IdMap.build(dataset, omitted)
    if made is not None:
        save_ids(made, folder / IDS_FILE)


def save_ids(ids: IdMap, path: Path) -> None:
    """Write a map; the file appears whole. Its tensors take :attr:`IdMap.bytes`."""
    sizes = [{"name": held.name, "num_embeddings": held.num_embeddings} for held in ids.vocabularies.values()]
    tensors = {name: torch.from_numpy(array) for name, array in ids.arrays().items()}
    write_file(path, "ids", FORMAT_VERSION, {"vocabularies": sizes}, tensors)


def load_ids(path: Path | str) -> IdMap:
    """Read :func:`save_ids`'s file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, no id map, or of another format version.
    """
    path = Path(path)
    description, tensors = read_file(path, "ids", FORMAT_VERSION)
    try:
        told = read_plain(_Description, description, extra=True)
        arrays = {name: tensors[name].numpy() for name in ("salts", "omitted", "keys")}
        return IdMap.from_arrays([(size.name, size.num_embeddings) for size in told.vocabularies], arrays)
    except KeyError as error:
        raise ValueError(f"{path}: no tensor {error}, so this is no id map") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}; copy or save it again") from error


@dataclass(frozen=True)
class _Size:
    name: str
    num_embeddings: int


@dataclass(frozen=True)
class _Description:
    vocabularies: tuple[_Size, ...]
