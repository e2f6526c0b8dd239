"""Row optimizers: update only the rows a step touched."""

from rectab.optim.adagrad import Adagrad, RowAdagrad
from rectab.optim.adam import Adam, RowAdam
from rectab.optim.base import Decay, RowOptimizer
from rectab.optim.clip import clip_row_gradients
from rectab.optim.follow import Following, follow
from rectab.optim.regimes import AdaptiveForget, CowClip, FrequencyRate, Nested
from rectab.optim.rule import RowRule
from rectab.optim.sgd import SGD, RowSGD

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdaptiveForget",
    "CowClip",
    "Decay",
    "Following",
    "FrequencyRate",
    "Nested",
    "RowAdagrad",
    "RowAdam",
    "RowOptimizer",
    "RowRule",
    "RowSGD",
    "clip_row_gradients",
    "follow",
]
