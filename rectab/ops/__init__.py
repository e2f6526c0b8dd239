"""The hot path: hashing, lookup and what a step touched."""

from rectab.ops.hashing import MAX_ROWS, address_rows, hash_rows, mix, salt_of
from rectab.ops.rows import Gradient, RowStore

__all__ = ["MAX_ROWS", "Gradient", "RowStore", "address_rows", "hash_rows", "mix", "salt_of"]
