"""Training state on disk: nested plain data and tensors in one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rectab.atomic_file import atomic_file
from rectab.training.errors import CheckpointError

__all__ = ["get_rng_state", "load_state", "save_state", "set_rng_state"]


def save_state(path: Path, state: Any) -> None:
    """Write nested dicts, lists, tuples, plain values and tensors to ``path``; the file appears whole.

    Tensors go to the body, all else as JSON to the metadata of the safetensors file. No pickle.
    """
    tensors: dict[str, Tensor] = {}
    tree = _encode(state, tensors)
    with atomic_file(path) as draft:
        save_file(tensors, draft, metadata={"rectab_state": json.dumps(tree)})


def load_state(path: Path) -> Any:
    """Read :func:`save_state`'s file. Raises CheckpointError if it is damaged, missing or something else."""
    again = "delete its folder to start the run again"
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("rectab_state")
            if text is None:
                raise CheckpointError(f"{path}: a safetensors file, but no training state of rectab; {again}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _decode(json.loads(text), tensors)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; {again}") from error
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); {again}") from error


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
    if "tuple" in value:
        return tuple(_decode(item, tensors) for item in value["tuple"])
    return {_decode(k, tensors): _decode(v, tensors) for k, v in value["items"]}


def get_rng_state() -> dict[str, Any]:
    """States of the global generators of torch, numpy and python."""
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002  global state that others may use
    return {
        "torch": torch.get_rng_state(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached),
        "python": random.getstate(),
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Set what :func:`get_rng_state` gave."""
    torch.set_rng_state(state["torch"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    random.setstate(state["python"])
