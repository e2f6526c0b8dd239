"""AutoDim's search: a full table, read through a matrix for every vocabulary that mixes its candidate widths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rectab.optim import RowOptimizer
from rectab.schema import Vocabulary
from rectab.tables.autodim.choice import AlphaStep
from rectab.tables.autodim.config import FORM, AutoDimConfig, CompactAutoDimTable
from rectab.tables.base import TableOptions
from rectab.tables.findings import by_vocabulary, grid
from rectab.tables.ledger import Ledger, bound
from rectab.tables.mde import MDEConfig
from rectab.tables.parts import multiplied
from rectab.tables.ranges import RangeTable
from rectab.tables.registry import build_table, bytes_of

if TYPE_CHECKING:
    from rectab.tables.base import EmbeddingTable
    from rectab.tables.staged import StageRunner

__all__ = ["AutoDimTable", "size_range"]

_MOMENTUM = 0.05
_COOLEST = 0.01


class AutoDimTable(RangeTable[AutoDimConfig]):
    """The full table, times a D x D matrix for each vocabulary that mixes its candidates.

    Memory while training: the full table, and for every vocabulary (candidates + 1) * D^2 numbers.
    """

    second: Tensor
    gain: Tensor
    steps: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: AutoDimConfig,
        options: TableOptions | None = None,
    ) -> None:
        sizes = [v.num_embeddings for v in vocabularies]
        super().__init__(vocabularies, embedding_dim, config, options, sizes, seed=0, learns_steps=False)
        self.candidates = config.candidates(embedding_dim)
        count, choices, device = len(self.vocabularies), len(self.candidates), self.options.device
        self.alpha = nn.Parameter(torch.zeros(count, choices, device=device))
        self.matrix = nn.Parameter(torch.zeros(count, choices, embedding_dim, embedding_dim, device=device))
        self.register_buffer("second", torch.zeros(count, embedding_dim, embedding_dim, device=device))
        self.register_buffer("gain", torch.ones(count, 1, 1, device=device))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=device))
        if self.device.type != "meta":
            self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        dim, generator = self.embedding_dim, torch.Generator().manual_seed(self.options.seed + 1)
        for choice, width in enumerate(self.candidates):
            drawn = torch.randn(len(self.vocabularies), dim, width, generator=generator)
            self.matrix[:, choice, :width] = torch.linalg.qr(drawn).Q.mT.to(self.device) * (dim / width) ** 0.5
        self.second.copy_(torch.eye(dim) * self.options.init_std**2)
        mixed = self._mixed(torch.softmax(self.alpha, 1))
        self.gain.copy_(1.0 / mixed.square().sum(1).mean(-1).sqrt().view(-1, 1, 1))

    def _likelihoods(self) -> Tensor:
        """[V, choices]; drawn by Gumbel noise while the table trains."""
        logits: Tensor = self.alpha
        if self.training:
            logits = logits - torch.empty_like(logits).exponential_().log()
        temperature = (1.0 - self.config.anneal * self.steps).clamp(min=_COOLEST)
        return torch.softmax(logits / temperature, 1)

    def _mixed(self, likelihoods: Tensor) -> Tensor:
        """[V, D, D]: the matrix of every vocabulary."""
        with (
            torch.no_grad()
        ):  # sizes of what candidates give, by the second moments of rows; all are brought to rows' own
            sizes = torch.einsum("vcij,vik,vckj->vc", self.matrix, self.second, self.matrix)
            own = self.second.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
            scale = (own / sizes.clamp(min=1e-30)).sqrt()
        weights = (likelihoods * scale).unsqueeze(-1).unsqueeze(-1)
        # A narrow candidate reads the first dimensions alone: what its matrix has below them is never anything.
        rows = torch.arange(self.embedding_dim, device=self.device)
        read = rows < torch.tensor(self.candidates, device=self.device).unsqueeze(1)
        return self.gain * (weights * self.matrix * read.unsqueeze(-1)).sum(1)

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        vectors = super().lookup(ids, vocabulary)
        owner = vocabulary.expand(ids.shape).reshape(-1)
        flat = vectors.reshape(-1, self.embedding_dim)
        if self.training:
            self._observe(flat.detach().float(), owner)
        return multiplied(flat, owner, self._mixed(self._likelihoods())).view(vectors.shape)

    @torch.no_grad()
    def _observe(self, vectors: Tensor, owner: Tensor) -> None:
        for index in range(len(self.vocabularies)):
            rows = vectors[owner == index]
            if len(rows):
                self.second[index].lerp_((rows.T @ rows / len(rows)).to(self.second.dtype), _MOMENTUM)

    def after_step(self, step: int, optimizer: RowOptimizer | None) -> None:
        self.steps += 1

    def widths(self) -> tuple[int, ...]:
        """The likeliest of every vocabulary; with a budget the likeliest together that fit it."""
        likely = self.alpha.detach().double().cpu().log_softmax(1)
        cost = self._costs()

        def chosen(price: float) -> tuple[int, ...]:
            best = (likely - price * cost).argmax(1).tolist()
            return tuple(self.candidates[choice] for choice in best)

        def fits(price: float) -> bool:
            return budget is None or self._bytes_of(chosen(price)) <= budget

        budget = self.config.budget_bytes
        if fits(0.0):
            return chosen(0.0)
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        return chosen(high)

    def _costs(self) -> Tensor:
        """float64 [V, choices]: bytes of rows and matrix."""
        sizes = torch.tensor([v.num_embeddings for v in self.vocabularies], dtype=torch.float64).unsqueeze(1)
        dim = self.embedding_dim
        matrices = [4 * width * dim if width < dim else 0 for width in self.candidates]
        rows = [self.options.row_bytes(width) for width in self.candidates]
        return sizes * torch.tensor(rows, dtype=torch.float64) + torch.tensor(matrices)

    def _bytes_of(self, widths: tuple[int, ...]) -> int:
        counted = replace(self.options, device="meta")
        return bytes_of(FORM, self.vocabularies, self.embedding_dim, MDEConfig(widths), counted)

    def planned_serving(self) -> Ledger:
        return bound(self.config.budget_bytes, *size_range(self))

    def serving(self) -> CompactAutoDimTable:
        """The table of the widths found so far, as it is before it is trained."""
        config = MDEConfig(self.widths())
        table = build_table(FORM, self.vocabularies, self.embedding_dim, config, self.options)
        assert isinstance(table, CompactAutoDimTable)
        names, shares = [v.name for v in self.vocabularies], self.alpha.detach().softmax(1).double().round(decimals=4)
        note = "Dimensions that the rows of every vocabulary have."
        choices = [str(width) for width in self.candidates]
        table.findings = (
            by_vocabulary("Dimensions per field", note, "dimensions", dict(zip(names, config.widths, strict=True))),
            grid("Choice of widths", "Share of every width, a row a field.", "share", names, choices, shares.tolist()),
        )
        return table

    def train_with(self, trainer: StageRunner) -> EmbeddingTable:
        """Search, then train the chosen widths and the network from scratch."""
        step = AlphaStep(self, trainer)
        trainer.run("search", max_epochs=self.config.search_epochs, frozen=[self.alpha], after_step=step)
        trainer.restart(self.serving())
        trainer.run("retrain")
        return trainer.table


def size_range(table: AutoDimTable) -> tuple[int, int]:
    """Bytes of the smallest form, and bytes that none exceeds."""
    costs = table._costs()
    least, most = (
        table._bytes_of(tuple(table.candidates[choice] for choice in choices.tolist()))
        for choices in (costs.argmin(1), costs.argmax(1))
    )
    return least, most + 24 * len(table.vocabularies)
