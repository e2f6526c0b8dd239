"""Deep hash embeddings: no rows at all; a vector is what a network makes of many hashes of its id.

Kang et al., "Learning to Embed Categorical Features without Embedding Tables for Recommendation", KDD 2021. ``k``
hashes of an id, each a number in -1..1, go through ``depth`` hidden layers (linear, Mish) and a last linear one. No two
ids meet, and any id has a vector; what is shared is the network. A lookup costs k * width + (depth - 1) * width^2
multiplications where a table reads a row, so an id that a call asks for twice is computed once.

The paper normalises hidden units over the batch, without which the vectors of all ids start nearly alike. A vector that
depends on the other ids of its batch would break what tables promise, so units are normalised once, at step 0, over a
sample of ids (data-dependent initialisation, Salimans and Kingma, NeurIPS 2016, section 3), and learn from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from rectab.ops import mix, salt_of
from rectab.ops.dispatch import is_eager
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.family import Family
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
    seed: of the hashes.
    """

    width: int
    num_hashes: int = 1024
    depth: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.width, self.num_hashes, self.depth) < 1:
            raise ValueError(f"dhe: width, num_hashes and depth must be at least 1, got {self}")


class DHETable(EmbeddingTable[DHEConfig]):
    """One network for all vocabularies, whose ids are told apart by the salts of their hashes.

    Memory: (k + 1) * width + (depth - 1) * (width + 1) * width + (width + 1) * D floats, and a salt a vocabulary.
    """

    salt: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: DHEConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        device = self.options.device
        salts = [salt_of(config.seed, vocabulary.name) for vocabulary in self.vocabularies]
        self.register_buffer("salt", torch.tensor(salts, dtype=torch.int64, device=device))
        widths = [config.num_hashes, *[config.width] * config.depth, embedding_dim]
        self.layers = nn.ModuleList(_Linear(*shape, device) for shape in pairwise(widths))
        if self.device.type != "meta":
            self._initialise()

    @property
    def dtype(self) -> torch.dtype:
        return self.layers[0].weight.dtype  # type: ignore[return-value]

    @torch.no_grad()
    def _initialise(self) -> None:
        """Every unit, and every element of a vector, has mean 0 over a sample of ids, and the same deviation."""
        generator = torch.Generator().manual_seed(self.options.seed)
        drawn = torch.randint(-(2**63), 2**63 - 1, (_SAMPLED,), generator=generator).to(self.device)
        values = self._codes(drawn)
        for layer in self.layers:
            assert isinstance(layer, _Linear)
            last = layer is self.layers[-1]
            weight = torch.randn(layer.weight.shape, generator=generator).to(self.device)
            out = values @ weight.T
            scale = (self.options.init_std if last else 1.0) / out.std(0).clamp(min=1e-6)
            layer.weight.copy_(weight * scale.unsqueeze(1))
            layer.bias.copy_(-out.mean(0) * scale)
            values = nn.functional.mish(layer(values))

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        seeds = mix(ids, self.salt[vocabulary])
        if not is_eager(seeds):
            return self._vectors(seeds)
        distinct, which = seeds.unique(return_inverse=True)
        parts = [self._vectors(part) for part in distinct.split(_IDS_AT_A_TIME)]
        return nn.functional.embedding(which, parts[0] if len(parts) == 1 else torch.cat(parts))

    def _vectors(self, seeds: Tensor) -> Tensor:
        """int64 [*] hashes of ids -> [*, D]."""
        values = self._codes(seeds)
        for layer in self.layers[:-1]:
            values = nn.functional.mish(layer(values))
        vectors: Tensor = self.layers[-1](values)
        return vectors

    def _codes(self, seeds: Tensor) -> Tensor:
        """int64 [*] -> [*, k] in -1..1: 16 bits each, four of a 64-bit hash."""
        count = self.config.num_hashes
        hashes = mix(seeds.unsqueeze(-1) + torch.arange((count + 3) // 4, device=seeds.device), 0)
        places = torch.arange(0, 64, 16, device=seeds.device)
        bits = torch.bitwise_right_shift(hashes.unsqueeze(-1), places) & 0xFFFF  # ONNX has no >> by a tensor
        return ((bits.flatten(-2)[..., :count].float() + 0.5) * 2.0**-15 - 1.0).to(self.dtype)


class _Linear(nn.Module):
    """``nn.Linear`` whose values are not drawn twice, nor on the meta device."""

    def __init__(self, inputs: int, outputs: int, device: torch.device | str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, device=device))
        self.bias = nn.Parameter(torch.empty(outputs, device=device))

    def forward(self, values: Tensor) -> Tensor:
        return nn.functional.linear(values, self.weight, self.bias)


def dhe_family(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: TableOptions,
    *,
    num_hashes: int = 1024,
    depth: int = 5,
    seed: int = 0,
) -> Family[DHEConfig]:
    """By width, up to the bytes of the full table; the paper's, or that, without a budget. A narrow layer reads fewer
    hashes, four for each of its units."""

    def config_of(width: int) -> DHEConfig:
        return DHEConfig(width, min(num_hashes, _CODES_A_UNIT * width), depth, seed)

    numbers = embedding_dim * sum(v.num_embeddings for v in vocabularies)
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
        without_rows=True,
    )
)
