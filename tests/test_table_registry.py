"""The registry of table methods: what is said of a name that is not there, options and capabilities."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from rectab.models.registry import get_interaction, get_tower
from rectab.named import find_named
from rectab.tables import get_method, methods, register
from rectab.tables.registry import find_record


@pytest.mark.parametrize(
    ("find", "name", "message"),
    [
        (get_method, "zzz", "no table method 'zzz'. There are: "),
        (get_method, "unifed", "no table method 'unifed'; did you mean 'unified'? There are: "),
        (get_interaction, "zzz", "no interaction 'zzz'. There are: lr, "),
        (get_tower, "meen", "no history tower 'meen'; did you mean 'mean'? There are: none, "),
        (lambda name: find_named("thing", {}, name), "x", "no thing 'x'. There are none"),
    ],
)
def test_a_name_that_is_not_there(find, name: str, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=re.escape(message)):
        find(name)


def test_options_are_those_of_the_family() -> None:
    assert get_method("full").option_hints() == {}
    assert get_method("hashed").option_hints() == {"whole_below": int, "seed": int}
    assert set(get_method("unified").option_hints()) == {"num_chunks", "num_tables", "seed"}
    assert {"form", "blocks"} <= set(get_method("dnis").option_hints())
    assert all("budget_bytes" not in method.option_hints() for method in methods())


def test_a_form_has_a_record_and_is_no_method() -> None:
    record = find_record("dnis.sparse")
    assert record.family is None
    assert record not in methods()
    with pytest.raises(ValueError, match=r"no table method 'dnis\.sparse'"):
        get_method("dnis.sparse")
    with pytest.raises(ValueError, match="has no family"):
        register(replace(record, name="dnis_sparse"))
    with pytest.raises(ValueError, match="registered already"):
        register(record)
