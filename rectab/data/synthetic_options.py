"""Options of the synthetic generator (:mod:`rectab.data.synthetic`), as in a recipe's ``[synthetic]``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["SyntheticOptions"]


class SyntheticOptions(BaseModel):
    """Size and character of a synthetic data set.

    Attributes:
        seed: everything follows from it.
        rows: impressions over all splits.
        users, items: number of possible ids.
        fields: further categorical columns by name -> number of possible ids, each drawn by Zipf's law.
        zipf: exponent of the id frequencies of items and fields; 1.0 is steep, 0 is uniform.
        categories: number of item categories; what a user is interested in, and what history and target have in common.
        history_length: mean number of events of a user over the whole period.
        max_history: most recent events a row sees.
        late_share: share of the items that appear only after training ended.
        dense: number of float columns.
        valid, test: share of rows, last in time.
        hashed: hash user, item and field columns instead of fitting vocabularies.
        bias_scale, pair_scale, history_scale: strength of what single ids, pairs of ids and the history say
            (standard deviations in logits).
        factor_dim: size of the latent factors behind the pairs.
        intercept: logit of the average impression.
        chunk_rows: rows made at a time (memory, nothing else, depends on it).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    rows: int = Field(default=100_000, ge=100)
    users: int = Field(default=2_000, ge=2, le=10**8)
    items: int = Field(default=6_000, ge=2, le=10**8)
    fields: dict[str, int] = {"advertiser": 3_000, "page": 6_000, "query": 12_000, "device": 40, "hour": 24}
    zipf: float = Field(default=1.28, ge=0)
    categories: int = Field(default=30, ge=2)
    history_length: float = Field(default=16, gt=0)
    max_history: int = Field(default=50, ge=1)
    late_share: float = Field(default=0.1, ge=0, lt=1)
    dense: int = Field(default=2, ge=0)
    valid: float = Field(default=0.1, gt=0, lt=1)
    test: float = Field(default=0.2, gt=0, lt=1)
    hashed: bool = False
    bias_scale: float = Field(default=1.5, ge=0)
    pair_scale: float = Field(default=0.75, ge=0)
    history_scale: float = Field(default=1.1, ge=0)
    factor_dim: int = Field(default=1, ge=1)
    intercept: float = -1.0
    chunk_rows: int = Field(default=1_000_000, ge=1)
