"""Tensors and a description in one safetensors file: written whole, checked to the last byte when read, no pickle.

safetensors itself has no checksum: a flipped bit in a tensor would load as another number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rectab import __version__
from rectab.atomic_file import atomic_file
from rectab.plain import parse_json

__all__ = ["checksum", "read_file", "write_file"]

_STREAMED_FROM = 1 << 30
_WRITTEN_AT_ONCE = 1 << 24
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def checksum(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Of the description, and of names, dtypes, shapes and every byte of the tensors (on the CPU, contiguous)."""
    digest = xxhash.xxh3_128(json.dumps(description, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return str(digest.hexdigest())


def write_file(
    path: Path, kind: str, version: int, description: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write ``tensors`` and ``description`` (plain data) as a file of a ``kind`` and version; it appears whole."""
    stored = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    full = {"format_version": version, "rectab": __version__, **description}
    text = json.dumps({**full, "checksum": checksum(full, stored)})
    with atomic_file(path) as draft:
        if sum(tensor.numel() * tensor.element_size() for tensor in stored.values()) < _STREAMED_FROM:
            save_file(stored, draft, metadata={f"rectab_{kind}": text})
        else:
            _stream(draft, stored, {f"rectab_{kind}": text})


def _stream(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """As ``save_file``, which makes a copy of all tensors in memory before it writes the first."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            for part in tensor.reshape(-1).view(torch.uint8).split(_WRITTEN_AT_ONCE):
                file.write(part.numpy().data)


def read_file(
    path: Path, kind: str, version: int, advice: str = "copy or save it again"
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(description, tensors) of :func:`write_file`'s file.

    Args:
        path: the file.
        kind, version: as it was written.
        advice: what to do about a file that cannot be read, for the error.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, truncated, of another kind or of another version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return _read(path, kind, version)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); {advice}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {advice}") from error


def _read(path: Path, kind: str, version: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(f"rectab_{kind}")
        if text is None:
            raise ValueError(f"a safetensors file, but not a rectab {kind} (no 'rectab_{kind}' metadata)")
        try:
            description = parse_json(text)
        except ValueError as error:
            raise ValueError(f"its 'rectab_{kind}' metadata is damaged ({error})") from error
        if not isinstance(description, dict):
            raise ValueError(f"its 'rectab_{kind}' metadata is not an object")
        if description.get("format_version") != version:
            raise ValueError(f"format version {description.get('format_version')}, this rectab reads {version}")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if description.pop("checksum", None) != checksum(description, tensors):
        raise ValueError("its content does not match its checksum, so it is damaged")
    return description, tensors
