"""A trained model on disk: everything that serving or explaining needs, in one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rectab import __version__
from rectab.models import CTRModel, ModelConfig
from rectab.schema import Schema
from rectab.tables import TableOptions, build_table, config_from_json, config_to_json

__all__ = ["load_model", "save_model"]

FORMAT_VERSION = 1


def save_model(model: CTRModel, path: Path) -> None:
    """Write ``model`` with its schema and configurations; the file appears whole."""
    description = {
        "format_version": FORMAT_VERSION,
        "rectab": __version__,
        "schema": model.schema.to_json(),
        "model": model.config.to_json(),
        "method": model.table.method,
        "embedding_dim": model.table.embedding_dim,
        "table": config_to_json(model.table.config),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata={"rectab_model": json.dumps(description)})
    partial.replace(path)


def load_model(path: Path | str, options: TableOptions | None = None) -> CTRModel:
    """Read :func:`save_model`'s file, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, not a rectab model, or of another format version.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("rectab_model")
            if text is None:
                raise ValueError(f"{path}: a safetensors file, but not a rectab model (no 'rectab_model' metadata)")
            description = json.loads(text)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); train or copy it again") from error
    if description.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format version {description.get('format_version')}, this rectab reads {FORMAT_VERSION}"
        )
    schema = Schema.from_json(description["schema"])
    config = config_from_json(description["method"], description["table"])
    table = build_table(description["method"], schema.vocabularies, description["embedding_dim"], config, options)
    with torch.random.fork_rng():
        model = CTRModel(schema, table, ModelConfig.from_json(description["model"]))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path}: tensors do not fit the configuration in its metadata: {error}") from error
    return model.eval()
