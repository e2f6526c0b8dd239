"""Finds the files that a recipe names in the raw folder: one file, a folder of files, or the files of a pattern."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from urllib.parse import unquote

from rectab.data.errors import DataError
from rectab.data.raw_bytes import PACKED, without_packing
from rectab.data.reading import kind_of
from rectab.data.recipe_files import Location

__all__ = ["InputFile", "check_read_once", "find_inputs", "is_one_file"]

_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # how Hive and Spark name the folder of rows without a value


@dataclass(frozen=True)
class InputFile:
    """A file to read.

    Attributes:
        path: the file, packed or not.
        name: relative to the raw folder, with / on every system; without the ending of what packs it, if the recipe
            names the file so.
        partition: column -> value, from folders called COLUMN=VALUE; None where a value is missing.
    """

    path: Path
    name: str
    partition: dict[str, str | None] = field(default_factory=dict)


def find_inputs(folder: Path, location: Location) -> list[InputFile]:
    """The files of a location: at least one; those of folders and patterns in the order of their names.

    Of a folder these are the files in it and in the folders below it, but for those whose names begin with . or _
    (markers of other tools). Links are followed.

    Args:
        folder: of the raw files.
        location: what the recipe says.

    Raises:
        DataError: there is no such file, or the files of a folder or pattern are not of one kind, or one of them would
            be read twice.
    """
    if location.pattern is not None:
        paths = _matches(folder, location.pattern)
        found = [InputFile(path, *_described(path, folder, folder, location)) for path in paths]
    else:
        assert location.path is not None
        path = folder / location.path
        if is_one_file(folder, location):
            return [InputFile(_file(path), location.path)]
        found = [InputFile(file, *_described(file, folder, path, location)) for file in _below(path, (path.resolve(),))]
        if not found:
            raise DataError(f"{path}: a folder without files (names that begin with . or _ do not count)")
    if location.sha256 is not None:
        raise DataError(f"{folder / location.place}: sha256 is of one file, and this is a folder; leave it out")
    if location.format is None or location.format.kind is None:
        _check_one_kind(found)
    _check_not_packed_twice(found)
    check_read_once(file.path for file in found)
    return found


def is_one_file(folder: Path, location: Location) -> bool:
    """Does the location name a file, and not a folder or a pattern?"""
    return location.path is not None and not (folder / location.path).is_dir()


def check_read_once(files: Iterable[Path]) -> None:
    """Raises DataError if a file is there twice, also by way of links: its rows would count twice."""
    seen: dict[Path, Path] = {}
    for file in files:
        real = file.resolve()
        if real in seen:
            other = "it is named twice" if seen[real] == file else f"{seen[real]} is the same file"
            raise DataError(f"{file}: would be read twice ({other}); name every file once")
        seen[real] = file


def _file(path: Path) -> Path:
    """The file itself or, where only that is there, the same name with .gz or .zst."""
    if path.is_file():
        return path
    packed = [other for ending in PACKED if (other := path.with_name(path.name + ending)).is_file()]
    if len(packed) > 1:
        raise DataError(f"{path}: both {packed[0].name} and {packed[1].name} are there; name one in the recipe")
    if packed:
        return packed[0]
    hint = "; if it is a pattern, say pattern = ... instead of path = ..." if glob.has_magic(path.name) else ""
    raise DataError(f"{path}: no such file; see the recipe's source for where to get it{hint}")


def _matches(folder: Path, pattern: str) -> list[Path]:
    found = glob.glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207 - Path.glob finds hidden files, too
    matches = [folder / name for name in found]
    files = [path for path in matches if not path.is_dir()]
    if not files:
        hint = f"; it matches only folders, so end it with {'/*'!r}" if matches else ""
        if (folder / pattern).is_file():
            hint = "; there is a file of exactly this name: say path = ... instead of pattern = ..."
        raise DataError(f"{folder}: no file matches the pattern {pattern!r}{hint}")
    return sorted(_existing(set(files)), key=lambda path: path.parts)


def _below(folder: Path, within: tuple[Path, ...]) -> Iterator[Path]:
    """The files below a folder; ``within``: the real folders that lead there, to notice links that go round."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.name.startswith((".", "_")):
            continue
        if not path.is_dir():
            yield from _existing([path])
            continue
        real = path.resolve()
        if real in within:
            raise DataError(f"{path}: a link to a folder that it lies in; take it out")
        yield from _below(path, (*within, real))


def _existing(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: is no file (a link to nothing?); mend it, or take it out")
        yield path


def _described(path: Path, folder: Path, start: Path, location: Location) -> tuple[str, dict[str, str | None]]:
    """(name, partition) of a file found below ``start``."""
    below = _relative(path, start)
    partition: dict[str, str | None] = {}
    for part in below.parts[:-1] if location.hive else ():
        key, is_pair, value = part.partition("=")
        key, value = unquote(key), unquote(value)
        if not is_pair or not key:
            continue
        if key in partition:
            raise DataError(f"{path}: lies in two folders of {key!r}; say hive = false if they are no columns")
        partition[key] = None if value == _NO_VALUE else value
    return _relative(path, folder).as_posix(), partition


def _relative(path: Path, folder: Path) -> PurePath:
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def _check_one_kind(files: list[InputFile]) -> None:
    first = files[0]
    for file in files[1:]:
        kind, expected = kind_of(file.path), kind_of(first.path)
        if kind != expected:
            raise DataError(
                f"{file.path}: {kind} beside {first.path}, which is {expected}; the files of a folder or a pattern are "
                "of one kind: choose them with pattern = '...', or set kind in their format"
            )


def _check_not_packed_twice(files: list[InputFile]) -> None:
    seen: dict[Path, Path] = {}
    for file in files:
        first = seen.setdefault(file.path.with_name(without_packing(file.path.name)), file.path)
        if first != file.path:
            raise DataError(
                f"{file.path}: beside {first.name}, which would be the same rows again; take one of them out"
            )
