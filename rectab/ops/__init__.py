"""The hot path: hashing, lookup, bags, and what a step touched."""

from rectab.ops.bags import segment_sum, spread_bags
from rectab.ops.dispatch import KernelName, kernel_name, use_kernel
from rectab.ops.hashing import MAX_ROWS, address_rows, hash_rows, mix, salt_of
from rectab.ops.rows import Combination, Gradient, RowStore

__all__ = [
    "MAX_ROWS",
    "Combination",
    "Gradient",
    "KernelName",
    "RowStore",
    "address_rows",
    "hash_rows",
    "kernel_name",
    "mix",
    "salt_of",
    "segment_sum",
    "spread_bags",
    "use_kernel",
]
