"""DNIS's soft-selected table: a full table times a learned selection of dimensions for every block of ids."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rectab.schema import Vocabulary
from rectab.tables.base import TableOptions
from rectab.tables.compact import CompactTable
from rectab.tables.dnis.bilevel import AlphaStep
from rectab.tables.dnis.blocks import assign_blocks
from rectab.tables.dnis.config import DNISConfig, SparseDNISConfig
from rectab.tables.dnis.pruning import Pruner, StructuredChoice, largest_bytes, smallest_bytes
from rectab.tables.dnis.serving import SparseDNISTable, StructuredDNISTable
from rectab.tables.entries import entries_within, kept_shares, largest_entries
from rectab.tables.findings import Finding, by_decile, curve, grid
from rectab.tables.learned import Curve, share_by_decile, slices_of
from rectab.tables.ledger import Ledger, bound
from rectab.tables.ranges import RangeTable
from rectab.tables.registry import build_table

if TYPE_CHECKING:
    from rectab.tables.base import EmbeddingTable
    from rectab.tables.staged import StageRunner

__all__ = ["DNISTable"]


class DNISTable(RangeTable[DNISConfig]):
    """One row an id, times ``alpha`` in [0, 1] of its block of ids.

    Memory while training: the full table, one byte an id, L * D numbers, and their curve. Pruning holds a copy of the
    rows besides.

    Cheng, Shen, Huang, "Differentiable Neural Input Search for Recommender Systems", 2020; the pruning to a given size
    follows its successor AutoSrh (Kong et al., "AutoSrh", TKDE 2022).
    """

    block: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: DNISConfig,
        options: TableOptions | None = None,
    ) -> None:
        sizes = [v.num_embeddings for v in vocabularies]
        super().__init__(vocabularies, embedding_dim, config, options, sizes, seed=0, learns_steps=False)
        device = self.options.device
        self.register_buffer("block", assign_blocks(self.vocabularies, config.blocks, device))
        self.alpha = nn.Parameter(torch.ones(len(config.blocks), embedding_dim, device=device))
        self.alpha_curve = Curve(len(config.blocks), device=device)

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        rows = self.address(ids, vocabulary)
        vectors = self.store(rows)
        return vectors * self.alpha.to(vectors.dtype)[self.block[rows].int()]

    @torch.no_grad()
    def merged(self) -> Tensor:
        """[N, D]: a copy of the rows times their selection."""
        rows = self.store.new_zeros(self.store.num_rows, self.embedding_dim)
        for part in slices_of(self.store.num_rows):
            torch.mul(self.store.read(part), self.alpha[self.block[part].int()], out=rows[part])
        return rows

    def planned_serving(self) -> Ledger:
        """The most that training may end in: the budget, or everything kept."""
        arguments = (self.vocabularies, self.embedding_dim, self.config, self.options)
        return bound(self.config.budget_bytes, smallest_bytes(*arguments), largest_bytes(*arguments))

    def bytes_between_stages(self) -> int:
        """Pruning holds a copy of the rows, their sizes in fp32, a mask, and the table it ends in."""
        held, entries = self.ledger(), self.store.num_rows * self.embedding_dim
        return held.bytes + held.only("rows").bytes + 5 * entries + self.planned_serving().bytes

    def serving(self) -> EmbeddingTable:
        """The merged table pruned to the budget, in the form that keeps more of its magnitude."""
        rows = self.merged()
        pruner = Pruner(self.vocabularies, self.options, rows, self.block, len(self.config.blocks))
        budget, form = self.config.budget_bytes, self.config.served_form
        choice = None if form == "sparse" else pruner.structured(budget)
        count = 0 if form == "structured" or (budget is None and choice is not None) else self._entries_within(budget)
        entries = largest_entries(rows, count) if count else None
        in_entries = 0.0 if entries is None else float(rows.reshape(-1)[entries].double().abs().sum())
        total = float(pruner.mass.sum()) or 1.0
        share = {"structured": choice.magnitude / total if choice else 0.0, "sparse": in_entries / total}
        table: CompactTable[Any]
        if choice is not None and choice.magnitude >= in_entries:
            table = self._structured(pruner, choice)
            kept = choice.kept[self.block.int()].double().mean(1)
        elif entries is not None and entries.numel():
            table = self._sparse(rows, entries)
            kept = kept_shares(entries, rows.shape)
        else:
            raise ValueError(f"dnis: nothing fits {budget} bytes; plan() gives the smallest feasible budget")
        table.findings = self._findings(table, share, kept)
        return table

    def _entries_within(self, budget: int | None) -> int:
        return entries_within(budget, "dnis.sparse", self.vocabularies, self.embedding_dim, self.options)

    def _structured(self, pruner: Pruner, choice: StructuredChoice) -> StructuredDNISTable:
        config = pruner.config_of(choice.kept)
        table = build_table("dnis.structured", self.vocabularies, self.embedding_dim, config, self.options)
        assert isinstance(table, StructuredDNISTable)
        has_rows = choice.kept.any(1) & (torch.tensor(pruner.sizes, device=choice.kept.device) > 0)
        position = torch.where(has_rows, has_rows.cumsum(0) - 1, len(pruner.sizes))
        table.fill(position[self.block.int()], pruner.rows)
        return table

    def _sparse(self, rows: Tensor, entries: Tensor) -> SparseDNISTable:
        config = SparseDNISConfig(entries.numel())
        table = build_table("dnis.sparse", self.vocabularies, self.embedding_dim, config, self.options)
        assert isinstance(table, SparseDNISTable)
        table.fill(entries, rows)
        return table

    def train_with(self, trainer: StageRunner) -> EmbeddingTable:
        """Warm start, bilevel search, then merge, prune and fine-tune; or in the order of AutoSrh.

        Raises:
            ValueError: the vocabularies have no training counts, so there are no blocks.
        """
        if len(self.config.blocks) > 1 and any(v.counts is None for v in self.vocabularies):
            raise ValueError("dnis: the vocabularies have no training counts to sort ids into blocks by")
        trainer.run("warm start", max_epochs=self.config.warm_epochs, frozen=[self.alpha])
        trainer.run(
            "search",
            max_epochs=self.config.search_epochs,
            frozen=[*self._network(trainer), self.alpha],
            after_step=AlphaStep(self, trainer),
        )
        if self._autosrh:
            trainer.run("retrain", max_epochs=self.config.retrain_epochs, frozen=[self.alpha])
        trainer.restart(self.serving(), trainer.model.state_dict())
        tuned = self.config.fine_tune_epochs
        if tuned != 0 and not (tuned is None and self._autosrh):
            trainer.run("fine-tune", max_epochs=tuned)
        return trainer.table

    @property
    def _autosrh(self) -> bool:
        return self.config.schedule == "autosrh"

    def _network(self, trainer: StageRunner) -> list[nn.Parameter]:
        inside = {id(parameter) for parameter in self.parameters()}
        return [parameter for parameter in trainer.model.parameters() if id(parameter) not in inside]

    def records(self) -> tuple[str, ...]:
        return self.alpha_curve.names("alpha_curve")

    def _findings(self, served: CompactTable[Any], share: dict[str, float], kept: Tensor) -> tuple[Finding, ...]:
        """What was learned, of the table it is ``served`` as."""
        kinds = ", ".join(f"{form} {held:.1%}" for form, held in share.items() if held)
        form = f"Served as {served.method}; of the magnitude of all entries there are kept: {kinds}."
        deciles, (steps, means) = share_by_decile(self.vocabularies, kept), self.alpha_curve.points()
        dims = [str(dim) for dim in range(1, self.embedding_dim + 1)]
        found = [
            grid(
                "Soft selection",
                f"Alpha at the end of the search, a row for each block of ids, by dimension. {form}",
                "alpha",
                self._block_names(),
                dims,
                self.alpha.detach().double().round(decimals=4).tolist(),
            )
        ]
        if deciles is not None:
            note = "Per cent of the entries kept in every tenth of the ids, the most frequent tenth on the left."
            found.insert(0, by_decile("Entries kept by id frequency", note, "entries", deciles))
        if steps:
            note = "Mean over dimensions of every block's alpha, by step of the search."
            axes = ("step", "mean alpha")
            found.append(curve("Selection over the search", note, axes, steps, self._block_names(), means))
        return tuple(found)

    def _block_names(self) -> list[str]:
        """The share of ids up to and including each block."""
        sizes = torch.bincount(self.block.int(), minlength=len(self.config.blocks)).tolist()
        ends = [100 * end / max(sum(sizes), 1) for end in accumulate(sizes, initial=0)]
        return [f"{first:.0f}–{last:.0f} %" for first, last in pairwise(ends)]
