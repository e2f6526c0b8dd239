"""Training: settings, the trainer, metrics, checkpoints, and one call for a whole run."""

from rectab.extras import need_extra

need_extra("rectab.training", "data", "polars", "pydantic", "rich", "psutil")

from rectab.training.artifact import load_model, save_model
from rectab.training.config import TrainConfig
from rectab.training.errors import CheckpointError, TrainingError
from rectab.training.evaluation import evaluate, predict
from rectab.training.explain import Explanation, explain_checkpoint, explain_row
from rectab.training.rendering import render_explanation, render_result
from rectab.training.result import RunResult
from rectab.training.run import train_once
from rectab.training.trainer import Trainer

__all__ = [
    "CheckpointError",
    "Explanation",
    "RunResult",
    "TrainConfig",
    "Trainer",
    "TrainingError",
    "evaluate",
    "explain_checkpoint",
    "explain_row",
    "load_model",
    "predict",
    "render_explanation",
    "render_result",
    "save_model",
    "train_once",
]
