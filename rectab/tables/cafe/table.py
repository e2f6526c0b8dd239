"""CAFE while it trains: gradients are put into the sketch, and rows go to the ids that it finds."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from rectab.ops import salt_of
from rectab.optim import RowOptimizer
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.cafe.config import CafeConfig
from rectab.tables.cafe.serving import CompactCafeTable, OwnOrSharedTable
from rectab.tables.cafe.sketch import HotSketch
from rectab.tables.findings import Finding, by_vocabulary

__all__ = ["CafeTable"]

_HEARD = 64  # lookups whose gradients are kept until the step


class CafeTable(OwnOrSharedTable):
    """Memory: (sum of num_rows + own) rows of D, three or four integers a vocabulary, and while training 48
    bytes of sketch an own row (64 where ids are hashed). What is served has a key an own row instead.
    """

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: CafeConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        salt = salt_of(config.seed, "sketch")
        self.sketch = HotSketch(config.own, self.key_dtype, self.by_hash, salt, self.options.device)
        self._heard: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=_HEARD)

    def find(self, keys: Tensor) -> Tensor:
        return self.sketch.find(keys)

    def _listen(self, keys: Tensor, shared: Tensor, vectors: Tensor) -> None:
        if vectors.requires_grad:
            vectors.register_hook(partial(self._hear, keys.reshape(-1), shared.reshape(-1)))

    def _hear(self, keys: Tensor, shared: Tensor, gradients: Tensor) -> None:
        self._heard.append((keys, shared, gradients.detach().float().norm(dim=-1).reshape(-1)))

    @torch.no_grad()
    def after_step(self, step: int, optimizer: RowOptimizer | None) -> None:
        """Put what was heard since the last step into the sketch; from time to time, exchange own rows."""
        if self._heard:
            keys, shared, norms = (torch.cat(parts) for parts in zip(*self._heard, strict=True))
            self._heard.clear()
            kept = (keys >= 0) & norms.isfinite()
            # A mean of 1 a step: a loss that is scaled, or falls, changes no score.
            self.sketch.insert(keys[kept], shared[kept], norms[kept] / norms[kept].mean().clamp(min=1e-30))
        if step % self.config.every == 0:
            self.sketch.decay(self.config.decay)
            first = not bool((self.sketch.row >= 0).any())
            self._move(*self.sketch.exchange(self.config.threshold), optimizer)
            if first:
                self.own.fit_steps()

    def _move(self, slots: Tensor, rows: Tensor, optimizer: RowOptimizer | None) -> None:
        """Own rows become what the shared rows of the ids in these slots are."""
        if self.by_hash:
            shared = self.sketch.home.view(-1)[slots].long()
        else:
            numbers = self.sketch.key.view(-1)[slots]
            vocabulary = self._vocabulary_of(numbers)
            shared = self.address((numbers - self.first_id[vocabulary]).long(), vocabulary)
        if optimizer is None:
            self.own.write(rows, self.store.read(shared))
        else:
            optimizer.move(self.store, shared, rows, to=self.own)

    def _vocabulary_of(self, numbers: Tensor) -> Tensor:
        return torch.searchsorted(self.first_id, numbers, right=True) - 1

    @torch.no_grad()
    def serving(self) -> EmbeddingTable:
        table = CompactCafeTable(self.vocabularies, self.embedding_dim, self.config, self.options)
        if self.store.device.type != "meta":
            key, row = self.sketch.key.view(-1), self.sketch.row.view(-1)
            slots = (row >= 0).nonzero().squeeze(1)
            slots = slots[key[slots].argsort()]
            table.key[: slots.numel()] = key[slots]
            for name, tensor in self.store.tensors.items():
                table.store.tensors[name].copy_(tensor)
                table.own.tensors[name][: slots.numel()] = self.own.tensors[name][row[slots].long()]
            for held, made in (self.store, table.store), (self.own, table.own):
                if held.steps is not None and made.steps is not None:
                    made.steps.load_state_dict(held.steps.state_dict())
            table.findings = self.learned()
        return table.serving()

    def learned(self) -> tuple[Finding, ...]:
        if self.by_hash:
            return ()
        owners = self._vocabulary_of(self.sketch.key[self.sketch.row >= 0])
        counts = torch.bincount(owners, minlength=len(self.vocabularies)).tolist()
        names = [v.name for v in self.vocabularies]
        note = "Ids that own a row at the end of training; those of a vocabulary that is kept whole need none of these."
        return (by_vocabulary("Ids with a row of their own", note, "ids", dict(zip(names, counts, strict=True))),)
