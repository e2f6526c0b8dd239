"""Where the files of a recipe lie and how they are written."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

__all__ = ["Format", "InputFiles", "Location", "SideTable", "SourceFile", "Strict"]


class Strict(BaseModel):
    """Unknown keys are errors; nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Format(Strict):
    """How a file is written.

    Attributes:
        kind: ``csv`` (any delimited text), ``parquet`` or ``jsonl``; None goes by the file's ending (before .gz, .zst).
        separator: between fields; more than one character is allowed (``::``).
        header: whether the first line names the columns.
        columns: names of the columns of a file without a header, in order.
        quote: the character around fields that contain the separator, a quote (doubled) or a line end; None where
            fields are raw.
        ragged: the last column takes the rest of its line, however many separators are in it (a list, say).
        null_values: texts that mean "no value", besides those of :mod:`rectab.data.missing`.
        encoding: ``utf-8`` or ``latin-1``.
        fields: for ``jsonl``, column name -> path into the object (``asin``, ``categories.-1.-1``).
        python_literals: for ``jsonl``, lines are Python literals instead of JSON (the Amazon metadata).
    """

    kind: Literal["csv", "parquet", "jsonl"] | None = None
    separator: str = ","
    header: bool = True
    columns: tuple[str, ...] = ()
    quote: str | None = None
    ragged: bool = False
    null_values: tuple[str, ...] = ()
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    fields: dict[str, str] = {}
    python_literals: bool = False

    @model_validator(mode="after")
    def _check(self) -> Format:
        if self.kind == "jsonl" and not self.fields:
            raise ValueError("a jsonl file needs fields = { column = 'path.into.object' }")
        if not self.separator or set("\r\n") & set(self.separator):
            raise ValueError("separator must not be empty, nor hold a line end")
        if self.quote is not None and (len(self.quote) != 1 or not " " < self.quote <= "~"):
            raise ValueError(f"quote must be one ASCII character, such as '\"', got {self.quote!r}")
        if self.quote is not None and self.quote in self.separator:
            raise ValueError(f"quote {self.quote!r} is part of the separator {self.separator!r}")
        if self.header and self.columns:
            raise ValueError("columns are for a file without a header: say header = false, or leave columns out")
        repeated = [name for name, count in Counter(self.columns).items() if count > 1]
        if repeated:
            raise ValueError(f"columns must be unique; repeated: {repeated}")
        return self


class Location(Strict):
    """A file, a folder of files, or the files of a pattern, below ``--raw``.

    Attributes:
        path: a file (which may lie there packed, as NAME.gz or NAME.zst) or a folder, whose files are read in the order
            of their names.
        pattern: instead: files by a pattern of the shell (``day=*/*.csv``, ``**`` for any folders).
        hive: whether folders called COLUMN=VALUE give a column, for folders and patterns.
        sha256: of the published file; another file is an error. None where it could not be computed.
        format: overrides the recipe's format.
    """

    path: str | None = None
    pattern: str | None = None
    hive: bool = True
    sha256: str | None = None
    format: Format | None = None

    @model_validator(mode="after")
    def _check_place(self) -> Location:
        if self.path is not None and self.pattern is not None:
            raise ValueError("give path (a file or a folder) or pattern, not both")
        if self.path == "" or self.pattern == "":
            raise ValueError("path and pattern must not be empty; path = '.' is the folder itself")
        if self.pattern is not None and self.sha256 is not None:
            raise ValueError("sha256 is of one file: give its path, not a pattern")
        return self

    @property
    def place(self) -> str:
        """The path or the pattern, for messages."""
        return self.path or self.pattern or ""


class InputFiles(Location):
    """A location that must be given."""

    @model_validator(mode="after")
    def _check_given(self) -> InputFiles:
        if not self.place:
            raise ValueError("give path (a file or a folder) or pattern")
        return self


class SourceFile(InputFiles):
    """Rows.

    Attributes:
        split: the split that they belong to, where files give the split.
    """

    split: Literal["train", "valid", "test"] | None = None


class SideTable(InputFiles):
    """A table joined to the rows (and to history events) by a key: user features, item features.

    Attributes:
        on: the key column; unique in the table. A row whose key is not in the table gets nulls.
        columns: the columns to take.
        key: the key's name in the table if it is not ``on``.
    """

    on: str
    columns: tuple[str, ...]
    key: str | None = None
