"""What encoding a table will do to a model's metrics, before it is measured: outputs with a little noise on them."""

from __future__ import annotations

import numpy as np

from rectab.metrics import calibration, logloss
from rectab.training.compress.source import FullRun

__all__ = ["expected_metrics"]

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(5)


def expected_metrics(run: FullRun, change: float) -> dict[str, float]:
    """``auc``, ``logloss`` and ``calibration`` on validation after noise of mean square ``change`` on every output.

    AUC is that of :meth:`rectab.quantize.predict.Separation.after`; the other two are means over normal noise
    (Gauss-Hermite quadrature), taken at the run's own outputs.
    """
    labels, outputs = run.valid_rows.labels, run.outputs.astype(np.float64)
    shares, shifts = _WEIGHTS / _WEIGHTS.sum(), _NODES * change**0.5
    moved = [outputs + shift for shift in shifts]
    losses = [logloss(labels, logits) for logits in moved]
    rates = [calibration(labels, 1 / (1 + np.exp(-logits))) for logits in moved]
    return {
        "auc": run.separation.after(change),
        "logloss": float(shares @ losses),
        "calibration": float(shares @ rates),
    }
