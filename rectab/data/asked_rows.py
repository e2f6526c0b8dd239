"""Which rows are to be scored, and which files they, their events and their side tables are read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

import polars as pl

from rectab.data.errors import DataError
from rectab.data.pruning import pruned
from rectab.data.reading import kind_of
from rectab.data.recipe import Recipe
from rectab.data.recipe_files import Format, Location, SourceFile
from rectab.data.recipe_parts import HistoryRecipe
from rectab.schema import Schema

__all__ = ["AskedRows", "Located", "locate"]

LocationT = TypeVar("LocationT", bound=Location)
_ROWS, _EVENTS = "frame", "events frame"  # what rows in memory are called in messages


@dataclass(frozen=True)
class AskedRows:
    """Rows to be scored.

    Attributes:
        raw: folder of raw files, laid out as the recipe says; or the one file of rows, where a recipe reads no other.
            None: the folder that the data set was prepared from, whose files must be as they were then.
        rows: file of rows, or the rows; None: those of the recipe's files in ``raw``. Rows given here are no events of
            each other: their histories are read from the log in ``raw``, or from ``events``.
        events: file of the events of all histories, or the events: rows of the log, or events as the file of a
            behaviour holds them. None: those of the recipe's files.
        split: only the rows of this split of the recipe, negatives and all; None: all rows.
        labels: labels are read, so that the rows can be measured.
        skip_bad: bad rows are left out, instead of refused.
    """

    raw: Path | None = None
    rows: Path | pl.DataFrame | None = None
    events: Path | pl.DataFrame | None = None
    split: Literal["train", "valid", "test"] | None = None
    labels: bool = False
    skip_bad: bool = False


@dataclass(frozen=True)
class Located:
    """Where everything is read from: a recipe that names it, and fields as of :class:`rectab.data.sources.Sources`."""

    recipe: Recipe
    folder: Path
    frames: dict[str, pl.DataFrame] = field(default_factory=dict)
    log: tuple[Location, ...] | None = None
    known: Mapping[str, str] = field(default_factory=dict)


def locate(
    recipe: Recipe, schema: Schema, asked: AskedRows, prepared_from: Path | None, known: Mapping[str, str]
) -> Located:
    """Find the files.

    Args:
        recipe: of the data set, with a generator's options filled in.
        schema: of the model.
        asked: the rows.
        prepared_from: folder of the raw files when the data set was prepared.
        known: SHA-256 of the files there, by name.

    Raises:
        DataError: what is asked for does not go together, or the folder is not there.
    """
    if asked.split is not None and asked.rows is not None:
        raise DataError("give a split of the raw files, or rows of their own, not both")
    if asked.labels and recipe.label is None and asked.split is None:
        raise DataError(f"recipe {recipe.name!r} draws negatives, so rows alone have no labels; give --split test")
    if asked.raw is None and asked.rows is None and asked.split is None:
        raise DataError("say which rows: --raw DIR (or FILE), --rows FILE, or --split test")
    cut = pruned(recipe, schema, labels=asked.labels, split=asked.split is not None)
    if asked.raw is not None and not asked.raw.exists():
        raise DataError(f"{asked.raw}: no such folder of raw files")
    if asked.raw is None:
        found = Located(cut, prepared_from or Path(), known=known)
    elif asked.raw.is_dir():
        found = Located(cut if asked.split is not None else _any_files(cut), asked.raw)
    else:
        found = _of_one_file(cut, asked.raw, asked.split is not None)
    found = _with_events(found, _with_rows(found, asked), asked)
    _check_folder(found, asked)
    return found


def _any_files(recipe: Recipe) -> Recipe:
    """The recipe without checksums: files of another day are read."""
    return recipe.model_copy(
        update={
            "files": tuple(_any_file(file) for file in recipe.files),
            "tables": tuple(_any_file(table) for table in recipe.tables),
            "histories": tuple(
                _any_file(h).model_copy(update={"prior": None if h.prior is None else _any_file(h.prior)})
                for h in recipe.histories
            ),
        }
    )


def _any_file(location: LocationT) -> LocationT:
    return location.model_copy(update={"sha256": None})


def _of_one_file(recipe: Recipe, raw: Path, split: bool) -> Located:
    """All rows in one file, which stands for the raw folder."""
    others = [location.place for location in _beside_rows(recipe)]
    if split and len(recipe.files) > 1:
        others = [file.place for file in recipe.files]
    if others:
        raise DataError(
            f"{raw}: one file, but recipe {recipe.name!r} reads {', '.join(others)}{'' if split else ' besides'}; give "
            "--raw the folder that they are in, or rows alone with --rows FILE"
        )
    file = _file(raw, recipe)
    kept = {"sha256": recipe.files[0].sha256} if split else {}
    return Located(recipe.model_copy(update={"files": (file.model_copy(update=kept),)}), raw.parent)


def _beside_rows(recipe: Recipe) -> list[Location]:
    """Where a recipe reads anything but rows."""
    return [
        *recipe.tables,
        *(h for h in recipe.histories if h.source == "events"),
        *(h.prior for h in recipe.histories if h.prior is not None),
    ]


def _file(path: Path, recipe: Recipe) -> SourceFile:
    """A file of rows, written as those of the recipe are; its ending says if it is parquet."""
    form = recipe.files[0].format or recipe.format
    if kind_of(path) == "parquet" or form.kind == "parquet":
        form = Format(null_values=form.null_values)
    return SourceFile(path=str(path.absolute()), format=form)


def _given(
    rows: Path | pl.DataFrame, name: str, recipe: Recipe, frames: Mapping[str, pl.DataFrame]
) -> tuple[SourceFile, dict[str, pl.DataFrame]]:
    """(the file of rows, ``frames`` with these if they are one: it goes by ``name``)."""
    if isinstance(rows, pl.DataFrame):
        return SourceFile(path=name, format=recipe.files[0].format), {**frames, name: rows}
    return _file(rows, recipe), dict(frames)


def _with_rows(found: Located, asked: AskedRows) -> Located:
    """Rows of their own in place of those of the recipe's files, which stay the log."""
    if asked.rows is None:
        return found
    file, frames = _given(asked.rows, _ROWS, found.recipe, found.frames)
    log = tuple(_as_location(file) for file in found.recipe.files)
    return replace(found, recipe=found.recipe.model_copy(update={"files": (file,)}), frames=frames, log=log)


def _as_location(file: SourceFile) -> Location:
    return Location(path=file.path, pattern=file.pattern, hive=file.hive, sha256=file.sha256, format=file.format)


def _with_events(before: Located, found: Located, asked: AskedRows) -> Located:
    """Events of their own in place of the log's, and of those of the behaviours' files."""
    if asked.events is None:
        return found
    histories = [h for h in found.recipe.histories if h.source != "list"]
    own = {h.place for h in histories if h.source == "events"}
    if not histories:
        raise DataError("--events: the model reads no histories of events; leave it out")
    if len(own) > 1 or (own and len(own) < len({h.source for h in histories})):
        kinds = ", ".join(sorted(own)) + (" and of the rows" if any(h.source == "log" for h in histories) else "")
        raise DataError(
            f"--events is one file, but recipe {found.recipe.name!r} reads events of {kinds}; give --raw the folder "
            "of all of them"
        )
    file, frames = _given(asked.events, _EVENTS, before.recipe, found.frames)
    if not own:
        return replace(found, frames=frames, log=(_as_location(file),))
    changed = tuple(_of_file(h, file) if h.source == "events" else h for h in found.recipe.histories)
    return replace(found, frames=frames, recipe=found.recipe.model_copy(update={"histories": changed}))


def _of_file(history: HistoryRecipe, file: SourceFile) -> HistoryRecipe:
    """The history with its events in another file, written as its own are, but for its ending."""
    form = history.format if file.path == _EVENTS or kind_of(Path(file.path or "")) != "parquet" else Format()
    return history.model_copy(update={"path": file.path, "pattern": None, "sha256": None, "format": form})


def _check_folder(found: Located, asked: AskedRows) -> None:
    """Refuse a folder that is not there any more, if anything is to be read of it."""
    own_log = any(h.source == "log" for h in found.recipe.histories)
    read = [*found.recipe.files, *_beside_rows(found.recipe), *((found.log or ()) if own_log else ())]
    needed = [
        location.place
        for location in read
        if location.path not in found.frames and not Path(location.place).is_absolute()
    ]
    if needed and not found.folder.is_dir():
        raise DataError(
            f"{found.folder}: no such folder of raw files, and {', '.join(dict.fromkeys(needed))} are read of it; say "
            "where it is with --raw DIR"
        )
