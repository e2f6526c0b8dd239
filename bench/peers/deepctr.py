"""DeepCTR-Torch's models, and the training step that its ``fit`` makes of a batch."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import torch
from torch import Tensor

with contextlib.redirect_stdout(io.StringIO()):  # it asks for its newest version
    from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat
    from deepctr_torch.models import DCN, DIN, DeepFM

from rectab.batch import Batch
from rectab.schema import Schema

__all__ = ["DeepCTRModel", "flat_inputs", "history_inputs"]


class DeepCTRModel:
    """One of DeepCTR-Torch's models, stepped batch by batch; its L2 penalties, dense sums over every table, are off.

    Args:
        name: ``dcnv2``, ``deepfm`` or ``din``.
        length: longest history, for ``din``.
        options: of the model.
    """

    def __init__(self, name: str, schema: Schema, embedding_dim: int, lr: float, length: int = 0, **options: Any):
        sizes = {v.name: v.num_embeddings for v in schema.vocabularies}
        columns: list[Any] = [
            SparseFeat(f.name, sizes[f.vocabulary], embedding_dim=embedding_dim, embedding_name=f.vocabulary)
            for f in schema.categorical
        ]
        no_l2: dict[str, Any] = {"l2_reg_embedding": 0, "l2_reg_dnn": 0}
        if name == "din":
            sequences = [f for f in schema.features if f.kind == "sequence"]
            for f in sequences:
                inner = SparseFeat(f"hist_{f.target}", sizes[f.vocabulary], embedding_dim, embedding_name=f.vocabulary)
                columns.append(VarLenSparseFeat(inner, maxlen=length, length_name="length"))
            self.model = DIN(columns, [f.target for f in sequences], **no_l2, **options)
        elif name == "deepfm":
            self.model = DeepFM(columns, columns, l2_reg_linear=0, **no_l2, **options)
        else:
            no_l2["l2_reg_cross"] = 0
            cross = {"cross_num": 3, "cross_parameterization": "matrix", "l2_reg_linear": 0}
            self.model = DCN(columns, columns, **cross, **no_l2, **options)
        self.model.compile(torch.optim.Adam(self.model.parameters(), lr=lr), "binary_crossentropy")

    def step(self, batch: tuple[Tensor, Tensor]) -> float:
        model, (inputs, labels) = self.model, batch
        model.train()
        predicted = model(inputs.float()).squeeze(-1)
        model.optim.zero_grad()
        loss = model.loss_func(predicted, labels, reduction="sum")
        total = loss + model.get_regularization_loss() + model.aux_loss
        value = total.item()
        total.backward()
        model.optim.step()
        return value


def flat_inputs(schema: Schema, batch: Batch) -> tuple[Tensor, Tensor]:
    return batch.ids, batch.labels


def history_inputs(schema: Schema, batch: Batch, length: int) -> tuple[Tensor, Tensor]:
    """Ids, padded histories and their length side by side, in the order of the model's columns."""
    sequences = [f.name for f in schema.features if f.kind == "sequence"]
    padded = [batch.histories[name].to_padded(length) for name in sequences]
    lengths = padded[0][1].sum(1, keepdim=True)
    parts = [batch.ids]
    for index, (past, _) in enumerate(padded):
        parts += [past] if index else [past, lengths]
    return torch.cat(parts, 1), batch.labels
