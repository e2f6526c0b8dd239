"""The widths of an elastic run on disk: a run folder each, within the folder of the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rectab.data.dataset import PreparedDataset
from rectab.models.elastic import ElasticModel
from rectab.tables import TableOptions, plan
from rectab.training.artifact import MODEL_FILE, save_model
from rectab.training.config import TrainConfig
from rectab.training.evaluation import evaluate
from rectab.training.finished import RESULT_FILE
from rectab.training.inputs_file import write_inputs
from rectab.training.measuring import metrics_on_test
from rectab.training.result import RunResult

__all__ = ["width_folders", "write_width"]

_FOLDER = "width_"


def write_width(model: ElasticModel, width: int, dataset: PreparedDataset, whole: RunResult, out_dir: Path) -> None:
    """Write ``out_dir/width_WIDTH``: the model of one width as a run of its own, whose training was the whole run's.

    Args:
        model: trained.
        width: one of its smaller widths.
        dataset: what it was trained on.
        whole: the result of the run; the test split is read if it was read there.
        out_dir: folder of the run.
    """
    config, taken = TrainConfig.from_json(whole.train), model.taken(width)
    options = TableOptions(gradient=config.gradient, seed=config.seed)
    planned = plan("full", dataset.schema.vocabularies, width, None, options=options)
    test, slices = (None, {}) if whole.test is None else metrics_on_test(taken, dataset, config)
    result = replace(
        whole,
        table=planned.to_json(),
        valid=evaluate(taken, dataset.valid, config.evaluation_batch_size, config.objective),
        test=test,
        slices=slices,
        serving_bytes=taken.table.ledger().bytes,
        dense_bytes=sum(p.numel() * p.element_size() for p in taken.dense_parameters()),
        history=[],
        attention=[],
    )
    folder = out_dir / f"{_FOLDER}{width}"
    folder.mkdir(parents=True, exist_ok=True)
    save_model(taken, folder / MODEL_FILE)
    write_inputs(dataset, folder)
    result.save(folder / RESULT_FILE)


def width_folders(folder: Path) -> list[Path]:
    """The folders of an elastic run's smaller widths, the widest first; none of any other run."""
    found = [path.parent for path in folder.glob(f"{_FOLDER}*/{RESULT_FILE}")]
    return sorted(found, key=lambda path: -int(path.name.removeprefix(_FOLDER)))
