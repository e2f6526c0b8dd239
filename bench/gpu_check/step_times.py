"""Whole training steps of DCNv2 and DIN over tables of different size, beside torch's dense embedding and Adam."""

from __future__ import annotations

import gc
from typing import Any

import torch

from bench.gpu_check.row_times import sizes
from bench.gpu_check.setting import Setting, timed
from bench.gpu_check.small_models import Task, Training, dcnv2_task, din_task

__all__ = ["dcnv2_times", "din_times"]


def dcnv2_times(setting: Setting) -> list[dict[str, Any]]:
    batch_size, hidden = (16, (16,)) if setting.dry else (16_384, (400, 400, 400))
    return [row for n in sizes(setting) for row in _times(setting, n, dcnv2_task(n, batch_size, 3, hidden))]


def din_times(setting: Setting) -> list[dict[str, Any]]:
    batch_size, length = (16, 3) if setting.dry else (4096, 50)
    return [row for n in sizes(setting) for row in _times(setting, n, din_task(n, batch_size, 3, length))]


def _times(setting: Setting, num_rows: int, task: Task) -> list[dict[str, Any]]:
    batches = [batch.to(setting.device) for batch in task.batches]
    rows = []
    for gradient, bf16 in (("row", False), ("row", True), ("dense", False), ("dense", True)):
        described = {"rows": num_rows, "batch": len(batches[0]), "gradient": gradient}
        described["precision"] = "bf16" if bf16 else "fp32"
        try:
            training = Training(task, setting.device, gradient=gradient, bf16=bf16, zeros=True)
            described |= timed(setting, training.step, batches)
        except torch.OutOfMemoryError as error:
            described["left_out"] = f"OutOfMemoryError: {str(error).splitlines()[0]}"
        rows.append(described)
        training = None
        gc.collect()
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()
    return rows
