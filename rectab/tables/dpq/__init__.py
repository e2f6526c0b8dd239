"""DPQ: rows are quantised by codebooks while they train, and only the codes are served.

Chen, Li, Sun, "Differentiable Product Quantization for End-to-End Embedding Compression", ICML 2020, its form by
nearest centroids (VQ). A row is cut into P parts; a part reads as the nearest of K centroids of its codebook. The
gradient passes straight through to the row, and a centroid is drawn towards the parts that read it. Distances are
normalised, with a mean and a deviation for each centroid, or a few centroids would be the nearest of all (the paper's
batch normalisation). Here these are running averages in training too: a vector does not depend on the rest of its
batch, and codes are those of training.
"""

from __future__ import annotations

from rectab.tables.dpq.config import DPQConfig, dpq_family, rising
from rectab.tables.dpq.table import DPQTable
from rectab.tables.registry import TableMethod, register

__all__ = ["DPQConfig", "DPQTable", "rising"]

register(
    TableMethod(
        name="dpq",
        summary="rows quantised by codebooks while they train, served as codes",
        group="dynamic encoding",
        paper="Chen et al., ICML 2020",
        config=DPQConfig,
        table=DPQTable,
        family=dpq_family,
        fills="steps",
        needs_full_table=True,
        makes_rows=True,
    )
)
