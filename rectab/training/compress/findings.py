"""Where an allocation put its bytes: bits an element by block and by vocabulary, for reports."""

from __future__ import annotations

import numpy as np

from rectab.tables.findings import Finding, by_vocabulary, grid
from rectab.training.compress.encoder import Encoded

__all__ = ["bits_of_blocks"]

_TENTHS = 10


def bits_of_blocks(made: Encoded) -> tuple[Finding, ...]:
    """Bits of payload an element: by vocabulary, and by tenth of a vocabulary's ids, the most frequent first."""
    vocabularies, width = made.run.dataset.schema.vocabularies, made.run.embedding_dim
    bits = [np.zeros(v.num_embeddings) for v in vocabularies]
    for block, encoding in zip(made.allocation.blocks, made.allocation.encodings, strict=True):
        size = encoding.bytes(len(block), width)
        bits[block.vocabulary][block.first : block.last] = 8 * size / (len(block) * width)
    names = [v.name for v in vocabularies]
    tenths = [[float(part.mean()) for part in _tenths(values)] for values in bits]
    return (
        by_vocabulary(
            "Bits per vocabulary",
            "Bits an element of a vector, codebooks and steps included, of every vocabulary.",
            "bits",
            {name: float(values.mean()) for name, values in zip(names, bits, strict=True)},
        ),
        grid(
            "Bits by frequency",
            "Bits an element in every tenth of a vocabulary's ids, the most frequent tenth on the left.",
            "bits",
            names,
            [str(tenth) for tenth in range(1, _TENTHS + 1)],
            tenths,
            largest=max(map(max, tenths)),
        ),
    )


def _tenths(values: np.ndarray) -> list[np.ndarray]:
    """Ten parts of the ids; of fewer than ten ids, some are in several."""
    borders = np.linspace(0, len(values), _TENTHS + 1)
    starts = np.minimum(borders[:-1].astype(int), len(values) - 1)
    return [values[a : max(int(b), a + 1)] for a, b in zip(starts, borders[1:], strict=True)]
