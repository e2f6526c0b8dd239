"""The registry of table methods: what is said of a name that is not there, options and capabilities."""

from __future__ import annotations

import re

import pytest

from rectab.models.registry import get_interaction, get_tower
from rectab.named import find_named
from rectab.tables import get_method, methods


@pytest.mark.parametrize(
    ("find", "name", "message"),
    [
        (get_method, "zzz", "no table method 'zzz'. There are: dnis, full, "),
        (get_method, "unifed", "no table method 'unifed'; did you mean 'unified'? There are: dnis, full, "),
        (get_interaction, "zzz", "no interaction 'zzz'. There are: lr, "),
        (get_tower, "meen", "no history tower 'meen'; did you mean 'mean'? There are: none, "),
        (lambda name: find_named("thing", {}, name), "x", "no thing 'x'. There are none"),
    ],
)
def test_a_name_that_is_not_there(find, name: str, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=re.escape(message)):
        find(name)


def test_options_are_the_planners_own() -> None:
    assert get_method("full").option_names() == ()
    assert get_method("hashed").option_names() == ("whole_below", "seed")
    assert set(get_method("unified").option_names()) == {"num_chunks", "num_tables", "seed"}
    assert {"form", "blocks"} <= set(get_method("dnis").option_names())
    assert all("budget_bytes" not in method.option_names() for method in methods())


def test_capabilities_say_nothing_of_a_needed_budget() -> None:
    """Every method plans without one."""
    assert all("needs_budget" not in method.capabilities() for method in methods())
    assert [method.name for method in methods() if not method.any_budget] == ["full"]
