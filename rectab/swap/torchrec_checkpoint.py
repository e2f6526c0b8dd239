"""Checkpoints of a model that torchrec has sharded: safetensors, one file a rank, no pickle.

Every rank writes the shards it holds; rank 0 also writes what is replicated, and the index last: a checkpoint without
its index is not one. Every part has a checksum, because safetensors loads a flipped bit as another number. Loading
reads the parts that a shard needs, so the number of ranks and the way tables are sharded may have changed.

This module needs torchrec only in so far as its tensors are ``ShardedTensor``; it imports torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from rectab.atomic_file import atomic_file, write_atomic
from rectab.plain import parse_json, read_plain
from rectab.tables.files import checksum

__all__ = ["Pieces", "load_sharded", "save_sharded"]

FORMAT_VERSION = 3
INDEX_FILE = "index.json"


@dataclass(frozen=True)
class Pieces:
    """What this process holds of a tensor of ``shape``: (where it begins, tensor) of every piece."""

    shape: tuple[int, ...]
    held: tuple[tuple[tuple[int, ...], Tensor], ...]


@dataclass(frozen=True)
class _Part:
    """A piece of a tensor: ``stored`` in ``file`` is ``size`` elements at ``offsets`` of the ``shape`` of ``key``."""

    key: str
    stored: str
    file: str
    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    size: tuple[int, ...]
    checksum: str

    def __post_init__(self) -> None:
        if not fnmatch(self.file, "rank-*.safetensors") or Path(self.file).name != self.file:
            raise ValueError(f"{self.key} lies in {self.file!r}, which is no file of a checkpoint")
        if not len(self.shape) == len(self.offsets) == len(self.size):
            raise ValueError(f"{self.key} has parts of other dimensions than its own")
        if any(not 0 <= at <= at + n <= m for at, n, m in zip(self.offsets, self.size, self.shape, strict=True)):
            raise ValueError(f"{self.key} has a part outside of its shape {list(self.shape)}")

    def overlap(self, offsets: Sequence[int], size: Sequence[int]) -> tuple[list[int], list[int]] | None:
        """(first, behind the last) index in every dimension that the part shares with a box; None if there is none."""
        low = [max(a, b) for a, b in zip(self.offsets, offsets, strict=True)]
        ends = zip(self.offsets, self.size, offsets, size, strict=True)
        high = [min(a + n, b + m) for a, n, b, m in ends]
        return None if any(h <= at for at, h in zip(low, high, strict=True)) else (low, high)


@dataclass(frozen=True)
class _Index:
    """What ``index.json`` holds beside its checksum."""

    format_version: int
    step: int
    parts: tuple[_Part, ...]

    def by_key(self) -> dict[str, list[_Part]]:
        """The parts of every tensor. Raises ValueError where they contradict each other."""
        found: dict[str, list[_Part]] = {}
        for part in self.parts:
            for other in found.setdefault(part.key, []):
                if part.shape != other.shape or part.overlap(other.offsets, other.size):
                    raise ValueError(f"{part.key} has parts that contradict each other")
            found[part.key].append(part)
        return found


def save_sharded(folder: str | Path, state: Mapping[str, Any], step: int = 0) -> None:
    """Write ``state`` as the checkpoint in ``folder``; called by every rank.

    Args:
        folder: seen by all ranks; made if it does not exist. Give every checkpoint its own.
        state: tensors, :class:`Pieces` and ShardedTensors, nested in dicts and lists (``{"model": model.state_dict(),
            "rows": model.fused_optimizer.state_dict()["state"]}``).
        step: kept in the index.

    Raises:
        TypeError: something in ``state`` is not a tensor.
    """
    folder, rank = Path(folder), dist.get_rank()
    folder.mkdir(parents=True, exist_ok=True)
    name = f"rank-{rank:05d}-of-{dist.get_world_size():05d}.safetensors"
    tensors: dict[str, Tensor] = {}
    entries: list[dict[str, Any]] = []
    for key, value in _leaves(state):
        for number, (offsets, tensor) in enumerate(_held(key, value, rank)):
            stored = f"{key}@{number}"
            tensors[stored] = tensor.detach().contiguous().cpu()
            entry = {"key": key, "stored": stored, "file": name, "shape": list(_shape(value))}
            entries.append({**entry, "offsets": list(offsets)})
    for described in entries:
        described["checksum"] = checksum({}, {"part": tensors[described["stored"]]})
    with atomic_file(folder / name) as draft:
        save_file({key: tensor.clone() for key, tensor in tensors.items()}, draft)
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, entries)
    if rank == 0:
        parts = [{**e, "size": _size_in(folder, e)} for rank_entries in gathered for e in rank_entries]
        index = {"format_version": FORMAT_VERSION, "step": step, "parts": parts}
        write_atomic(folder / INDEX_FILE, json.dumps({**index, "checksum": checksum(index, {})}))
    dist.barrier()


@torch.no_grad()
def load_sharded(folder: str | Path, state: Mapping[str, Any]) -> int:
    """Fill the tensors of ``state``, in place, from a checkpoint; called by every rank, or by a process that is alone.

    Returns:
        The step it was saved at.

    Raises:
        FileNotFoundError: there is no finished checkpoint.
        ValueError: it is of another model (keys or shapes differ) or damaged; tensors may then be filled in part.
    """
    folder = Path(folder)
    index = _read_index(folder)
    parts, wanted = index.by_key(), dict(_leaves(state))
    everywhere = _keys_of_all_ranks(wanted)
    if everywhere != parts.keys():
        missing, extra = sorted(everywhere - parts.keys()), sorted(parts.keys() - everywhere)
        raise ValueError(f"{folder}: the checkpoint is of another model: it lacks {missing} and has {extra}")
    for key, value in wanted.items():
        if _shape(value) != parts[key][0].shape:
            raise ValueError(f"{folder}: {key} is {list(parts[key][0].shape)} there and {list(_shape(value))} here")
        for offsets, tensor in _held(key, value, 0):
            _fill(folder, parts[key], tensor, offsets)
    return index.step


def _read_index(folder: Path) -> _Index:
    path = folder / INDEX_FILE
    try:
        content = parse_json(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("it is not an object")
        version = content.get("format_version")
        if version not in (None, FORMAT_VERSION):
            raise ValueError(f"format version {version}, this rectab reads {FORMAT_VERSION}; save it again")
        if content.pop("checksum", None) != checksum(content, {}):
            raise ValueError("its content does not match its checksum")
        index = read_plain(_Index, content)
        index.by_key()
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder}: no finished checkpoint (no {INDEX_FILE})") from None
    except ValueError as error:
        raise ValueError(f"{path}: damaged or of another rectab: {error}") from error
    return index


def _keys_of_all_ranks(wanted: Mapping[str, Any]) -> set[str]:
    """A rank without a shard of a table has no optimizer state of it, so no rank alone knows every key."""
    if not dist.is_initialized():
        return set(wanted)
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, list(wanted))
    return {key for keys in gathered for key in keys}


def _shape(value: Any) -> tuple[int, ...]:
    return value.shape if isinstance(value, Pieces) else tuple(value.size())


def _held(key: str, value: Any, rank: int) -> list[tuple[Sequence[int], Tensor]]:
    """(where it begins, tensor) of every piece of ``value`` that this rank has; the first one has what is no piece."""
    if isinstance(value, Pieces):
        return list(value.held)
    if isinstance(value, ShardedTensor):
        return [(shard.metadata.shard_offsets, shard.tensor) for shard in value.local_shards()]
    if not isinstance(value, Tensor):
        raise TypeError(f"{key} is a {type(value).__name__}; a sharded checkpoint holds tensors only")
    return [([0] * value.dim(), value)] if rank == 0 else []


def _leaves(state: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(slash-separated path, leaf), in a fixed order."""
    if isinstance(state, Mapping):
        for key in state:
            yield from _leaves(state[key], f"{prefix}/{key}" if prefix else str(key))
    elif isinstance(state, (list, tuple)):
        for number, item in enumerate(state):
            yield from _leaves(item, f"{prefix}/{number}" if prefix else str(number))
    else:
        yield prefix, state


def _size_in(folder: Path, entry: Mapping[str, Any]) -> list[int]:
    with safe_open(folder / entry["file"], framework="pt") as file:
        return list(file.get_slice(entry["stored"]).get_shape())


def _fill(folder: Path, parts: Sequence[_Part], target: Tensor, offsets: Sequence[int]) -> None:
    """Copy the overlap of every stored part with the shard at ``offsets``; all of it must be covered."""
    covered = 0
    for part in parts:
        shared = part.overlap(offsets, target.shape)
        if shared is None:
            continue
        low, high = shared
        source = tuple(slice(at - o, h - o) for at, h, o in zip(low, high, part.offsets, strict=True))
        here = tuple(slice(at - o, h - o) for at, h, o in zip(low, high, offsets, strict=True))
        target[here] = _read(folder / part.file, part)[source].to(target.device)
        covered += math.prod(h - at for at, h in zip(low, high, strict=True))
    if covered != target.numel():
        raise ValueError(f"{folder}: {parts[0].key} is not complete: {covered} of {target.numel()} elements")


def _read(path: Path, part: _Part) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(part.stored)
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"{path}: damaged or missing ({error})") from error
    if checksum({}, {"part": tensor}) != part.checksum:
        raise ValueError(f"{path}: {part.stored} does not match its checksum, so the file is damaged")
    if tuple(tensor.shape) != part.size:
        raise ValueError(f"{path}: {part.stored} is {list(tensor.shape)}, the index says {list(part.size)}")
    return tensor
