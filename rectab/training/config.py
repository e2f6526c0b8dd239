"""How a model is trained, as plain data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rectab.optim.regimes import AdaptiveForget, AroundRule, CowClip, FrequencyRate
from rectab.plain import check_fields, read_plain
from rectab.tables.training_bytes import RowTraining

__all__ = ["TrainConfig", "monitor_value"]

_BETTER_HIGH = {"auc": True, "gauc": True, "logloss": False, "mse": False, "rmse": False, "mae": False}
_BETTER_HIGH |= {"recall": True, "ndcg": True}
_MEASURED = {"logloss": ("auc", "gauc", "logloss"), "mse": ("mse", "rmse", "mae"), "topk": ("auc", "recall", "ndcg")}
_OF_TOPK = ("topk_loss", "negatives", "topk")
_AT = ("auc", "recall", "ndcg")  # measured at a width, or at lengths of lists
_AROUND_ROWS: dict[str, Any] = {"cowclip": None, "row_forget": 0.0, "row_frequency": "none", "restart_rows": False}
_AROUND_ROWS |= {"fused_optimizer": False}


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run.

    Attributes:
        batch_size: rows a step.
        lr: learning rate of everything; ``row_lr`` overrides it for the table's rows.
        optimizer: ``adam``, ``adagrad`` or ``sgd``, of the dense part and, unless ``row_optimizer`` says otherwise, of
            the table's rows.
        row_optimizer: of the table's rows; None for ``optimizer``.
        row_lr: learning rate of the table's rows; None for ``lr``.
        row_state: how the row optimizer holds its moments and sums: ``fp32``, ``bf16``, or ``int8`` with a scale a row.
        row_square: second moments of Adam's rows: one an ``element``, one a ``row``, or ``factored`` into rows and
            columns.
        cowclip: clip the gradient of a row by its length and how often the step reads it (CowClip), with this floor.
        row_forget: share of itself that a row loses at an update for every step since its last one (AdamAR).
        row_frequency: rare rows learn ``slower`` (FAL) or ``faster``, see :mod:`rectab.optim.regimes`.
        restart_rows: rows start again with every epoch, and all else goes on (MEDA, arXiv 2305.19531).
        fused_optimizer: FBGEMM's fused optimizer of the rule of the rows (Adagrad, SGD; Adam on CUDA) steps them, where
            torchrec shards them; without L2.
        best_weights: how the best rows are kept: a ``copy`` in memory, or a ``log`` in a file, of what rows were that
            have been written since.
        embedding_l2: L2 of the whole table: ``embedding_l2 / 2 * ||table||^2`` is added to the mean loss.
        embedding_l2_mode: ``full`` as said above; ``lazy`` only the rows of the batch; ``minibatch`` DIN's mini-batch
            aware penalty (needs row gradients).
        weight_decay: L2 of the dense part, in the same sense.
        max_epochs: most epochs of a stage.
        evaluations_per_epoch: evaluations on validation, evenly spread.
        patience: evaluations without improvement after which a stage stops.
        lr_patience: evaluations without improvement after which ``lr`` is multiplied by ``lr_factor``; 0 never.
        lr_factor: see ``lr_patience``.
        min_lr_factor: the learning rate is not cut below this share of where it started.
        monitor: what selects the best weights on validation: ``auc``, ``gauc``, ``logloss``, ``mse``, ``ndcg@10``, ...
            or a sum such as ``auc+gauc`` or ``auc-logloss``. A loss alone is made smaller; within a sum it has to be
            subtracted.
        min_improvement: a smaller gain of the monitor does not count as improvement.
        clip_norm: largest norm of all gradients together; None does not clip.
        precision: of the dense part: ``bf16`` autocast, ``fp32``, or ``auto`` (bf16 where the processor has it).
            Evaluation is always in fp32.
        gradient: how the table's gradients reach its optimizer: ``row``, ``sparse`` or ``dense``.
        objective: ``logloss`` (clicks), ``mse`` (rating prediction) or ``topk`` (ranking of all items for a user).
        topk_loss: of the objective ``topk``: ``bpr`` or ``logloss``, see :mod:`rectab.training.topk.losses`.
        negatives: of ``topk``: sampled items for every interaction.
        topk: of ``topk``: lengths of the lists that are measured.
        elastic: widths that are trained together with the table's, each of which can be taken afterwards, see
            :mod:`rectab.training.elastic`. They are prefixes of the rows of the full table.
        elastic_share: what widths share: the ``table``, or the ``network`` as well but its norms.
        seed: of initial weights, batch order and dropout.
        evaluation_batch_size: rows a batch of evaluation.
        checkpoint_seconds: least time between two checkpoints within a stage; at most a twentieth of the time is spent
            on them. 0 writes one after every step.
    """

    batch_size: int = 4096
    lr: float = 1e-3
    optimizer: Literal["adam", "adagrad", "sgd"] = "adam"
    row_optimizer: Literal["adam", "adagrad", "sgd"] | None = None
    row_lr: float | None = None
    row_state: Literal["fp32", "bf16", "int8"] = "fp32"
    row_square: Literal["element", "row", "factored"] = "element"
    cowclip: float | None = None
    row_forget: float = 0.0
    row_frequency: Literal["none", "slower", "faster"] = "none"
    restart_rows: bool = False
    fused_optimizer: bool = False
    best_weights: Literal["copy", "log"] = "copy"
    embedding_l2: float = 0.0
    embedding_l2_mode: Literal["full", "lazy", "minibatch"] = "full"
    weight_decay: float = 0.0
    max_epochs: int = 20
    evaluations_per_epoch: int = 2
    patience: int = 4
    lr_patience: int = 2
    lr_factor: float = 0.1
    min_lr_factor: float = 1e-3
    monitor: str = "auc"
    min_improvement: float = 0.0
    clip_norm: float | None = None
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    gradient: Literal["row", "sparse", "dense"] = "row"
    objective: Literal["logloss", "mse", "topk"] = "logloss"
    topk_loss: Literal["bpr", "logloss"] = "bpr"
    negatives: int = 1
    topk: tuple[int, ...] = (10, 20)
    elastic: tuple[int, ...] = ()
    elastic_share: Literal["table", "network"] = "table"
    seed: int = 0
    evaluation_batch_size: int = 8192
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        check_fields(self)  # settings come from files and command lines
        for name in ("batch_size", "max_epochs", "evaluations_per_epoch", "patience", "evaluation_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in (
            "embedding_l2",
            "weight_decay",
            "lr_patience",
            "min_improvement",
            "checkpoint_seconds",
            "seed",
            "row_forget",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("lr", "row_lr", "clip_norm"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        if not 0.0 < self.lr_factor <= 1.0:
            raise ValueError(f"lr_factor must be in (0, 1], got {self.lr_factor}")
        self._check_gradient()
        self._check_topk()
        self._check_fused()
        if self.objective != "logloss" and self.monitor == "auc":
            object.__setattr__(self, "monitor", "mse" if self.objective == "mse" else f"ndcg@{self.topk[0]}")
        elif self.elastic and self.monitor == "auc":
            object.__setattr__(self, "monitor", "+".join(["auc", *(f"auc@{width}" for width in self.elastic)]))
        for _, name in parse_monitor(self.monitor):
            kind, _, at = name.partition("@")
            measured = self.elastic if kind == "auc" else self.topk
            if kind not in _MEASURED[self.objective] or (at and int(at) not in measured):
                raise ValueError(f"monitor {self.monitor!r}: objective {self.objective!r} measures no {name}")

    def rules_around(self) -> list[AroundRule]:
        """What goes around the rule of the rows' optimizer, from the outermost."""
        made: list[AroundRule] = []
        if self.cowclip is not None:
            made.append(CowClip(self.cowclip))
        if self.row_frequency != "none":
            made.append(FrequencyRate(self.row_frequency))
        if self.row_forget:
            made.append(AdaptiveForget(self.row_forget))
        return made

    @property
    def row_training(self) -> RowTraining:
        """What decides how many bytes training a table takes."""
        best = self.best_weights
        return RowTraining(self.row_optimizer or self.optimizer, self.row_state, self.row_square, best)

    def _check_topk(self) -> None:
        if self.negatives < 1:
            raise ValueError(f"negatives must be at least 1, got {self.negatives}")
        if not self.topk or min(self.topk) < 1 or len(set(self.topk)) != len(self.topk):
            raise ValueError(f"topk must be different lengths of at least 1, such as [10, 20], got {list(self.topk)}")
        if self.elastic and self.objective != "logloss":
            raise ValueError(f"elastic is for clicks (objective 'logloss'), got objective {self.objective!r}")

    def _check_fused(self) -> None:
        """FBGEMM steps rows within the backward pass, by rules of its own."""
        if not self.fused_optimizer:
            return
        for what, asked, why in (
            ("embedding_l2", bool(self.embedding_l2), "rows that a step did not touch would have to be stepped too"),
            ("clip_norm", self.clip_norm is not None, "rows are stepped before the norm of all gradients is known"),
            ("row_state and row_square", (self.row_state, self.row_square) != ("fp32", "element"), "it keeps its own"),
            ("row_forget", bool(self.row_forget), "it goes around the rule of a row optimizer"),
        ):
            if asked:
                raise ValueError(
                    f"{what} is not for fused_optimizer ({why}): set it back (embedding_l2=0), or leave that out"
                )

    def _check_gradient(self) -> None:
        if self.gradient != "row" and self.best_weights == "log":
            raise ValueError(f"best_weights 'log' needs gradient 'row', got {self.gradient!r}")
        changed = [name for name, default in _AROUND_ROWS.items() if getattr(self, name) != default]
        if self.gradient != "row" and changed:
            raise ValueError(f"{changed[0]} is of row optimizers; gradient {self.gradient!r} has none")
        if self.cowclip is not None and self.cowclip < 0:
            raise ValueError(f"cowclip must be at least 0, got {self.cowclip}")
        if self.gradient != "row" and (self.row_state, self.row_square) != ("fp32", "element"):
            raise ValueError(f"row_state and row_square are of row optimizers; gradient {self.gradient!r} has none")
        if self.row_square != "element" and self.row_training.optimizer != "adam":
            raise ValueError(f"row_square {self.row_square!r} is of adam; rows are trained by another optimizer")
        if self.gradient == "sparse" and self.embedding_l2:
            raise ValueError("embedding_l2 needs gradient 'row' or 'dense': torch's sparse optimizers have no decay")
        if self.gradient == "dense" and self.embedding_l2_mode != "full" and self.embedding_l2:
            raise ValueError(f"embedding_l2_mode {self.embedding_l2_mode!r} needs gradient 'row'")

    def to_json(self) -> dict[str, Any]:
        """Plain data, without what the run does not read: runs keep the identity they had before there was it."""
        unread = [] if self.objective == "topk" else [*_OF_TOPK]
        unread += [] if self.elastic else ["elastic", "elastic_share"]
        unread += [name for name, default in _AROUND_ROWS.items() if getattr(self, name) == default]
        return {key: value for key, value in asdict(self).items() if key not in unread}

    @classmethod
    def from_json(cls, data: Any, place: str = "") -> TrainConfig:
        """Read :meth:`to_json` back, or settings from a file. Raises ValueError that names ``place`` and setting."""
        return read_plain(cls, data, place)


def parse_monitor(monitor: str) -> list[tuple[float, str]]:
    """``"auc-logloss"`` -> [(sign, metric)], signs such that higher is better.

    Raises:
        ValueError: an unknown metric, or a sign that would select worse models: what is better high is added, what is
            better low is subtracted (a metric that stands first may go without a sign).
    """
    text = "".join(monitor.split())
    terms = re.findall(
        r"([+-])((?:auc|recall|ndcg)@[1-9][0-9]*|[a-z]+)", text if text[:1] in ("+", "-") else f"+{text}"
    )
    given = "".join(sign + name for sign, name in terms)
    known = [name for name in _BETTER_HIGH if name not in ("recall", "ndcg")] + [f"{name}@K" for name in _AT]
    if not terms or given not in (text, f"+{text}") or not all(_kind(name) in known for _, name in terms):
        raise ValueError(f"monitor must be a sum of {', '.join(known)}, got {monitor!r}")
    for position, (sign, name) in enumerate(terms):
        unsigned = position == 0 and given != text
        high = _BETTER_HIGH[name.partition("@")[0]]
        if not unsigned and (sign == "+") != high:
            better, right = ("high", "+") if high else ("low", "-")
            raise ValueError(f"monitor {monitor!r}: {name} is better {better}, so write {right}{name}")
    return [(1.0 if _BETTER_HIGH[name.partition("@")[0]] else -1.0, name) for _, name in terms]


def _kind(name: str) -> str:
    """``recall@10`` -> ``recall@K``; any other name as it is."""
    kind, at, _ = name.partition("@")
    return f"{kind}@K" if at else name


def monitor_value(monitor: str, metrics: Mapping[str, float]) -> float:
    """The monitored value, higher is better.

    Raises:
        ValueError: a metric is missing (``gauc`` without groups) or not a number (a single class in validation).
    """
    total = 0.0
    for sign, name in parse_monitor(monitor):
        value = metrics.get(name)
        if value is None:
            raise ValueError(f"monitor {monitor!r}: the data give no {name}; they give {sorted(metrics)}")
        if value != value:
            raise ValueError(f"monitor {monitor!r}: {name} of the validation split is not a number (a single class?)")
        total += sign * value
    return total
