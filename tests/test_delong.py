"""DeLong's covariance against its definition and against what resampling rows gives."""

import numpy as np
import pytest

from rectab.delong import Z_95, aucs_on_rows
from rectab.metrics import auc


def _models(n: int = 400, seed: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.3).astype(np.float32)
    signal = labels + rng.normal(size=n)
    return labels, [signal, np.round(signal + 0.3 * rng.normal(size=n), 1), rng.normal(size=n)]


def test_values_and_covariance_are_those_of_the_definition() -> None:
    labels, scores = _models(120)
    found = aucs_on_rows(labels, scores)
    by_positive, by_negative = [], []
    for score in scores:
        p, n = score[labels > 0], score[labels == 0]
        psi = (p[:, None] > n[None, :]) + 0.5 * (p[:, None] == n[None, :])
        by_positive.append(psi.mean(1))
        by_negative.append(psi.mean(0))
    expected = np.cov(by_positive) / len(by_positive[0]) + np.cov(by_negative) / len(by_negative[0])
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-10)
    np.testing.assert_allclose(found.values, [auc(labels, s) for s in scores], rtol=1e-12)


def test_paired_half_width_is_what_a_bootstrap_over_rows_gives() -> None:
    labels, scores = _models(800)
    half_width = aucs_on_rows(labels, scores[:2]).half_width([1, -1])
    rng, drawn = np.random.default_rng(1), []
    for _ in range(600):
        rows = rng.integers(0, len(labels), len(labels))
        drawn.append(auc(labels[rows], scores[0][rows]) - auc(labels[rows], scores[1][rows]))
    assert half_width == pytest.approx(Z_95 * np.std(drawn), rel=0.15)


def test_a_model_differs_from_itself_by_nothing() -> None:
    labels, scores = _models()
    assert aucs_on_rows(labels, [scores[0], scores[0]]).half_width([1, -1]) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("labels", "scores", "told"),
    [
        ([1, 0, 0], [[0.1, 0.2, 0.3]], "two rows of either class"),
        ([1, 1, 0, 0], [[0.1, 0.2, 0.3]], "as many as labels"),
        ([1, 1, 0, 0], [[0.1, 0.2, 0.3, np.nan]], "finite"),
        ([1, 1, 0, 0], [], "no scores"),
    ],
)
def test_what_has_no_interval_is_refused(labels: list[int], scores: list[list[float]], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        aucs_on_rows(np.array(labels), [np.array(s) for s in scores])
