"""What a choice is asked for, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rectab.training.config import TrainConfig

__all__ = ["Asked"]


@dataclass(frozen=True)
class Asked:
    """The question.

    Attributes:
        budget: most bytes served, as ``rectab train --budget``; None with ``loss`` alone.
        loss: most validation AUC that may be lost against the full table (or, where it cannot be trained, the best that
            can); asks for the fewest bytes. None asks for the best AUC within ``budget``.
        train_memory: most bytes that training the table may take; None sets no limit.
        minutes: after which no training begins.
        seeds: most seeds a finalist is trained with.
        model, history: the model around the table; ``history`` None asks the rule for settings.
        embedding_dim: width of the full table that shares are of.
        training, model_options: settings that were given; the rest are the rule's (:mod:`rectab.training.defaults`).
        count_ids: the budget is for the table and the map from raw values to ids together.
        without: features of the data that were left out.
    """

    budget: str | None
    loss: float | None = None
    train_memory: str | None = None
    minutes: float = 30.0
    seeds: int = 3
    model: str = "deepfm"
    history: str | None = None
    embedding_dim: int = 16
    training: dict[str, Any] = field(default_factory=dict)
    model_options: dict[str, Any] = field(default_factory=dict)
    count_ids: bool = False
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.budget is None and self.loss is None:
            raise ValueError("what for? give --budget (10%, 4MiB), or --loss (0.001) for the fewest bytes")
        if self.loss is not None and not 0 <= self.loss < 1:
            raise ValueError(f"--loss is a difference in validation AUC, such as 0.001; got {self.loss:g}")
        if not self.minutes > 0:
            raise ValueError(f"--minutes must be above 0, got {self.minutes:g}")
        if self.seeds < 1:
            raise ValueError(f"--seeds must be at least 1, got {self.seeds}")
        if "seed" in self.training:
            raise ValueError("--set train.seed: a choice trains with seeds 0, 1, ...; say how many with --seeds")
        if TrainConfig.from_json(self.training, "train").objective != "logloss":
            raise ValueError("--set train.objective: a choice is by AUC, so it trains for clicks (logloss)")

    def identity(self) -> dict[str, Any]:
        """What makes a choice another one: all but the time it may take."""
        plain = asdict(self)
        del plain["minutes"]
        return plain | {"without": sorted(self.without)}
