"""Sweep files: what they may say, and errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweep_fakes import CONFIG, fake_dataset

from rectab.sweep.config import SweepConfigError, load_config
from rectab.sweep.grid import expand_runs, expand_trials
from rectab.sweep.sources import open_datasets

REPOSITORY = Path(__file__).resolve().parents[1]


def load(tmp_path: Path, text: str):  # type: ignore[no-untyped-def]
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    return load_config(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds", "sedes", r"sedes: unknown key; did you mean 'seeds'"),
        ("seeds = [0, 1, 2]", 'seeds = "x"', r"seeds: must be a list, \[\.\.\.\], got 'x'"),
        ("seeds = [0, 1, 2]", "seeds = []", r"seeds: must be a list of at least 1, got \[\]"),
        ("seeds = [0, 1, 2]", "seeds = [0]\njobs = 0", r"jobs: must be at least 1, got 0"),
        ('method = "full"', "method = 3", r"methods\[0\]\.method: must be text in quotes, got 3"),
        ('method = "full"', 'method = "full"\nbudgetz = []', r"methods\[0\]\.budgetz: unknown key"),
        ('method = "full"', 'method = "fulll"', r"methods\[0\]\.method: .*'full'"),
        ('method = "hashed"', 'method = "full"', r"methods: repeated full; give each its own name"),
        (
            'method = "full"',
            'method = "full"\nrows = "int9"',
            r"methods\[0\]\.rows: no row format 'int9'; did you mean",
        ),
        (
            'method = "hashed"',
            'method = "hashed"\noptions = { whole_below = "x" }',
            r"hashed\.whole_below must be a whole",
        ),
        ("seeds = [0, 1, 2]", 'seeds = [0]\ntrain_budgets = ["none"]', r"train_budgets are sizes"),
        ('"50%"', '"50 percents"', r"budgets: .*50 percents"),
        ('"50%"', '"0%"', r"budgets"),
        ("lr = 0.001", "learning = 0.001", r"training: unknown .*learning"),
        ("lr = 0.001", "seed = 3", r"training\.seed: seeds are given"),
        ('model = "deepfm"', 'model = "deepfmm"', r"models\[0\]: .*deepfmm"),
        ('model = "deepfm"', 'model = "deepfm"\noptions = { depth = 9 }', r"models\[0\]: .*depth"),
        ('model = "deepfm"', 'model = "deepfm"\nmethods = ["fulll"]', r"models\[0\]\.methods: no method 'fulll'"),
        ('path = "prepared"', 'name = "x"', r"datasets\[0\]: give either path"),
        ("seeds = [0, 1, 2]", "seeds = [1, 1]", r"seeds: repeated 1"),
        ("seeds = [0, 1, 2]", "seeds = [", r"not valid TOML"),
    ],
)
def test_errors_name_file_and_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(SweepConfigError, match=message) as caught:
        load(tmp_path, CONFIG.replace(old, new, 1))
    assert "sweep.toml" in str(caught.value)


def test_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SweepConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml")


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTAB_DATA", str(tmp_path / "raw"))
    text = CONFIG.replace('path = "prepared"', 'recipe = "../r.toml"\nraw = "${RECTAB_DATA}/clicks"')
    (entry,) = load(tmp_path, text).datasets
    assert entry.recipe == str((tmp_path / "../r.toml").resolve())
    assert entry.raw == str((tmp_path / "raw" / "clicks").resolve())


RECIPE = 'recipe = "r.toml"\nraw = "{}"'


@pytest.mark.parametrize(
    ("raw", "data", "messages"),
    [
        ("nowhere", None, ["nowhere; the setting is 'nowhere'"]),
        ("${RECTAB_DATA}/x", None, ["'${RECTAB_DATA}/x'", "RECTAB_DATA is not set and taken to be ../shared/data"]),
        ("${RECTAB_DATA}/x", "/no/data", ["no such folder /no/data/x", "RECTAB_DATA is '/no/data'; set it"]),
    ],
)
def test_a_missing_raw_folder_names_the_setting_and_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: str, data: str | None, messages: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RECTAB_DATA", raising=False)
    if data is not None:
        monkeypatch.setenv("RECTAB_DATA", data)
    (tmp_path / "r.toml").write_text((REPOSITORY / "datasets" / "frappe.toml").read_text())
    config = load(tmp_path, CONFIG.replace('path = "prepared"', RECIPE.format(raw)))
    with pytest.raises(SweepConfigError, match=r"datasets\[0\]\.raw: no such folder") as caught:
        open_datasets(config, tmp_path / "out", print)
    for message in messages:
        assert message in str(caught.value)
    assert ("export RECTAB_DATA=" in str(caught.value)) == ("RECTAB_DATA" in raw)
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_needs_raw_files_and_is_given_none(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text((REPOSITORY / "datasets" / "frappe.toml").read_text())
    for recipe, message in (("r.toml", r"datasets\[0\]\.raw: missing"), ("s.toml", r"datasets\[0\]\.recipe: no such")):
        config = load(tmp_path, CONFIG.replace('path = "prepared"', f'recipe = "{recipe}"'))
        with pytest.raises(SweepConfigError, match=message):
            open_datasets(config, tmp_path / "out", print)


def test_grid_covers_everything_once(tmp_path: Path) -> None:
    text = CONFIG + '\n[[methods]]\nmethod = "unified"\nname = "two chunks"\nbudgets = ["10%", "none"]\n'
    text += 'options = { num_chunks = 2 }\n[[models]]\nmodel = "lr"\n'
    config = load(tmp_path, text)
    runs = expand_runs(config, [fake_dataset()])
    assert len(runs) == len({spec.hash for spec in runs}) == 2 * 3 * (1 + 3 + 3 + 2)
    assert {spec.budget for spec in runs if spec.method == "full"} == {None}
    assert {spec.budget for spec in runs if spec.method_label == "two chunks"} == {"10%", None}
    assert expand_trials(config, [fake_dataset()]) == {}


def test_a_model_may_run_under_some_methods_only(tmp_path: Path) -> None:
    config = load(tmp_path, CONFIG + '\n[[models]]\nmodel = "lr"\nmethods = ["full"]\n')
    labels = {(spec.model, spec.method_label) for spec in expand_runs(config, [fake_dataset()])}
    assert labels == {("deepfm", "full"), ("deepfm", "hashed"), ("deepfm", "unified"), ("lr", "full")}


def test_data_set_overrides_single_training_settings(tmp_path: Path) -> None:
    text = CONFIG.replace(
        'path = "prepared"', 'path = "prepared"\nembedding_dim = 4\ntraining = { lr = 0.5, batch_size = 7 }'
    )
    runs = expand_runs(load(tmp_path, text), [fake_dataset()])
    assert {(s.embedding_dim, s.training["lr"], s.training["batch_size"]) for s in runs} == {(4, 0.5, 7)}


@pytest.mark.parametrize("path", sorted((REPOSITORY / "bench" / "sweeps").glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_sweeps_are_valid(path: Path) -> None:
    config = load_config(path)
    assert config.seeds
    # Sweeps of the benchmark are read beside those of the full table on the same rows.
    assert path.stem.startswith("benchmark") or "full" in {entry.method for entry in config.methods}
    for entry in config.datasets:
        assert entry.recipe is not None
        assert Path(entry.recipe).is_file()
