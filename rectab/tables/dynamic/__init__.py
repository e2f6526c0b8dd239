"""A fixed number of rows for ids that come and go: admitted, counted, aged and put out while the table trains.

The slot rule is that of torchrec's MPZCH (arXiv 2602.17050; ``HashZchManagedCollisionModule``), which its CPU operator
only reads; admission by a count-min sketch as in TFRA and DeepRec. See :mod:`rectab.ops.slots`.
"""

from rectab.tables.dynamic.config import DynamicConfig, dynamic_family
from rectab.tables.dynamic.table import DynamicTable
from rectab.tables.registry import TableMethod, register

__all__ = ["DynamicConfig", "DynamicTable"]

register(
    TableMethod(
        name="dynamic",
        summary="rows given to ids as they come, and taken from those that no longer do",
        paper="MPZCH, arXiv 2602.17050",
        config=DynamicConfig,
        table=DynamicTable,
        family=dynamic_family,
        fills="steps",
        serves_any_id=True,
    )
)
