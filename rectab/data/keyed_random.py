"""Random numbers that are a function of a key and a salt: any row's, in any order, without those before it."""

from __future__ import annotations

import numpy as np

__all__ = ["mix", "uniform_of"]


def mix(keys: np.ndarray, salt: int) -> np.ndarray:
    """uint64 [*]: splitmix64 of the keys (int64 or uint64 [*]), another sequence for every salt."""
    with np.errstate(over="ignore"):
        x = np.asarray(keys).astype(np.uint64) + np.uint64((salt + 1) * 0x9E3779B97F4A7C15 % 2**64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def uniform_of(keys: np.ndarray, salt: int) -> np.ndarray:
    """float64 [*] in [0, 1), of 53 random bits each."""
    return (mix(keys, salt) >> np.uint64(11)).astype(np.float64) / 2.0**53
