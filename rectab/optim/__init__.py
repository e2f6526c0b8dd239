"""Row optimizers: update only the rows a step touched."""

from rectab.optim.adagrad import RowAdagrad
from rectab.optim.adam import RowAdam
from rectab.optim.base import Decay, RowOptimizer
from rectab.optim.clip import clip_row_gradients
from rectab.optim.sgd import RowSGD

__all__ = ["Decay", "RowAdagrad", "RowAdam", "RowOptimizer", "RowSGD", "clip_row_gradients"]
