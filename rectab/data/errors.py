"""Errors about data: every message names the file, the column and the row it can name, and says what to do."""

from __future__ import annotations

__all__ = ["DataError", "RecipeError"]


class DataError(ValueError):
    """Raw rows or a prepared data set are not what they should be."""


class RecipeError(DataError):
    """A recipe is not valid: unknown key, missing key, or settings that contradict each other."""
