"""Deep hash embeddings: no rows at all; a vector is what a network makes of many hashes of its id.

Kang et al., "Learning to Embed Categorical Features without Embedding Tables for Recommendation", KDD 2021. ``k``
hashes of an id, each a number in -1..1, go through ``depth`` hidden layers (linear, Mish) and a last linear one. No two
ids meet, and any id has a vector; what is shared is the network: of all vocabularies, or with ``shared=False`` each has
its own, as in the paper, unless its rows would take fewer numbers. A lookup costs k * width + (depth - 1) * width^2
multiplications where a table reads a row, so an id that a call asks for twice is computed once.

The paper normalises hidden units over the batch, without which the vectors of all ids start nearly alike. A vector that
depends on the other ids of its batch would break what tables promise, so units are normalised once, at step 0, over a
sample of ids (data-dependent initialisation, Salimans and Kingma, NeurIPS 2016, section 3), and learn from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from rectab.ops import address_rows, mix, salt_of
from rectab.ops.dispatch import is_eager
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.family import Family
from rectab.tables.hash_codes import Linear, codes_of
from rectab.tables.parts import Lookup, in_parts
from rectab.tables.registry import TableMethod, register

__all__ = ["DHEConfig", "DHETable"]

_IDS_AT_A_TIME = 1 << 12
_SAMPLED = 1 << 12  # ids over which units are normalised at step 0
_PAPER_WIDTH = 1800
_CODES_A_UNIT = 4  # a narrow layer cannot read more


@dataclass(frozen=True)
class DHEConfig:
    """Attributes:
    width: units of a hidden layer.
    num_hashes: k, how many hashes of an id the network reads.
    depth: hidden layers.
    shared: whether all vocabularies have one network.
    seed: of the hashes.
    """

    width: int
    num_hashes: int = 1024
    depth: int = 5
    shared: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.width, self.num_hashes, self.depth) < 1:
            raise ValueError(f"dhe: width, num_hashes and depth must be at least 1, got {self}")


class DHETable(EmbeddingTable[DHEConfig]):
    """Networks that tell the ids of vocabularies apart by the salts of their hashes.

    Memory: a network has (k + 1) * width + (depth - 1) * (width + 1) * width + (width + 1) * D floats; and there is a
    salt a vocabulary. With a network each, vocabularies that keep their rows have these, and each three integers more.
    """

    salt: Tensor
    part: Tensor
    first_row: Tensor
    num_rows: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: DHEConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        salts = [salt_of(config.seed, vocabulary.name) for vocabulary in self.vocabularies]
        self.register_buffer("salt", self._integers(salts))
        if config.shared:
            self.layers = self._network(self.options.seed)
            return
        most = _parameters(config, embedding_dim)
        kept = [0 if v.hashed or v.num_embeddings * embedding_dim > most else v.num_embeddings for v in vocabularies]
        networks = list(accumulate((int(not rows) for rows in kept), initial=0))  # before each vocabulary, and in all
        self.networks = nn.ModuleList(self._network(self.options.seed + n) for n in range(networks[-1]))
        parts = [networks[-1] if rows else n for rows, n in zip(kept, networks, strict=False)]
        self.register_buffer("part", self._integers(parts))
        self.register_buffer("first_row", self._integers(list(accumulate(kept[:-1], initial=0))))
        self.register_buffer("num_rows", self._integers([-rows for rows in kept]))  # as address_rows wants them
        if any(kept):
            std, generator = self.options.init_std, torch.Generator().manual_seed(self.options.seed - 1)
            self.whole = self.options.row_store(sum(kept), embedding_dim, init_std=std, generator=generator)

    def _integers(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.options.device)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _network(self, seed: int) -> nn.ModuleList:
        """Every unit, and every element of a vector, has mean 0 over a sample of ids, and the same deviation."""
        widths = [self.config.num_hashes, *[self.config.width] * self.config.depth, self.embedding_dim]
        layers = nn.ModuleList(Linear(*shape, self.options.device) for shape in pairwise(widths))
        if torch.device(self.options.device).type != "meta":
            self._initialise(layers, torch.Generator().manual_seed(seed))
        return layers

    @torch.no_grad()
    def _initialise(self, layers: nn.ModuleList, generator: torch.Generator) -> None:
        drawn = torch.randint(-(2**63), 2**63 - 1, (_SAMPLED,), generator=generator).to(self.options.device)
        values = codes_of(drawn, self.config.num_hashes)
        for layer in layers:
            assert isinstance(layer, Linear)
            weight = torch.randn(layer.weight.shape, generator=generator).to(layer.weight.device)
            out = values @ weight.T
            scale = (self.options.init_std if layer is layers[-1] else 1.0) / out.std(0).clamp(min=1e-6)
            layer.weight.copy_(weight * scale.unsqueeze(1))
            layer.bias.copy_(-out.mean(0) * scale)
            values = nn.functional.mish(layer(values))

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        if self.config.shared:
            return self._computed(self.layers, ids, vocabulary)
        lookups: list[Lookup] = [partial(self._computed, layers) for layers in self.networks]  # type: ignore[arg-type]
        if hasattr(self, "whole"):
            lookups.append(self._own_row)
        return in_parts(ids, vocabulary, self.part, lookups)

    def _own_row(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        first, size = self.first_row[vocabulary], self.num_rows[vocabulary]
        vectors: Tensor = self.whole(address_rows(ids, torch.zeros_like(size), first, size))
        return vectors

    def _computed(self, layers: nn.ModuleList, ids: Tensor, vocabulary: Tensor) -> Tensor:
        seeds = mix(ids, self.salt[vocabulary])
        if not is_eager(seeds):
            return self._vectors(layers, seeds)
        distinct, which = seeds.unique(return_inverse=True)
        parts = [self._vectors(layers, part) for part in distinct.split(_IDS_AT_A_TIME)]
        return nn.functional.embedding(which, parts[0] if len(parts) == 1 else torch.cat(parts))

    def _vectors(self, layers: nn.ModuleList, seeds: Tensor) -> Tensor:
        """int64 [*] hashes of ids -> [*, D]."""
        values = layers[0](codes_of(seeds, self.config.num_hashes).to(self.dtype))
        for layer in layers[1:]:
            values = layer(nn.functional.mish(values))
        return values


def dhe_family(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: TableOptions,
    *,
    num_hashes: int = 1024,
    depth: int = 5,
    shared: bool = True,
    seed: int = 0,
) -> Family[DHEConfig]:
    """By width, up to where a network takes the bytes of the full table, or of its largest vocabulary if each has its
    own; the paper's, or that, without a budget. A narrow layer reads fewer hashes, four for each of its units."""

    def config_of(width: int) -> DHEConfig:
        return DHEConfig(width, min(num_hashes, _CODES_A_UNIT * width), depth, shared, seed)

    sizes = [v.num_embeddings for v in vocabularies]
    numbers = embedding_dim * (sum(sizes) if shared else max(sizes))
    high = 1
    while _parameters(config_of(high), embedding_dim) < numbers:
        high *= 2
    return Family(
        config_of, low=1, high=high, own=lambda: config_of(min(high, _PAPER_WIDTH)), smallest="a network of width 1"
    )


def _parameters(config: DHEConfig, embedding_dim: int) -> int:
    width = config.width
    return (config.num_hashes + 1 + (config.depth - 1) * (width + 1)) * width + (width + 1) * embedding_dim


register(
    TableMethod(
        name="dhe",
        summary="no rows: a network makes the vector of an id from many hashes of it",
        group="static encoding",
        paper="Kang et al., KDD 2021",
        config=DHEConfig,
        table=DHETable,
        family=dhe_family,
        fills="steps",
        serves_any_id=True,
        holds="the weights of networks",
    )
)
