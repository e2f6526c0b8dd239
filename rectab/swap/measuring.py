"""What rows say of a host's tables: how often ids are looked up, and how the output moves with their vectors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rectab.quantize.predict import expected_loss
from rectab.quantize.sensitivity import evaluating
from rectab.swap.find import FoundTable
from rectab.swap.reading import Meaning, Reading, Taken, logits

__all__ = ["Measured", "loss_by_logits", "measure"]

Lookups = tuple[Tensor, Tensor, Tensor]
"""(ids [m] but padding, the output row that each is part of [m], the factor of its vector there [m])."""


@dataclass(frozen=True)
class Measured:
    """One entry a table: float64 [num_embeddings] lookups and float64 [D, D] mean g g'."""

    counts: list[np.ndarray]
    sensitivity: list[np.ndarray]
    rows: int


def measure(
    model: nn.Module, found: Sequence[FoundTable], taken: Taken, reading: Reading, meaning: Meaning | None
) -> Measured:
    """In evaluation mode; hooks are removed and modes put back whatever happens.

    Of several outputs a row, the gradients of all count alike: they are summed with random signs, so that the mean of
    g g' is the sum of those of the outputs.

    Raises:
        ValueError: the rows look up none of the tables, or the outputs do not move with them.
    """
    counts = [np.zeros(f.module.num_embeddings) for f in found]
    sums = [torch.zeros(f.module.embedding_dim, f.module.embedding_dim, dtype=torch.float64) for f in found]
    signs = torch.Generator().manual_seed(0)
    with evaluating(model), torch.enable_grad(), _watched(found) as seen:
        for batch in taken.batches:
            seen.clear()
            scores = reading.scores(model, batch, meaning)
            leaves = [leaf for *_, leaf in seen]
            gradients = _gradients(scores, leaves, signs)
            for (index, (ids, at, factor), _), gradient in zip(seen, gradients, strict=True):
                counts[index] += np.bincount(ids.cpu().numpy(), minlength=len(counts[index]))
                if gradient is not None:
                    g = gradient.reshape(-1, gradient.shape[-1])[at].double() * factor.unsqueeze(1)
                    sums[index] += (g.T @ g).cpu()
    means = [(total / max(count.sum(), 1)).numpy() for total, count in zip(sums, counts, strict=True)]
    _check_reached(found, counts, means)
    return Measured(counts, _with_unreached(found, counts, means, taken.rows), taken.rows)


def _gradients(scores: Tensor, leaves: list[Tensor], signs: torch.Generator) -> Sequence[Tensor | None]:
    if not leaves or not scores.requires_grad:
        return [None] * len(leaves)
    if scores.shape[1] > 1:
        scores = scores * (torch.randint(0, 2, scores.shape, generator=signs) * 2 - 1).to(scores)
    return torch.autograd.grad(scores.sum(), leaves, allow_unused=True)


@contextmanager
def _watched(found: Sequence[FoundTable]) -> Iterator[list[tuple[int, Lookups, Tensor]]]:
    """Collects (table, its lookups, the output) of every call; the outputs are the leaves of the graph."""
    seen: list[tuple[int, Lookups, Tensor]] = []

    def keep(index: int, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()
        seen.append((index, _lookups(module, args, kwargs), leaf))
        return leaf

    index_of = {place.module: index for index, table in enumerate(found) for place in table.places}
    hooks = [m.register_forward_hook(partial(keep, i), with_kwargs=True) for m, i in index_of.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _lookups(module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> Lookups:
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


def _check_reached(found: Sequence[FoundTable], counts: list[np.ndarray], means: list[np.ndarray]) -> None:
    names = [table.name for table in found]
    if not any(count.any() for count in counts):
        raise ValueError(f"batches look up none of the tables {names}; does the model call them as modules?")
    if not any(mean.any() for mean in means):
        raise ValueError(f"the model's outputs do not move with any of the tables {names}; is it trained?")


def _with_unreached(
    found: Sequence[FoundTable], counts: list[np.ndarray], means: list[np.ndarray], rows: int
) -> list[np.ndarray]:
    """Sensitivities, of tables without lookups the mean of the others', in units of the std of their weights."""
    reached = [bool(count.any()) for count in counts]
    if all(reached):
        return means
    names = [table.name for table, known in zip(found, reached, strict=True) if not known]
    warnings.warn(
        f"compress_: batches never look up {names}; they are held as if 1 row of {rows} did. Give batches that do, or "
        "exclude them",
        stacklevel=4,
    )
    powers = [float(np.trace(m)) * t.std**2 for m, t, known in zip(means, found, reached, strict=True) if known]
    power = float(np.mean(powers))
    return [
        mean if known else np.eye(len(mean)) * power / (len(mean) * max(table.std**2, 1e-30))
        for mean, table, known in zip(means, found, reached, strict=True)
    ]


@torch.no_grad()
def loss_by_logits(model: nn.Module, taken: Taken, reading: Reading, meaning: Meaning | None) -> float | None:
    """AUC that the model, now compressed, has lost if the logits it gave are right about every row; None without."""
    if meaning is None:
        return None
    with evaluating(model):
        after = torch.cat([reading.scores(model, batch, meaning) for batch in taken.batches])
    before = logits(taken.outputs, meaning)
    return expected_loss(before[:, 0].cpu().numpy(), after[:, 0].cpu().numpy())
