"""The hot path: hashing, lookup, bags, and what a step touched."""

from rectab.ops.bags import segment_sum, spread_bags
from rectab.ops.dispatch import KernelName, kernel_name, use_kernel
from rectab.ops.formats import (
    CodesFormat,
    FloatFormat,
    FusedFormat,
    GridFormat,
    Int8Format,
    LatentFormat,
    RowFormat,
    every_format,
    float_format,
    formats,
    get_format,
    register_format,
    served_format,
)
from rectab.ops.hashing import MAX_ROWS, address_rows, hash_rows, mix, salt_of
from rectab.ops.rows import Gradient, RowStore

__all__ = [
    "MAX_ROWS",
    "CodesFormat",
    "FloatFormat",
    "FusedFormat",
    "Gradient",
    "GridFormat",
    "Int8Format",
    "KernelName",
    "LatentFormat",
    "RowFormat",
    "RowStore",
    "address_rows",
    "every_format",
    "float_format",
    "formats",
    "get_format",
    "hash_rows",
    "kernel_name",
    "mix",
    "register_format",
    "salt_of",
    "segment_sum",
    "served_format",
    "spread_bags",
    "use_kernel",
]
