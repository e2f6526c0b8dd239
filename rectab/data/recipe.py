"""The recipe of a data set: a TOML file that says which columns there are, what they mean, and how to split the rows.

Every key is checked; an unknown one is an error. The files in ``datasets/`` show recipes in use.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from rectab.data.errors import RecipeError
from rectab.data.item_columns import check_item_columns
from rectab.data.recipe_files import Format, SideTable, SourceFile, Strict
from rectab.data.recipe_parts import (
    Derived,
    FeatureRecipe,
    HistoryRecipe,
    LabelRecipe,
    NegativeSampling,
    SplitRecipe,
)
from rectab.data.synthetic_options import SyntheticOptions
from rectab.key_errors import explain

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

__all__ = ["Recipe", "bundled_recipes", "load_recipe"]

_BUNDLED = (Path(__file__).parents[2] / "datasets", Path(__file__).parents[1] / "datasets")  # checkout, installed


class Recipe(Strict):
    """A data set: see the module's docstring and ``datasets/``.

    Attributes:
        name, description: for people.
        source: where to get it. paper: what to cite. terms: what its owners allow. traps: what goes wrong with it.
        format: of every file that has none of its own.
        files: files of rows. tables: joined to the rows. derived: computed columns.
        label: None where every row is positive and ``negatives`` draws the others.
        group: column whose rows form a group (usually the user). time: column that orders the rows of a group.
        features, histories: the inputs.
        slice_by: the categorical feature whose counts define head and tail; the largest vocabulary's if None.
        probability: column of the true click probability (synthetic data).
        min_history: rows with fewer events in the first behaviour are dropped (after they became events themselves).
        synthetic: options of the generator, which then fills in everything above.
    """

    name: str
    description: str = ""
    source: str = ""
    paper: str = ""
    terms: str = ""
    traps: tuple[str, ...] = ()
    format: Format = Format()
    files: tuple[SourceFile, ...] = ()
    tables: tuple[SideTable, ...] = ()
    derived: tuple[Derived, ...] = ()
    label: LabelRecipe | None = None
    group: str | None = None
    time: str | None = None
    features: tuple[FeatureRecipe, ...] = ()
    histories: tuple[HistoryRecipe, ...] = ()
    split: SplitRecipe = SplitRecipe(by="files")
    negatives: NegativeSampling | None = None
    slice_by: str | None = None
    probability: str | None = None
    min_history: int = Field(default=0, ge=0)
    synthetic: SyntheticOptions | None = None

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.synthetic is not None:
            return self
        if not self.files or not self.features:
            raise ValueError("a recipe needs [[files]] and [[features]]")
        sequences = [s.name for h in self.histories for s in h.sequences]
        sequences += [c.name for h in self.histories for c in h.context]
        repeated = [n for n, c in Counter([f.name for f in self.features] + sequences).items() if c > 1]
        if repeated:
            raise ValueError(f"feature names must be unique; repeated: {repeated}")
        self._check_roles()
        self._check_vocabularies()
        check_item_columns(self)
        return self

    def _check_roles(self) -> None:
        if (self.label is None) == (self.negatives is None):
            raise ValueError("give either [label] or [negatives]")
        needs_group = (
            self.negatives or self.split.by == "last_per_group" or any(h.source != "list" for h in self.histories)
        )
        if needs_group and self.group is None:
            raise ValueError("histories, negatives and split by 'last_per_group' need group = 'COLUMN'")
        if self.time is None and (self.split.by == "last_per_group" or any(h.source != "list" for h in self.histories)):
            raise ValueError("histories and split by 'last_per_group' need time = 'COLUMN'")
        if self.split.by == "group" and not (self.group or self.split.column):
            raise ValueError("split by 'group' needs group = 'COLUMN', or a column of its own in [split]")
        if self.split.by == "time" and not (self.time or self.split.column):
            raise ValueError("split by 'time' needs time = 'COLUMN'")
        given = [f.split for f in self.files]
        if (self.split.by == "files") != all(given) or (any(given) and not all(given)):
            raise ValueError("split by 'files' and a split for every file go together")
        inputs = {f.column for f in self.features}
        if self.label is not None and self.label.column in inputs:
            raise ValueError(f"column {self.label.column!r} is the label and may not be an input")

    def _check_vocabularies(self) -> None:
        settings: dict[str, tuple[int, bool, str | None]] = {}
        categorical = {f.name: f for f in self.features if f.type == "categorical"}
        for feature in categorical.values():
            own = (feature.min_count, feature.hashed, feature.bins)
            if settings.setdefault(feature.vocabulary, own) != own:
                raise ValueError(
                    f"features of vocabulary {feature.vocabulary!r} must agree on min_count, hashed and bins"
                )
        for history in self.histories:
            for sequence in history.sequences:
                if sequence.target is not None and sequence.target not in categorical:
                    raise ValueError(
                        f"sequence {sequence.name!r}: target {sequence.target!r} is no categorical feature"
                    )
            for context in history.context:
                if context.name in settings or any(s.vocabulary == context.name for s in history.sequences):
                    raise ValueError(f"context {context.name!r}: a vocabulary has that name; give it another")
        if self.slice_by is not None and self.slice_by not in categorical:
            raise ValueError(f"slice_by {self.slice_by!r} is no categorical feature")


def bundled_recipes() -> dict[str, Path]:
    """The recipes that come with rectab, by name."""
    return {path.stem: path for folder in _BUNDLED for path in sorted(folder.glob("*.toml"))}


def load_recipe(path: str | Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe: a file, or the name of a bundled one (``frappe``).

    Args:
        path: of the file, or the name.
        changes: keys that take the place of the file's; a table changes the keys it has and leaves the others.

    Raises:
        RecipeError: if the file is missing or not TOML, or a key is unknown, missing or contradictory; the message
            names the file and the key.
    """
    path = Path(path)
    if not path.exists():
        path = bundled_recipes().get(str(path), path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(bundled_recipes())
        raise RecipeError(f"{path}: no such recipe; give a file, or one of: {known}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from None
    try:
        return Recipe.model_validate(_changed(content, changes or {}))
    except ValidationError as error:
        raise RecipeError(f"{path}: {explain(error, Recipe)}") from None


def _changed(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(content)
    for key, value in changes.items():
        kept = made.get(key)
        made[key] = _changed(kept, value) if isinstance(kept, Mapping) and isinstance(value, Mapping) else value
    return made
