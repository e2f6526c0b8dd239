"""One model of which every width can be taken: the first dimensions of its embeddings, and the weights that read them.

The idea is that of Matryoshka representations (Kusupati et al., NeurIPS 2022) for a CTR model's table. All widths share
one table and one network. What a layer reads of the embeddings is a prefix of each, so the columns of its weights are
those of the full layer; every width has batch norms of its own (Yu et al., ICLR 2019: slimmable networks). Or widths
share the table alone, and each has a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rectab.batch import Batch
from rectab.models.base import CTRModel
from rectab.models.config import ModelConfig
from rectab.schema import Schema
from rectab.tables import TableOptions, plan
from rectab.tables.base import EmbeddingTable

__all__ = ["ElasticModel", "prefix_of"]


class ElasticModel(CTRModel):
    """A CTR model of full width that shares its table, and all else but its norms, with models of smaller widths.

    Args:
        schema: the columns of the data.
        table: a full table of the largest width D.
        config: interaction and tower.
        widths: the others, each in 1..D - 1.
        share: ``network``: all but the norms; ``table``: the table alone.

    Raises:
        ValueError: another table, or widths that are not smaller or come twice.
    """

    def __init__(
        self,
        schema: Schema,
        table: EmbeddingTable,
        config: ModelConfig,
        widths: tuple[int, ...],
        share: Literal["network", "table"] = "network",
    ) -> None:
        super().__init__(schema, table, config)
        full = table.embedding_dim
        if table.method != "full":
            raise ValueError(f"elastic: widths are prefixes of the rows of --table full, got --table {table.method}")
        if len(set(widths)) != len(widths) or not all(0 < width < full for width in widths):
            raise ValueError(f"elastic: widths must differ and lie in 1..{full - 1}, got {list(widths)}")
        self.widths = widths
        shapes = {name: tuple(parameter.shape) for name, parameter in self.named_parameters()}
        self.narrow = nn.ModuleDict()
        self._shared: dict[int, dict[str, list[Tensor | None]]] = {}
        for width in widths:
            model = CTRModel(schema, cast(EmbeddingTable, _Prefix(table, width)), config)
            self._shared[width] = _without_shared(model, shapes, full, width) if share == "network" else {}
            self.narrow[str(width)] = model

    def at(self, width: int, batch: Batch) -> Tensor:
        """Logits float [B] of the model of ``width``."""
        model = self.narrow[str(width)]
        with _lent(model, self._read(width)):
            logits: Tensor = model(batch)
        return logits

    def _read(self, width: int) -> dict[str, Tensor]:
        """The parameters of ``width``, by name: parts of the full ones."""
        full = dict(self.named_parameters())
        return {name: prefix_of(full[name], places) for name, places in self._shared[width].items()}

    @torch.no_grad()
    def taken(self, width: int) -> CTRModel:
        """A copy of the model of ``width`` (or of D) that stands for itself, in evaluation mode."""
        full, vocabularies = self.table, self.schema.vocabularies
        table = plan("full", vocabularies, width, None, options=TableOptions(device=full.device)).build()
        (_, store), (_, source) = (next(iter(each.row_stores())) for each in (table, full))
        store.weight.copy_(source.weight[:, :width])
        made = CTRModel(self.schema, table, self.config).to(full.device).eval()
        own: nn.Module = self if width == full.embedding_dim else self.narrow[str(width)]
        state = {n: t for n, t in own.state_dict().items() if not n.startswith(("table.", "narrow."))}
        state |= {} if own is self else self._read(width)
        made.load_state_dict(state | {f"table.{n}": t for n, t in table.state_dict().items()})
        return made


class _Prefix(nn.Module):
    """The first dimensions of another table's vectors; that table is not a part of it."""

    def __init__(self, table: EmbeddingTable, width: int) -> None:
        super().__init__()
        self._table = [table]
        self.vocabularies = table.vocabularies
        self.embedding_dim = width

    def forward(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        vectors: Tensor = self._table[0](ids, vocabulary)
        return vectors[..., : self.embedding_dim]


def prefix_of(parameter: Tensor, places: list[Tensor | None]) -> Tensor:
    """The part of a parameter at ``places`` of every dimension; None takes all of one."""
    for dimension, chosen in enumerate(places):
        if chosen is not None:
            parameter = parameter.index_select(dimension, chosen.to(parameter.device))
    return parameter


def _places(full: int, narrow: int, width: int, of: int) -> Tensor | None:
    """Which of ``full`` entries a dimension of ``narrow`` entries has: of G vectors of ``of`` numbers, laid end to end,
    the first ``width`` each, and what follows them. None: all."""
    if full == narrow:
        return None
    groups, rest = divmod(full - narrow, of - width)
    after = full - groups * of
    if rest or after < 0:
        raise ValueError(
            f"elastic: {narrow} numbers of a layer at width {width} are no prefixes of its {full} at width {of}; of "
            "armnet_plus, take embeddings 'shared'"
        )
    vectors = (torch.arange(groups).unsqueeze(1) * of + torch.arange(width)).flatten()
    return torch.cat([vectors, groups * of + torch.arange(after)])


def _without_shared(
    model: CTRModel, shapes: Mapping[str, tuple[int, ...]], full: int, width: int
) -> dict[str, list[Tensor | None]]:
    """Take all but the norms' parameters out of ``model``: by name, where they are in those of full width."""
    own = {f"{name}.{key}" for name, part in model.named_modules() for key in part._parameters if _is_norm(part)}
    shared = {}
    for name, parameter in list(model.named_parameters()):
        if name in own:
            continue
        pairs = zip(shapes[name], parameter.shape, strict=True)
        shared[name] = [_places(large, small, width, full) for large, small in pairs]
        part, _, key = name.rpartition(".")
        model.get_submodule(part)._parameters[key] = None
    return shared


def _is_norm(part: nn.Module) -> bool:
    return isinstance(part, _BatchNorm)


@contextmanager
def _lent(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """``tensors`` stand in the places of parameters that were taken out."""
    held = [(model.get_submodule(name.rpartition(".")[0])._parameters, name.rpartition(".")[2]) for name in tensors]
    for (parameters, key), tensor in zip(held, tensors.values(), strict=True):
        parameters[key] = tensor  # type: ignore[assignment]  # torch reads it as it reads a parameter
    try:
        yield
    finally:
        for parameters, key in held:
            parameters[key] = None
