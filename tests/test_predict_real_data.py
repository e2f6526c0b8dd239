"""Raw test rows of public data give the AUC that training printed, whatever the table; histories are read anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_cli import CommandLine, rectab  # noqa: F401 - a fixture

RECIPES = Path(__file__).parents[1] / "datasets"
SETS = {
    "frappe": ("frappe.toml", "frappe_x1", ["--model", "deepfm", "--dim", "4"]),
    "kuairand": ("kuairand_pure.toml", "kuairand_pure_late", ["--model", "mlp", "--history", "mean", "--dim", "4"]),
}
SETTINGS = ["--set", "train.max_epochs=1", "--set", "train.batch_size=4096", "--set", "model.hidden=[8]"]


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("name", SETS)
def test_raw_test_rows_give_the_auc_that_training_printed(
    rectab: CommandLine,  # noqa: F811
    real_data: Path,
    tmp_path: Path,
    name: str,
) -> None:
    recipe, folder, model = SETS[name]
    if not (real_data / folder).is_dir():
        pytest.skip(f"no {folder} at {real_data}")
    raw, data = real_data / folder, tmp_path / "data"
    rectab("prepare", RECIPES / recipe, "--raw", raw, "--out", data)
    for table, budget in (("full", []), ("unified", ["--budget", "10%"]), ("quantized", ["--budget", "5%"])):
        run = tmp_path / table
        trained = rectab.json("train", data, "--table", table, *budget, *model, *SETTINGS, "--out", run)
        scored = rectab.json("evaluate", run, "--raw", raw, "--split", "test")
        assert scored["auc"] == pytest.approx(trained["test"]["auc"], abs=1e-7)
        assert scored["logloss"] == pytest.approx(trained["test"]["logloss"], abs=1e-6)
