"""CCE: clustered compositional embeddings: hashing whose hash is learned, by clustering, while the table trains.

Tsang and Ahle, "Clustering the Sketch: Dynamic Compression for Embedding Tables", NeurIPS 2023. A vector is cut into
chunks, and each is the sum of two rows: one that the id points to, and one that it is hashed to. From time to time the
chunks of all ids of a vocabulary are clustered: rows of the first kind become the centroids, an id points to the
nearest, and rows of the second kind, under a new hash, become the mean of what is left over.
"""

from __future__ import annotations

from rectab.tables.cce.config import CCEConfig, cce_family
from rectab.tables.cce.table import CCETable
from rectab.tables.registry import TableMethod, register

__all__ = ["CCEConfig", "CCETable"]

register(
    TableMethod(
        name="cce",
        summary="ids point to centroids of clusters, found while the table trains",
        paper="Tsang and Ahle, NeurIPS 2023",
        group="dynamic encoding",
        config=CCEConfig,
        table=CCETable,
        family=cce_family,
        fills="steps",
    )
)
