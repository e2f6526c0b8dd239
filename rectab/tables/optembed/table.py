"""OptEmbed's supernet: a full table under learned row thresholds and sampled widths."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rectab.optim import RowOptimizer
from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.findings import Finding, by_decile, by_vocabulary, curve
from rectab.tables.learned import Curve, share_by_decile, slices_of
from rectab.tables.ledger import Ledger, bound
from rectab.tables.optembed.config import CompactOptEmbedConfig, OptEmbedConfig
from rectab.tables.optembed.evolution import Evolution, evolve
from rectab.tables.optembed.masks import keep_above_zero, keep_leading, row_norms
from rectab.tables.optembed.search import Fitness
from rectab.tables.optembed.serving import CompactOptEmbedTable
from rectab.tables.optembed.sizing import Shape, Sizer, largest_bytes, row_scales, smallest_bytes
from rectab.tables.ranges import RangeTable
from rectab.tables.registry import build_table

if TYPE_CHECKING:
    from rectab.tables.base import EmbeddingTable
    from rectab.tables.staged import StageRunner

__all__ = ["OptEmbedTable"]


class OptEmbedTable(RangeTable[OptEmbedConfig]):
    """One row an id, times a row mask, times a dimension mask.

    A row is kept if its L1 norm exceeds its vocabulary's threshold (plus a shift, 0 unless a budget asks for one, in
    units of the vocabulary's scale).
    While training, the width of every looked-up vector is drawn uniformly from ``1 .. D``; in evaluation it is its
    vocabulary's, D until the search has found better.

    Memory while training: the full table, five numbers a vocabulary, and the thresholds' curve.

    Lyu et al., "OptEmbed: Learning Optimal Embedding Table for Click-through Rate Prediction", CIKM 2022.
    """

    widths: Tensor
    shift: Tensor
    scales: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: OptEmbedConfig,
        options: TableOptions | None = None,
    ) -> None:
        sizes = [v.num_embeddings for v in vocabularies]
        super().__init__(vocabularies, embedding_dim, config, options, sizes, seed=0, learns_steps=False)
        count, device = len(self.vocabularies), self.options.device
        self.register_buffer("widths", torch.full((count,), embedding_dim, device=device))
        self.register_buffer("shift", torch.zeros((), device=device))
        self.register_buffer("scales", torch.ones(count, device=device))
        if config.search_rows:
            self.threshold = nn.Parameter(torch.zeros(count, device=device))
            self.threshold_curve = Curve(count, device=device)
        if config.pruned == "shared":
            self.shared = self.options.row_store(
                count,
                embedding_dim,
                init_std=self.options.init_std,
                generator=torch.Generator().manual_seed(self.options.seed + 1),
            )

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        vectors = super().lookup(ids, vocabulary)
        vocabulary = vocabulary.expand(ids.shape)
        if self.config.search_rows:
            kept = keep_above_zero(self._margins_of(row_norms(vectors), vocabulary) - self.shift)
            kept = kept.to(vectors.dtype).unsqueeze(-1)
            vectors = vectors * kept
            if self.config.pruned == "shared":
                vectors = vectors + self.shared(vocabulary) * (1 - kept)
        if not self.config.search_dims:
            return vectors
        if self.training:
            widths = torch.randint(1, self.embedding_dim + 1, ids.shape, device=ids.device)
        else:
            widths = self.widths[vocabulary]
        return vectors * keep_leading(widths, self.embedding_dim, vectors.dtype)

    def threshold_push(self) -> Tensor:
        """``alpha * sum(exp(-threshold))``, the loss term that asks for fewer rows."""
        return self.config.alpha * torch.exp(-self.threshold).sum()

    @torch.no_grad()
    def margins(self) -> Tensor:
        """float32 [N]: norm minus threshold of every row, over its vocabulary's scale; infinite where no threshold is
        learned."""
        if not self.config.search_rows:
            return torch.full((self.store.num_rows,), float("inf"), device=self.scales.device)
        return self._margins_of_all(self._norms())

    def _margins_of_all(self, norms: Tensor) -> Tensor:
        sizes = torch.tensor(self.range_sizes, device=norms.device)
        return self._margins_of(norms, torch.arange(len(sizes), device=norms.device).repeat_interleave(sizes))

    def _margins_of(self, norms: Tensor, vocabulary: Tensor) -> Tensor:
        """One arithmetic for the mask and for what is served, so that they agree to the bit."""
        return (norms - self.threshold[vocabulary]) / self.scales[vocabulary]

    def _norms(self) -> Tensor:
        return torch.cat([row_norms(self.store.read(rows)) for rows in slices_of(self.store.num_rows)])

    @torch.no_grad()
    def _sizer(self) -> Sizer:
        """The sizer of the rows as they are; with a budget it sets the scales that rows are ordered by."""
        if self.config.search_rows and self.config.budget_bytes is not None:
            norms = self._norms()
            self.scales.copy_(row_scales(norms, self.vocabularies))
            margins = self._margins_of_all(norms)
        else:
            margins = self.margins()
        return Sizer(self.vocabularies, self.embedding_dim, self.config, self.options, margins)

    def planned_serving(self) -> Ledger:
        """The most that training may end in: the budget, or everything kept."""
        arguments = (self.vocabularies, self.embedding_dim, self.config, self.options)
        return bound(self.config.budget_bytes, smallest_bytes(*arguments), largest_bytes(*arguments))

    def bytes_between_stages(self) -> int:
        """Compacting holds the rows as they were before training, five numbers a row, and the table it ends in."""
        return 2 * self.ledger().bytes + 40 * self.store.num_rows + self.planned_serving().bytes

    def serving(self) -> EmbeddingTable:
        """The rows above their thresholds at the widths found so far, shifted to fit the budget if there is one."""
        self.enter(self._sizer().fit(self.widths.tolist()))
        return self.compacted(self)

    def enter(self, shape: Shape) -> None:
        """Evaluate with this shape from now on."""
        self.widths.copy_(torch.tensor(shape.widths))
        self.shift.fill_(shape.shift)

    @torch.no_grad()
    def compacted(self, source: OptEmbedTable) -> CompactOptEmbedTable:
        """The compact table of this table's shape, with the rows of ``source``."""
        kept = self.margins() > self.shift
        num_rows = [int(part.sum()) for part in kept.split(list(self.range_sizes))]
        shared = self.config.pruned == "shared"
        if not (shared or any(num_rows)):
            raise ValueError(
                f"optembed: the thresholds pruned every row; lower threshold_lr ({self.config.threshold_lr:g}) or "
                f"alpha ({self.config.alpha:g}), or ask for a budget"
            )
        widths = [width if rows or shared else 0 for rows, width in zip(num_rows, self.widths.tolist(), strict=True)]
        config = CompactOptEmbedConfig(tuple(num_rows), tuple(widths), self.config.pruned)
        table = build_table("optembed.compact", self.vocabularies, self.embedding_dim, config, self.options)
        assert isinstance(table, CompactOptEmbedTable)
        table.fill(kept, source.store, source.shared if shared else None)
        return table

    def train_with(self, trainer: StageRunner) -> EmbeddingTable:
        """The paper's three phases: supernet, evolutionary search, retraining from the initial weights."""
        self.train_supernet(trainer)
        search = self.search_shape(trainer)
        compact = self.compacted(self.initial())
        compact.findings = self.findings(search)
        trainer.restart(compact)
        trainer.run("retrain")
        return trainer.table

    def train_supernet(self, trainer: StageRunner) -> None:
        """Rows, network and thresholds; the thresholds have their own SGD."""
        if not self.config.search_rows:
            trainer.run("supernet")
            return
        trainer.run(
            "supernet",
            loss_terms=self.threshold_push,
            extra_optimizers=[torch.optim.SGD([self.threshold], lr=self.config.threshold_lr)],
        )

    @torch.no_grad()
    def after_step(self, step: int, optimizer: RowOptimizer | None) -> None:
        """Keep thresholds at 0 or above: below it they prune nothing, and the order of rows is no longer by norm."""
        if self.config.search_rows:
            self.threshold.clamp_(min=0.0)
            self.threshold_curve.add(step, self.threshold)

    def search_shape(self, trainer: StageRunner) -> dict[str, Any]:
        """Find widths by evolution, each candidate at the shift that fills the budget; enter the best shape."""
        begin, config = time.perf_counter(), self.config
        sizer = self._sizer()
        full = (self.embedding_dim,) * len(self.vocabularies)
        if not config.search_dims:
            self.enter(sizer.fit(full))
            return {}
        fitness = Fitness(trainer, config.evaluation_rows)
        # At a given size, uniform widths are candidates worth a try; without one the full width would win by size.
        starts = [] if config.budget_bytes is None else [(w,) * len(full) for w in _halvings(self.embedding_dim)]
        found: Evolution = evolve(
            len(full),
            self.embedding_dim,
            lambda genomes: fitness([sizer.fit(genome) for genome in genomes], self.enter),
            repair=lambda genome: sizer.fit(genome).widths,
            starts=starts,
            population=config.population,
            generations=config.generations,
            parents=config.parents,
            mutation_probability=config.mutation_probability,
            patience=config.patience,
            seed=config.seed + self.options.seed,
        )
        self.enter(sizer.fit(found.best))
        seconds = time.perf_counter() - begin
        trainer.record_search("evolution", seconds, len(found.fitness))
        return {
            "best_fitness": found.history,
            "candidates": len(found.fitness),
            "rows_scored": fitness.rows_scored,
            "seconds": seconds,
        }

    def initial(self) -> OptEmbedTable:
        """This table as it was before training: its seed gives the same rows."""
        return type(self)(self.vocabularies, self.embedding_dim, self.config, self.options)

    def records(self) -> tuple[str, ...]:
        return self.threshold_curve.names("threshold_curve") if self.config.search_rows else ()

    def findings(self, search: dict[str, Any]) -> tuple[Finding, ...]:
        """What was learned; ``search`` as :meth:`search_shape` gave it."""
        kept = self.margins() > self.shift
        names = [v.name for v in self.vocabularies]
        shares = [float(part.double().mean()) for part in kept.split(list(self.range_sizes))]
        widths = [width if share else 0 for width, share in zip(self.widths.tolist(), shares, strict=True)]
        note = "Dimensions that the rows of every vocabulary keep; 0 where it keeps no row."
        found = [
            by_vocabulary("Dimensions per field", note, "dimensions", dict(zip(names, widths, strict=True))),
            by_vocabulary(
                "Rows kept per field",
                "Per cent of every vocabulary's rows.",
                "rows",
                dict(zip(names, shares, strict=True)),
                share=True,
            ),
        ]
        deciles = share_by_decile(self.vocabularies, kept)
        if deciles is not None:
            note = "Per cent of the rows kept in every tenth of the ids, the most frequent tenth on the left."
            found.insert(0, by_decile("Rows kept by id frequency", note, "rows", deciles))
        if self.config.search_rows:
            steps, values = self.threshold_curve.points()
            if steps:
                note = "Threshold on the L1 norm of rows by training step, a line for each vocabulary."
                found.append(curve("Thresholds over training", note, ("step", "threshold"), steps, names, values))
        if history := search.get("best_fitness"):
            note = (
                "Best fitness so far on the half of validation that the search learns from, lowest seed of every size."
            )
            steps, axes = list(range(1, len(history) + 1)), ("generation", "fitness")
            found.append(curve("Search for dimensions", note, axes, steps, ["fitness"], [[value] for value in history]))
        return tuple(found)


def _halvings(largest: int) -> list[int]:
    """16 -> 16, 8, 4, 2."""
    widths = [largest]
    while widths[-1] > 3:
        widths.append(widths[-1] // 2)
    return widths
