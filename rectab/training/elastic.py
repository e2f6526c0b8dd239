"""Training of every width at once: the full one on all rows, two others on half of them each, taught by the full one.

The sandwich rule of slimmable networks (Yu and Huang, ICCV 2019) trains the largest, the smallest and some other width
in every step. Here the smallest and another one, drawn anew, take a half of the batch each, so that a step costs about
two ordinary ones. They learn from the full width's probabilities instead of labels (in-place distillation).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from rectab.batch import Batch, Jagged
from rectab.data.split import Split
from rectab.metrics import auc
from rectab.models.elastic import ElasticModel
from rectab.training.evaluation import batches_in_order, evaluating

__all__ = ["elastic_loss", "rows_of", "width_aucs"]


def elastic_loss(model: ElasticModel, batch: Batch, full: Tensor, bf16: bool) -> Tensor:
    """The mean loss of the full width, and of two others against its probabilities.

    Args:
        model: in training mode.
        batch: B rows with labels.
        full: logits float [B] of the full width.
        bf16: compute the others under autocast.
    """
    labels = cast(Tensor, batch.labels)
    total = nn.functional.binary_cross_entropy_with_logits(full, labels)
    taught = torch.sigmoid(full.detach())
    middle = len(batch) // 2
    halves = ((0, middle), (middle, len(batch)))
    for width, (first, last) in zip(_drawn(model.widths), halves, strict=False):
        if last - first < 2:  # batch norm cannot train on one row
            continue
        with torch.autocast(batch.ids.device.type, dtype=torch.bfloat16, enabled=bf16):
            logits = model.at(width, rows_of(batch, first, last)).float()
        total = total + nn.functional.binary_cross_entropy_with_logits(logits, taught[first:last])
    return total


def _drawn(widths: tuple[int, ...]) -> list[int]:
    """The smallest width and one of the others, of torch's generator."""
    smallest = min(widths)
    others = [width for width in widths if width != smallest]
    return [smallest, *([others[int(torch.randint(len(others), ()))]] if others else [])]


def rows_of(batch: Batch, first: int, last: int) -> Batch:
    """Rows ``first`` to ``last`` of a batch."""
    return Batch(
        ids=batch.ids[first:last],
        dense=batch.dense[first:last],
        histories={name: _lists(jagged, first, last) for name, jagged in batch.histories.items()},
        labels=None if batch.labels is None else batch.labels[first:last],
        groups=None if batch.groups is None else batch.groups[first:last],
    )


def _lists(jagged: Jagged, first: int, last: int) -> Jagged:
    offsets = jagged.offsets[first : last + 1]
    return Jagged(jagged.values[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0], jagged.cut_to)


@torch.no_grad()
def width_aucs(model: ElasticModel, split: Split, batch_size: int) -> dict[str, float]:
    """``auc@WIDTH`` on ``split`` of every width but the full one, in evaluation mode, fp32."""
    outputs: dict[int, list[Tensor]] = {width: [] for width in model.widths}
    with evaluating(model):
        for batch in batches_in_order(model, split, batch_size):
            for width, logits in outputs.items():
                logits.append(model.at(width, batch).float())
    return {f"auc@{width}": auc(split.labels, torch.cat(logits).cpu().numpy()) for width, logits in outputs.items()}
