"""Raw files and a recipe in, a prepared folder out: whole, or not at all.

check and stage the rows (one pass over the raw files)
-> groups, splits, histories, negatives   (keys only)
-> codes per vocabulary, counted on training rows only, become ids
-> memory-mapped arrays, written in chunks
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from rectab.data.assemble import Assembly
from rectab.data.checks import BadRows
from rectab.data.dataset import PreparedDataset
from rectab.data.errors import DataError
from rectab.data.recipe import Recipe, load_recipe
from rectab.data.sources import Sources
from rectab.data.staging import stage_rows
from rectab.data.storage import ArrayWriter, atomic_folder
from rectab.data.synthetic import generate, recipe_for
from rectab.data.writing import DatasetWriter

__all__ = ["prepare"]

Progress = Callable[[str], None]


def prepare(
    recipe: Recipe | Path | str,
    raw: Path | str | None,
    out: Path | str,
    bad_rows: Literal["error", "skip"] = "error",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PreparedDataset:
    """Prepare a data set.

    Args:
        recipe: a recipe, or the path of one.
        raw: folder of the raw files; None for a synthetic recipe, which makes its own.
        out: folder to make. It appears whole or not at all: a run killed at any time leaves only a hidden temporary
            folder beside it, which the next run removes.
        bad_rows: ``error`` stops at the first bad row; ``skip`` leaves bad rows out, counts and reports them.
        overwrite: replace ``out`` if it is a prepared data set.
        progress: called with a line of text at every stage.

    Raises:
        DataError: if the raw files are not what the recipe says; names file, column and row.
        RecipeError: if the recipe is not valid.
        DiskFullError: if the disk of ``out`` is full.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if bad_rows not in ("error", "skip"):
        raise ValueError(f"bad_rows must be 'error' or 'skip', got {bad_rows!r}")
    if recipe.synthetic is None and raw is None:
        raise DataError(f"recipe {recipe.name!r} needs raw files: say where they are with --raw DIR ({recipe.source})")
    if raw is not None and not Path(raw).is_dir():
        raise DataError(f"{raw}: no such folder of raw files")
    tell = progress or (lambda message: None)
    out = Path(out)
    with atomic_folder(out, overwrite) as folder:
        scratch = folder / "scratch"
        scratch.mkdir()
        if recipe.synthetic is not None:
            tell("generating rows")
            raw = scratch / "raw"
            raw.mkdir()
            generate(recipe.synthetic, raw)
            made = recipe_for(recipe)
        else:
            made = recipe
        assert raw is not None
        sources = Sources(made, Path(raw), scratch, BadRows(skip=bad_rows == "skip"))
        tell("reading and checking rows")
        rows = stage_rows(sources)
        assembly = Assembly(recipe, made, sources, rows, tell)
        assembly.run()
        tell("writing arrays")
        DatasetWriter(assembly, ArrayWriter(folder)).run()
        shutil.rmtree(scratch)
    return PreparedDataset.open(out)
