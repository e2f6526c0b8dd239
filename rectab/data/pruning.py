"""A recipe cut down to what a trained model reads: rows to be scored need no label and no column that nobody reads."""

from __future__ import annotations

from rectab.data.derived import needed_derived, roots_of
from rectab.data.errors import DataError
from rectab.data.recipe import Recipe
from rectab.data.recipe_parts import HistoryRecipe, SplitRecipe
from rectab.data.staged_events import event_columns
from rectab.data.staging import needed_columns
from rectab.schema import Schema

__all__ = ["pruned"]


def pruned(recipe: Recipe, schema: Schema, *, labels: bool, split: bool) -> Recipe:
    """What of a recipe is needed for the inputs of a schema.

    Args:
        recipe: with a generator's options filled in.
        schema: of the model: features that it left out are not read.
        labels: rows are to be measured, so their labels are read.
        split: rows are those of one of the recipe's splits, so what makes the splits stays.

    Raises:
        DataError: rows with few events are to be left out, and the model does not read these events.
    """
    names = {f.name for f in schema.features} | set(schema.dense)
    histories = tuple(cut for h in recipe.histories if (cut := _history(h, names)).sequences)
    counted = recipe.min_history if labels or split else 0
    if counted and (not histories or histories[0].behaviour != recipe.histories[0].behaviour):
        raise DataError(
            f"recipe {recipe.name!r} leaves out rows with fewer than {counted} events of "
            f"{recipe.histories[0].behaviour!r}, which the model was trained without: score rows with rectab predict, "
            "without --split"
        )
    made = recipe.model_copy(
        update={
            "features": tuple(f for f in recipe.features if f.name in names),
            "histories": histories,
            "label": recipe.label if labels else None,
            "negatives": recipe.negatives if split else None,
            "split": recipe.split if split else SplitRecipe(by="files"),
            "min_history": counted,
            "slice_by": None,
            "probability": None,
        }
    )
    by_group = any(h.source != "list" for h in histories)
    inputs = {f.column for f in made.features}
    if not (by_group or labels or split or recipe.group in inputs):
        made = made.model_copy(update={"group": None})
    if not (by_group or split or recipe.time in inputs):
        made = made.model_copy(update={"time": None})
    return _without_unread(made)


def _history(history: HistoryRecipe, names: set[str]) -> HistoryRecipe:
    """The history with the sequences that are read."""
    sequences = tuple(s for s in history.sequences if s.name in names)
    return history.model_copy(
        update={"sequences": sequences, "context": tuple(c for c in history.context if c.name in names)}
    )


def _without_unread(recipe: Recipe) -> Recipe:
    """The recipe without derived columns and side tables that nothing needs."""
    needed = set(needed_columns(recipe, own_log=True))
    for history in recipe.histories:
        needed |= event_columns(history)
    derived = needed_derived(recipe.derived, needed)
    needed |= {root for column in derived for root in roots_of(column.sql)}
    tables = []
    for table in reversed(recipe.tables):  # the key of one may be a column of another before it
        if needed & set(table.columns):
            tables.append(table)
            needed.add(table.on)
    return recipe.model_copy(update={"derived": tuple(derived), "tables": tuple(tables[::-1])})
