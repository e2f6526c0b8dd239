"""The hash that names a run's file: what changes it, and what must not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rectab.sweep.grid import RunSpec
from rectab.tables import registry

SPEC = RunSpec(
    role="run",
    dataset="clicks",
    dataset_path="prepared/clicks",
    fingerprint="fingerprint-of-clicks",
    model_label="deepfm",
    model="deepfm",
    history="none",
    model_options={"hidden": [16]},
    method_label="ours",
    method="hashed",
    method_options={},
    budget="10%",
    seed=3,
    embedding_dim=8,
    training={"lr": 0.001},
)


def test_a_hash_stays_what_it_was() -> None:
    """Otherwise every sweep folder there is would be run again."""
    assert registry.get_method("hashed").revision == 1
    assert SPEC.hash == "24630ac97c2860ff"
    assert replace(SPEC, method="full").hash == "1982a9ff0dc19ad5"


def test_a_methods_new_revision_makes_its_runs_other_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(SPEC, method="full").hash
    hashes = []
    for revision in (1, 2, 3):
        changed = replace(registry.get_method("hashed"), revision=revision)
        monkeypatch.setitem(registry._RECORDS, "hashed", changed)
        hashes.append(SPEC.hash)
        assert replace(SPEC, method="full").hash == other, "runs of other methods stay what they are"
    assert hashes[0] == "24630ac97c2860ff"
    assert len(set(hashes)) == 3


def test_counting_ids_makes_another_run() -> None:
    assert replace(SPEC, count_ids=True).hash != SPEC.hash == replace(SPEC, count_ids=False).hash
    old = SPEC.to_json()
    del old["count_ids"]
    assert RunSpec.from_json(old) == SPEC


def test_labels_and_paths_do_not_change_a_hash() -> None:
    assert replace(SPEC, dataset="x", dataset_path="y", model_label="z", method_label="w").hash == SPEC.hash
    assert replace(SPEC, seed=4).hash != SPEC.hash


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(ValueError, match="no table method 'gone'"):
        _ = replace(SPEC, method="gone").hash
