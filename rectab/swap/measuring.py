"""What rows say of a host's tables: how often ids are looked up, and how the output moves with their vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rectab.quantize.predict import expected_loss
from rectab.quantize.sensitivity import ROWS, evaluating
from rectab.swap.find import FoundTable

__all__ = ["Measured", "loss_by_logits", "measure", "taken_rows"]


@dataclass(frozen=True)
class Measured:
    """One entry a table: float64 [num_embeddings] lookups and float64 [D, D] mean g g'. ``outputs`` fp64 [rows]."""

    counts: list[np.ndarray]
    sensitivity: list[np.ndarray]
    rows: int
    outputs: np.ndarray | None


def taken_rows(batches: Iterable[Any]) -> list[Any]:
    """The first batches, until there are 20,000 rows. Raises ValueError if there is none."""
    taken: list[Any] = []
    count = 0
    for batch in batches:
        taken.append(batch)
        count += _num_rows(batch)
        if count >= ROWS:
            break
    if not taken:
        raise ValueError("batches has no batch; give some training rows, or batches=None")
    return taken


def _num_rows(batch: Any) -> int:
    values = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, (tuple, list)) else [batch]
    return next((len(v) for v in values if isinstance(v, Tensor) and v.dim()), 1)


def _call(model: nn.Module, batch: Any) -> Tensor:
    if isinstance(batch, dict):
        output = model(**batch)
    else:
        output = model(*batch) if isinstance(batch, (tuple, list)) else model(batch)
    if not isinstance(output, Tensor):
        raise ValueError(f"the model gives {type(output).__name__}, not a tensor; wrap it, or give no batches")
    return output


def _lookups(module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """(ids [m] but padding, the output row that each is part of [m], the factor of its vector there [m])."""
    named = dict(zip(("input", "offsets", "per_sample_weights"), args, strict=False)) | kwargs
    ids = named["input"].to(torch.int64)
    flat = ids.reshape(-1)
    kept = torch.ones_like(flat, dtype=torch.bool) if module.padding_idx is None else flat != module.padding_idx
    if isinstance(module, nn.Embedding):
        at = kept.nonzero().squeeze(1)
        return flat[at], at, torch.ones(len(at), device=ids.device)
    if ids.dim() == 2:
        lengths = torch.full((ids.shape[0],), ids.shape[1], device=ids.device)
    else:
        ends = named["offsets"].to(torch.int64)
        ends = ends if module.include_last_offset else torch.cat([ends, ends.new_tensor([len(ids)])])
        lengths = ends.diff()
    bag = torch.arange(len(lengths), device=ids.device).repeat_interleave(lengths)
    weights = named.get("per_sample_weights")
    factor = torch.ones(len(flat), device=ids.device) if weights is None else weights.detach().reshape(-1).float()
    if module.mode == "mean":
        factor = factor / torch.zeros(len(lengths), device=ids.device).index_add(0, bag, kept.float()).clamp(min=1)[bag]
    return flat[kept], bag[kept], factor[kept]


def measure(model: nn.Module, found: Sequence[FoundTable], batches: Sequence[Any]) -> Measured:
    """In evaluation mode; hooks are removed and modes put back whatever happens."""
    index_of = {place.module: index for index, table in enumerate(found) for place in table.places}
    counts = [np.zeros(f.module.num_embeddings) for f in found]
    sums = [torch.zeros(f.module.embedding_dim, f.module.embedding_dim, dtype=torch.float64) for f in found]
    seen: list[tuple[int, Any, Tensor]] = []

    def keep(index: int, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()
        seen.append((index, _lookups(module, args, kwargs), leaf))
        return leaf

    hooks = [m.register_forward_hook(partial(keep, i), with_kwargs=True) for m, i in index_of.items()]
    outputs, rows = [], 0
    try:
        with evaluating(model), torch.enable_grad():
            for batch in batches:
                seen.clear()
                output = _call(model, batch)
                leaves = [leaf for *_, leaf in seen]
                gradients = torch.autograd.grad(output.sum(), leaves, allow_unused=True) if leaves else ()
                rows += len(output)
                outputs.append(output.detach())
                for (index, (ids, at, factor), _), gradient in zip(seen, gradients, strict=True):
                    counts[index] += np.bincount(ids.cpu().numpy(), minlength=len(counts[index]))
                    if gradient is not None:
                        g = (gradient.reshape(-1, gradient.shape[-1])[at] * factor.unsqueeze(1)).double()
                        sums[index] += (g.T @ g).cpu()
    finally:
        for hook in hooks:
            hook.remove()
    means = [(total / max(count.sum(), 1)).numpy() for total, count in zip(sums, counts, strict=True)]
    return Measured(counts, means, rows, _logits(outputs))


def _logits(outputs: Sequence[Tensor]) -> np.ndarray | None:
    """fp64 [rows]; None if there is more than one output a row."""
    if any(o.numel() != len(o) for o in outputs):
        return None
    return torch.cat([o.reshape(-1) for o in outputs]).double().cpu().numpy()


@torch.no_grad()
def loss_by_logits(model: nn.Module, batches: Sequence[Any], before: np.ndarray | None) -> float | None:
    """AUC that the model, now compressed, has lost if the logits ``before`` are right about every row."""
    if before is None:
        return None
    with evaluating(model):
        after = _logits([_call(model, batch) for batch in batches])
    assert after is not None
    return expected_loss(before, after)
