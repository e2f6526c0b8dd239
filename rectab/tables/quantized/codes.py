"""An encoding as one int16, as the table holds it and kernels read it.

=======  ==================================================================================================
bits     what
=======  ==================================================================================================
0..3     kind: 0 shared, 1 rare, 2 fp16, 3 grid, 4 codebooks of int8 entries, 5 of fp16 entries
4..6     grid: its place in :data:`rectab.ops.grids.GRIDS`
7..8     grid: a step a block, dimension or row
4..7     codebooks: bits of a code
8..14    codebooks: dimensions of a part, 0 for all
=======  ==================================================================================================
"""

from __future__ import annotations

from rectab.ops.grids import GRIDS
from rectab.ops.numba_payload import BOOK_FP16, BOOK_INT8, FP16, GRID, RARE, SHARED
from rectab.quantize.encodings import Bits, Codebook, Encoding, Float16, Rare, Shared, Ternary, encoding_of

__all__ = ["code_of", "encoding_of_code"]

_STEPS = ("block", "dimension", "row")
_MAX_PART = 127


def code_of(encoding: Encoding, embedding_dim: int) -> int:
    """The integer of an encoding of vectors of ``embedding_dim``.

    Raises:
        ValueError: codebooks of a number of centroids that is no power of two, or of parts wider than 127 dimensions
            other than whole vectors.
    """
    if isinstance(encoding, (Bits, Ternary)):
        return GRID | list(GRIDS).index(encoding.grid.name) << 4 | _STEPS.index(encoding.steps) << 7
    if isinstance(encoding, Codebook):
        part = 0 if encoding.sub_dim == embedding_dim else encoding.sub_dim
        if encoding.num_codes & (encoding.num_codes - 1) or part > _MAX_PART:
            raise ValueError(
                f"quantized: {encoding.name} cannot be held: the number of centroids must be a power of two, and parts "
                f"of at most {_MAX_PART} dimensions or whole vectors"
            )
        return (BOOK_INT8 if encoding.entries == "int8" else BOOK_FP16) | encoding.code_bits << 4 | part << 8
    kinds: dict[type[Encoding], int] = {Shared: SHARED, Rare: RARE, Float16: FP16}
    return kinds[type(encoding)]


def encoding_of_code(code: int, embedding_dim: int) -> Encoding:
    """The inverse of :func:`code_of`. Raises ValueError for an integer that is no encoding's."""
    kind, grids = code & 15, list(GRIDS)
    if kind == GRID and code >> 4 & 7 < len(grids) and code >> 7 & 3 < len(_STEPS):
        grid, steps = grids[code >> 4 & 7], _STEPS[code >> 7 & 3]
        found: Encoding = encoding_of(f"{grid}/{steps}")
    elif kind in (BOOK_INT8, BOOK_FP16):
        sub_dim = code >> 8 & _MAX_PART or embedding_dim
        found = Codebook(sub_dim, 1 << (code >> 4 & 15), "int8" if kind == BOOK_INT8 else "fp16")
    else:
        found = {SHARED: Shared(), RARE: Rare(), FP16: Float16()}.get(kind, Shared())
    if code_of(found, embedding_dim) != code:
        raise ValueError(f"quantized: {code} is the code of no encoding")
    return found
