"""A finished run whose full table is to be encoded, and what is known of it before anything is encoded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from rectab.data.dataset import PreparedDataset
from rectab.data.split import Split
from rectab.models import CTRModel
from rectab.quantize.predict import Separation
from rectab.quantize.rare import rare_vector
from rectab.quantize.sensitivity import ROWS, table_sensitivity
from rectab.quantize.traffic import expected_lookups
from rectab.training.artifact import MODEL_FILE, load_model
from rectab.training.config import TrainConfig
from rectab.training.device import batches_on
from rectab.training.evaluation import evaluate, metrics_of, predict
from rectab.training.finished import RESULT_FILE, check_data, load_result
from rectab.training.result import RunResult
from rectab.training.topk.negatives import with_negatives
from rectab.training.topk.objective import Ranking

__all__ = ["FullRun", "open_run"]

_BATCH = 4096


@dataclass(frozen=True)
class FullRun:
    """A finished run over the full table.

    Attributes:
        folder: where it lies.
        dataset: what it was trained on.
        result: its result.
        model: the trained model.
    """

    folder: Path
    dataset: PreparedDataset
    result: RunResult
    model: CTRModel

    @property
    def embedding_dim(self) -> int:
        return self.model.table.embedding_dim

    @cached_property
    def vectors(self) -> list[np.ndarray]:
        """fp32 [n, D] of every vocabulary; of fp32 rows nothing is copied."""
        ((_, store),) = self.model.table.row_stores()
        held = store.weight.detach() if store.format.name == "fp32" else store.read(slice(None)).float()
        rows = held.numpy()
        borders = np.cumsum([0, *(v.num_embeddings for v in self.dataset.schema.vocabularies)])
        return [rows[a:b] for a, b in pairwise(borders)]

    @cached_property
    def traffic(self) -> list[np.ndarray]:
        """float64 [n] of every vocabulary: lookups of every id that as many new rows would make."""
        return [expected_lookups(counts, unseen_id=0) for counts in self.counts]

    @cached_property
    def counts(self) -> list[np.ndarray]:
        """int64 [n] of every vocabulary: lookups of every id in training."""
        counts = self.train.occurrences(self.model.config.max_history)
        return [counts[v.name] for v in self.dataset.schema.vocabularies]

    @cached_property
    def rare(self) -> list[np.ndarray]:
        """fp32 [D] of every vocabulary: what values outside it read, see :func:`rectab.quantize.rare.rare_vector`."""
        return [rare_vector(*held) for held in zip(self.vectors, self.counts, self.traffic, strict=True)]

    @cached_property
    def sensitivity(self) -> np.ndarray:
        """float64 [V, D, D], see :func:`rectab.quantize.sensitivity.table_sensitivity`; of training rows."""
        train, generator = self.train, np.random.default_rng(self.result.train["seed"])
        rows = np.sort(generator.permutation(len(train))[:ROWS])
        read = batches_on(
            self.model.table.device,
            train.restrict(rows),
            _BATCH,
            shuffle_seed=None,
            drop_singleton=False,
            max_history=self.model.config.max_history,
        )
        return table_sensitivity(self.model, self.model.table, len(self.vectors), read)

    @cached_property
    def weights(self) -> list[np.ndarray]:
        """float64 [n] of every vocabulary: lookups of every id in a new row, on average."""
        return [traffic / len(self.train) for traffic in self.traffic]

    @cached_property
    def outputs(self) -> np.ndarray:
        """float32 [n]: logits of the validation rows."""
        return predict(self.model, self.valid_rows, self.result.train["evaluation_batch_size"])

    @cached_property
    def valid(self) -> dict[str, float]:
        """Metrics on validation, measured here: the result's may be of another machine."""
        return self.measure(self.model) if self.ranking else metrics_of(self.outputs, self.dataset.valid, "logloss")

    @cached_property
    def separation(self) -> Separation:
        return Separation.of(self.valid["auc"], self.valid_rows.labels, self.outputs)

    @cached_property
    def ranking(self) -> Ranking | None:
        """Of a run that ranks items; None of one that predicts clicks."""
        config = TrainConfig.from_json(self.result.train)
        return Ranking(self.dataset, config, self.model.table.device) if config.objective == "topk" else None

    @cached_property
    def train(self) -> Split:
        """Training rows as the model meets them: where it ranks items, with sampled negatives."""
        return self._rows(self.dataset.train)

    @cached_property
    def valid_rows(self) -> Split:
        """Validation rows, as :attr:`train`."""
        return self._rows(self.dataset.valid)

    def _rows(self, split: Split) -> Split:
        if self.ranking is None:
            return split
        return with_negatives(split, self.ranking.interactions, self.result.train["seed"])

    def measure(self, model: CTRModel) -> dict[str, float]:
        """Metrics on validation of a model in place of the run's."""
        if self.ranking is not None:
            return self.ranking.evaluate(model, self.dataset.valid)
        settings = self.result.train
        return evaluate(model, self.dataset.valid, settings["evaluation_batch_size"], settings["objective"])


def open_run(folder: Path, dataset: PreparedDataset, device: torch.device | str = "cpu") -> FullRun:
    """A finished run of ``rectab train --table full``.

    Raises:
        FileNotFoundError: the folder holds no finished run.
        ValueError: it is damaged, of another table or data set, or predicts ratings.
    """
    result = load_result(folder)
    if result is None:
        raise FileNotFoundError(
            f"{folder}: no {RESULT_FILE}, so this is no finished run; make one with `rectab train {dataset.path} "
            f"--table full --out {folder}`"
        )
    if result.method != "full":
        raise ValueError(f"{folder}: its table is {result.method!r}; only a run of --table full can be compressed")
    check_data(folder, result, dataset)
    if result.train["objective"] == "mse":
        raise ValueError(f"{folder}: predicts ratings (objective 'mse'); this is for clicks and rankings")
    return FullRun(folder, dataset, result, load_model(folder / MODEL_FILE, device=device))
