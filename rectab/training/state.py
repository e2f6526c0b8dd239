"""Training state on disk (nested plain data and tensors in one safetensors file, whole or not at all), and seeding."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rectab.tables.files import read_file, write_file
from rectab.training.errors import CheckpointError

__all__ = ["get_rng_state", "load_state", "restored_from", "save_state", "seed_everything", "set_rng_state"]


FORMAT_VERSION = 1

_AGAIN = "delete its folder to start the run again"


def save_state(path: Path, state: Any) -> None:
    """Write nested dicts, lists, tuples, plain values and tensors to ``path``; the file appears whole.

    Tensors go to the body, all else as JSON to the metadata of the safetensors file. No pickle.
    """
    tensors: dict[str, Tensor] = {}
    write_file(path, "state", FORMAT_VERSION, {"tree": _encode(state, tensors)}, tensors)


def load_state(path: Path) -> Any:
    """Read :func:`save_state`'s file. Raises CheckpointError if it is damaged to a bit, missing or something else."""
    with restored_from(path):
        description, tensors = read_file(path, "state", FORMAT_VERSION, _AGAIN)
        return _decode(description["tree"], tensors)


@contextmanager
def restored_from(path: Path) -> Iterator[None]:
    """While a run takes up what ``path`` holds: whatever does not fit it raises CheckpointError that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; {_AGAIN}") from error
    except RecursionError as error:
        raise CheckpointError(f"{path}: damaged (nested too deeply); {_AGAIN}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RuntimeError) as error:
        told = str(error).removeprefix(f"{path}: ").removesuffix(f"; {_AGAIN}")
        raise CheckpointError(f"{path}: damaged or of another run ({told}); {_AGAIN}") from error


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensor = value.detach().cpu().contiguous()
        # safetensors wants every tensor on its own, so one that shares its memory is copied.
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        shared = any(tensor.data_ptr() == other.data_ptr() for other in tensors.values())
        tensors[name] = tensor.clone() if shared or not whole else tensor
        return {"tensor": name}
    if isinstance(value, dict):
        return {"items": [[_encode(k, tensors), _encode(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_encode(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_encode(item, tensors) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}  # JSON has no such numbers
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"training state cannot hold a {type(value).__name__}")


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "number" in value:
        return float(value["number"])
    if "tuple" in value:
        return tuple(_decode(item, tensors) for item in value["tuple"])
    return {_decode(k, tensors): _decode(v, tensors) for k, v in value["items"]}


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch, numpy and python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  libraries that use the global generator
    random.seed(seed)


def get_rng_state(device: torch.device | None = None) -> dict[str, Any]:
    """States of the global generators of torch, numpy and python, and of that of ``device`` if it is a GPU."""
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002  global state that others may use
    return {
        "torch": torch.get_rng_state(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached),
        "python": random.getstate(),
    } | ({"cuda": torch.cuda.get_rng_state(device)} if device is not None and device.type == "cuda" else {})


def set_rng_state(state: dict[str, Any], device: torch.device | None = None) -> None:
    """Set what :func:`get_rng_state` gave for the same device."""
    if device is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    torch.set_rng_state(state["torch"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    random.setstate(state["python"])
