"""Raw files to prepared data sets to batches."""

from rectab.extras import need_extra

need_extra("rectab.data", "data", "polars", "pydantic", "rich", "psutil")

from rectab.data.dataset import PreparedDataset
from rectab.data.errors import DataError, RecipeError
from rectab.data.loader import batches, num_batches
from rectab.data.prepare import prepare
from rectab.data.recipe import Recipe, bundled_recipes, load_recipe
from rectab.data.selection import without_features
from rectab.data.split import Split
from rectab.data.summary import describe_ids, render_summary

__all__ = [
    "DataError",
    "PreparedDataset",
    "Recipe",
    "RecipeError",
    "Split",
    "batches",
    "bundled_recipes",
    "describe_ids",
    "load_recipe",
    "num_batches",
    "prepare",
    "render_summary",
    "without_features",
]
