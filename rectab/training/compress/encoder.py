"""One finished run, encoded to any budget: one option table for all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from rectab.id_bytes import IdRange, map_bytes
from rectab.models import CTRModel, with_table
from rectab.quantize.allocate import Allocation
from rectab.quantize.blocks import Block, finest_blocks, first_alone
from rectab.quantize.encodings import Shared
from rectab.quantize.options import OptionTable
from rectab.quantize.predict import Inflation, expected_loss
from rectab.quantize.rivals import RIVALS, SMALLEST, Shape, allocate_shape, smallest_rival
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.family import InfeasibleBudget
from rectab.tables.quantized import FIXED_BYTES, HEADER_BYTES, QuantizedTable, encode_table
from rectab.tables.quantizing import uniform_bytes
from rectab.training.compress.expected import expected_metrics
from rectab.training.compress.kept import kept_allocation
from rectab.training.compress.mapped import id_bits, omitted_ids, salt_bytes, smallest_map
from rectab.training.compress.source import FullRun
from rectab.training.evaluation import predict

_PROBES = (0.2, 0.05, 0.015, 0.004)  # shares of the full table whose encodings are tried for the prediction
_PROBE_ROWS = 20_000
_FACTORS_COUNTED = (4.0, 2.0)  # of traffic within a block, where ids are counted
_REFILLS = 6
_SPARE = 0.001  # of a budget, not worth another round

__all__ = ["Encoded", "Encoder"]


@dataclass(frozen=True)
class Encoded:
    """A run's model whose table has been encoded.

    Attributes:
        run: the run that it was made of.
        budget_bytes: what the table, or it and the map from raw values to ids, had to fit into.
        allocation: what every block is held in.
        model: with the encoded table; all else is the run's.
        expected: metrics on validation that were predicted before the table was encoded.
        valid: metrics on validation that were measured then.
        seconds: of the parts: ``allocation``, ``encoding``, ``validation``.
    """

    run: FullRun
    budget_bytes: int
    allocation: Allocation
    model: CTRModel
    expected: dict[str, float]
    valid: dict[str, float]
    seconds: dict[str, float]

    @property
    def serving_bytes(self) -> int:
        """Of the table, counted."""
        return self.model.table.ledger().bytes

    @property
    def omitted(self) -> dict[str, list[IdRange]]:
        """By vocabulary, the ids that read what id 0 reads, and need not be in the map."""
        return omitted_ids(self.allocation, self.run.dataset.schema)

    @property
    def map_bytes(self) -> int:
        """Of the map without the ids that it can leave out."""
        return map_bytes(self.run.dataset.schema, self.omitted)


@dataclass
class Encoder:
    """Encodes the table of a finished run.

    Attributes:
        run: the run.
        count_ids: budgets are of the table and the map from raw values to ids together.
        shape: ``best``, or that of a rival (:mod:`rectab.quantize.rivals`), whose loss is predicted without probes.
        seconds: of what is done once: ``sensitivity`` (traffic and gradients), ``options`` (the option table),
            ``full validation`` and ``prediction`` (its probes).
    """

    run: FullRun
    count_ids: bool = False
    shape: Shape = "best"
    seconds: dict[str, float] = field(default_factory=dict)

    @cached_property
    def blocks(self) -> list[list[Block]]:
        """The finest blocks of every vocabulary."""
        return self._layouts[0]

    @cached_property
    def _layouts(self) -> list[list[list[Block]]]:
        """Finest blocks to begin with. Where ids are counted, all but id 0 may leave the map, and two ways of cutting
        are tried, for neither is the better one at every budget."""
        traffic = list(enumerate(self.run.traffic))
        if not self.count_ids:
            return [[finest_blocks(*held) for held in traffic]]
        return [[first_alone(finest_blocks(*held, factor)) for held in traffic] for factor in _FACTORS_COUNTED]

    @cached_property
    def _unmeasured(self) -> OptionTable:
        with _timed(self.seconds, "sensitivity"):
            weights, sensitivity = self.run.weights, self.run.sensitivity
        seed = self.run.result.train["seed"]
        bits = id_bits(self.run.dataset.schema) if self.count_ids else None
        return OptionTable(self.run.vectors, weights, sensitivity, HEADER_BYTES, seed, self.run.rare, bits)

    @cached_property
    def options(self) -> OptionTable:
        """The option table, with the options of the finest blocks in it; a rival asks for none."""
        table = self._unmeasured
        with _timed(self.seconds, "options"):
            for block in (block for blocks in self.blocks for block in blocks if self.shape == "best"):
                table.of(block)
        with _timed(self.seconds, "full validation"):
            _ = self.run.separation
        return table

    @cached_property
    def inflation(self) -> Inflation:
        """What the errors of an allocation stand for, by a few of them tried on rows of validation without labels."""
        valid = self.run.valid_rows
        rows = np.unique(np.linspace(0, len(valid) - 1, min(len(valid), _PROBE_ROWS)).astype(np.int64))
        whole = self.run.outputs[rows]
        errors, losses = [], []
        full = sum(vectors.nbytes for vectors in self.run.vectors)
        _ = self.options
        with _timed(self.seconds, "prediction"):
            for share in _PROBES if self.shape == "best" else ():
                if share * full >= self.smallest_bytes:
                    made = self.allocate(int(share * full))
                    after = predict(with_table(self.run.model, self._table(made)), valid.restrict(rows))
                    errors.append(made.error)
                    losses.append(expected_loss(whole, after))
        return Inflation(self.run.separation, errors, losses)

    def expect(self, allocation: Allocation) -> dict[str, float]:
        """Metrics on validation that an allocation is predicted to reach."""
        return expected_metrics(self.run, self.inflation.change(allocation.error))

    @property
    def smallest_bytes(self) -> int:
        """Bytes of the smallest table that the run can be encoded to."""
        if self.shape != "best":
            return self._fixed_bytes + smallest_rival(self._unmeasured, self.shape)
        vocabularies = self.run.dataset.schema.vocabularies
        return uniform_bytes(vocabularies, self.run.embedding_dim, Shared()) + self._smallest_map

    @property
    def _smallest_map(self) -> int:
        return smallest_map(self.run.dataset.schema, self.blocks, HEADER_BYTES) if self.count_ids else 0

    def allocate(self, budget: int) -> Allocation:
        """The allocation of least error, or a rival's. Raises InfeasibleBudget if none fits into ``budget`` bytes."""
        made = self._allocated(budget, self.shape)
        if not self.count_ids:
            return made
        # An id takes fewer bits once others have left the map.
        asked, step = budget, budget - self._bytes_with_map(made)
        for _ in range(_REFILLS):
            if step < _SPARE * budget:
                break
            more = self._allocated(asked + step, self.shape)
            if self._bytes_with_map(more) <= budget and more.error < made.error:
                made, asked = more, asked + step
                step = budget - self._bytes_with_map(made)
            else:
                step //= 2
        return made

    def _bytes_with_map(self, made: Allocation) -> int:
        schema, width = self.run.dataset.schema, self.run.embedding_dim
        payload = sum(e.bytes(len(b), width) for b, e in zip(made.blocks, made.encodings, strict=True))
        beside = FIXED_BYTES * len(schema.vocabularies) + HEADER_BYTES * len(made.blocks)
        return payload + beside + map_bytes(schema, omitted_ids(made, schema))

    def _allocated(self, budget: int, shape: Shape) -> Allocation:
        within = budget - self._fixed_bytes
        tried = [allocate_shape(shape, self.options, b, self._counts, within) for b in self._layouts]
        made = min((m for m in tried if m is not None), key=lambda m: m.error, default=None)
        if made is None:
            raise InfeasibleBudget("quantized", budget, self.smallest_bytes, SMALLEST[shape])
        return made

    def _allocations(self, budget: int) -> list[Allocation]:
        """That of the least error, and the rivals: where they come close, measuring knows better than errors do."""
        made = [self.allocate(budget)]
        for rival in RIVALS if self.shape == "best" else ():
            with suppress(InfeasibleBudget):
                made.append(self._allocated(budget, rival))
        return made

    @property
    def _counts(self) -> list[np.ndarray]:
        """By which ids are numbered; of a data set that does not keep them, what training looks up."""
        held = [v.counts for v in self.run.dataset.schema.vocabularies]
        return [known if counts is None else counts for counts, known in zip(held, self.run.counts, strict=True)]

    def encode(self, budget: int) -> Encoded:
        """Encode to ``budget`` bytes and measure on validation, which chooses among it and the rivals.

        Raises:
            InfeasibleBudget: nothing fits.
        """
        seconds: dict[str, float] = {}
        _ = self.options
        with _timed(seconds, "allocation"):
            allocations = self._allocations(budget)
        encoded = [self._encoded(allocation, budget, seconds) for allocation in allocations]
        return max(encoded, key=lambda made: made.valid["auc"])

    def keep(self, table: QuantizedTable) -> Encoded:
        """Encode in the blocks and codebooks of another table, and measure on validation."""
        seconds: dict[str, float] = {}
        _ = self.options
        with _timed(seconds, "allocation"):
            allocation = kept_allocation(table, self.options)
        return self._encoded(allocation, table.ledger().bytes, seconds, table)

    def _encoded(
        self, allocation: Allocation, budget: int, seconds: dict[str, float], kept: QuantizedTable | None = None
    ) -> Encoded:
        expected = self.expect(allocation)
        with _timed(seconds, "encoding"):
            model = with_table(self.run.model, self._table(allocation, kept))
        with _timed(seconds, "validation"):
            valid = self.run.measure(model)
        return Encoded(self.run, budget, allocation, model, expected, valid, seconds)

    @cached_property
    def _fixed_bytes(self) -> int:
        """Bytes beside the blocks."""
        return FIXED_BYTES * len(self.blocks) + (salt_bytes(self.run.dataset.schema) if self.count_ids else 0)

    def _table(self, allocation: Allocation, kept: QuantizedTable | None = None) -> EmbeddingTable:
        """The run's table, encoded."""
        vocabularies, width = self.run.dataset.schema.vocabularies, self.run.embedding_dim
        held = TableOptions(device=self.run.model.table.device)
        return encode_table(vocabularies, width, self.options, allocation, held, kept)


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - begin
