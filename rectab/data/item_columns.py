"""Which columns of a recipe belong to the item that negatives replace: a negative has its own item's, all of them.

A column that stayed the positive's would tell the label: the category of one item beside the number of another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rectab.data.derived import roots_of

if TYPE_CHECKING:
    from rectab.data.recipe import Recipe

__all__ = ["check_item_columns", "item_columns"]


def item_columns(recipe: Recipe) -> frozenset[str]:
    """The item, the columns that the recipe names, and what follows from them; empty without negatives.

    What follows are the columns of a side table whose key is one of them, and derived columns that are computed from
    them alone.
    """
    return frozenset(_found(recipe)[0])


def check_item_columns(recipe: Recipe) -> None:
    """Refuse inputs that a negative cannot have.

    Raises:
        ValueError: a feature is derived from columns of the item and of the row together, or a behaviour lists a column
            of the item.
    """
    own, mixed = _found(recipe)
    for feature in recipe.features:
        if feature.column in mixed:
            raise ValueError(
                f"feature {feature.name!r}: its column is derived from the item ({mixed[feature.column]}) and from "
                "other columns, so a negative would have that of its positive and tell the label; leave the feature "
                "out, or name the column in negatives.item_columns if it is the item's alone"
            )
    for history in recipe.histories:
        for sequence in history.sequences if history.source == "list" else ():
            if sequence.column in own | mixed.keys():
                raise ValueError(
                    f"behaviour {history.behaviour!r}: column {sequence.column!r} belongs to the item; a negative has "
                    "the lists of its positive, which would tell the label"
                )


def _found(recipe: Recipe) -> tuple[set[str], dict[str, str]]:
    """(columns of the item, derived columns that are only in part of it -> which part)."""
    if recipe.negatives is None:
        return set(), {}
    own = {recipe.negatives.item, *recipe.negatives.item_columns}
    for table in recipe.tables:
        if table.on in own:
            own |= set(table.columns)
    mixed: dict[str, str] = {}
    for derived in recipe.derived:
        roots = roots_of(derived.sql)
        of_item = sorted(roots & (own | mixed.keys()))
        if derived.name in own or not of_item:
            continue
        if roots <= own:
            own.add(derived.name)
        else:
            mixed[derived.name] = ", ".join(of_item)
    return own, mixed
