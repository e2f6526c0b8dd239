"""A table in packed bytes, to be served: blocks of ids, each in an encoding of its own (:mod:`rectab.quantize`)."""

from rectab.tables.quantized.ranked import RankedConfig, RankedTable
from rectab.tables.quantized.table import (
    FIXED_BYTES,
    HEADER_BYTES,
    QuantizedConfig,
    QuantizedTable,
    encode_table,
)

__all__ = [
    "FIXED_BYTES",
    "HEADER_BYTES",
    "QuantizedConfig",
    "QuantizedTable",
    "RankedConfig",
    "RankedTable",
    "encode_table",
]
