"""ROBE-Z: vectors are pieces of one array, which overlap at any offset.

Desai, Chou and Shrivastava, "Random Offset Block Embedding (ROBE) for Compressed Embedding Tables in Deep Learning
Recommendation Systems", MLSys 2022. All vocabularies share one array of M floats. A vector is cut into blocks of Z
elements; each block is the Z floats that follow a hashed offset, around the end of the array, times signs that are
hashed for the id. A block longer than a vector (a multiple of D) holds the vectors of several ids that follow each
other.

The array is held in rows of a block's width. A block that starts inside a row is read from that row and the next, so
any offset costs two rows; and a row whose floats are in part another block's is one that its optimizer has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rectab.ops import MAX_ROWS, hash_rows, mix, salt_of
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.family import Family
from rectab.tables.registry import TableMethod, register

__all__ = ["RobeConfig", "RobeTable"]

_BITS = 64  # signs that one hash gives


@dataclass(frozen=True)
class RobeConfig:
    """Attributes:
    num_rows: rows of ``min(block, D)`` elements that the array is held in.
    block: Z, at most D or a multiple of D.
    signs: whether elements are multiplied by 1 or -1, hashed for id and element.
    seed: of the hashes.
    """

    num_rows: int
    block: int
    signs: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"robe: block must be at least 1, got {self.block}")
        if not 1 <= self.num_rows <= MAX_ROWS:
            raise ValueError(f"robe: num_rows must be in 1..{MAX_ROWS}, got {self.num_rows}")


class RobeTable(EmbeddingTable[RobeConfig]):
    """One array for all vocabularies; any id is served.

    Memory: num_rows * (bytes of a row of min(Z, D)) + 8 bytes a vocabulary for each of a vector's blocks, their offsets
    within rows (if Z > 1) and the signs.
    """

    salt: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: RobeConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        if config.block > embedding_dim and config.block % embedding_dim:
            raise ValueError(f"robe: a block longer than D = {embedding_dim} must be a multiple, got {config.block}")
        self.width = min(config.block, embedding_dim)
        self.blocks = -(-embedding_dim // self.width)
        self.sharing = max(1, config.block // embedding_dim)  # ids of one block
        parts: list[str | int] = [*range(self.blocks), "shift"] if self.width > 1 else [*range(self.blocks)]
        parts += ["sign"] if config.signs else []
        salts = [[salt_of(config.seed, v.name, part) for part in parts] for v in self.vocabularies]
        self.register_buffer("salt", torch.tensor(salts, dtype=torch.int64, device=self.options.device))
        self.store = self.options.row_store(
            config.num_rows,
            self.width,
            init_std=self.options.init_std,
            generator=torch.Generator().manual_seed(self.options.seed),
        )

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        salt, size = self.salt[vocabulary], self.config.num_rows
        block, within = (ids, None) if self.sharing == 1 else _divided(ids, self.sharing)
        salts = salt[..., : self.blocks]
        first = hash_rows(block.unsqueeze(-1), salts, size)
        if self.width == 1:
            vectors = self.store(first).flatten(-2)
        else:
            # A second hash of the same block, so that offsets are uniform over all num_rows * width of them.
            shift = hash_rows(block.unsqueeze(-1), salts ^ salt[..., self.blocks, None], self.width)
            vectors = self._at_offsets(first if within is None else (first + within.unsqueeze(-1)) % size, shift)
        vectors = vectors[..., : self.embedding_dim]
        return vectors * self._signs(ids, salt[..., -1]).to(vectors.dtype) if self.config.signs else vectors

    def _at_offsets(self, first: Tensor, shift: Tensor) -> Tensor:
        """int64 [*, blocks] rows and offsets within them -> [*, blocks * width]: what follows each offset."""
        both = torch.stack([first, (first + 1) % self.config.num_rows], -1)
        pairs = self.store(both.flatten(-2)).unflatten(-2, (self.blocks, 2)).flatten(-2)
        places = shift.unsqueeze(-1) + torch.arange(self.width, device=shift.device)
        return pairs.gather(-1, places).flatten(-2)

    def _signs(self, ids: Tensor, salt: Tensor) -> Tensor:
        """int64 [*] -> int64 [*, D] of 1 and -1."""
        words = -(-self.embedding_dim // _BITS)
        hashes = mix(mix(ids, salt).unsqueeze(-1) + torch.arange(words, device=ids.device), 0)
        places = torch.arange(_BITS, device=ids.device)
        bits = torch.bitwise_right_shift(hashes.unsqueeze(-1), places) & 1  # ONNX has no >> by a tensor
        return 2 * bits.flatten(-2)[..., : self.embedding_dim] - 1


def _divided(ids: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """Floor and rest, also of negative ids."""
    floor = torch.div(ids, by, rounding_mode="floor")
    return floor, ids - by * floor


def robe_family(
    vocabularies: Sequence[Vocabulary],
    embedding_dim: int,
    options: TableOptions,
    *,
    block: int | None = None,
    signs: bool = True,
    seed: int = 0,
) -> Family[RobeConfig]:
    """By rows of the array; without a budget, as many elements as the full table has. A block is a whole vector by
    default."""
    block = embedding_dim if block is None else block
    if block < 1 or (block > embedding_dim and block % embedding_dim):
        raise ValueError(f"robe: block must be in 1..{embedding_dim} or a multiple of {embedding_dim}, got {block}")
    numbers = embedding_dim * sum(v.num_embeddings for v in vocabularies)
    return Family(
        lambda rows: RobeConfig(rows, block, signs, seed),
        low=1,
        high=MAX_ROWS,
        own=lambda: RobeConfig(min(MAX_ROWS, -(-numbers // min(block, embedding_dim))), block, signs, seed),
        smallest="one row of the array",
        limit=f"block={block} holds at most {MAX_ROWS} rows; give a longer one",
    )


register(
    TableMethod(
        name="robe",
        summary="pieces of one array, at any offset",
        group="static encoding",
        paper="Desai et al., MLSys 2022",
        config=RobeConfig,
        table=RobeTable,
        family=robe_family,
        serves_any_id=True,
    )
)
