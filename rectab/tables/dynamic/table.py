"""The dynamic table: rows behind a slot map, whose ids change while it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rectab.ops import salt_of
from rectab.ops.dispatch import is_eager
from rectab.ops.hashing import mix, unmix
from rectab.ops.memory import empty_rows
from rectab.ops.slots import EMPTY, TALLY, Admission, Blocks, SlotState, find_rows, shared_rows, take_rows
from rectab.optim import RowOptimizer
from rectab.schema import Vocabulary
from rectab.tables.base import EmbeddingTable, TableOptions
from rectab.tables.dynamic.config import COUNTING, DynamicConfig
from rectab.tables.dynamic.start import start_from_targets
from rectab.tables.fit import FitTarget

__all__ = ["DynamicTable"]

_LATEST = 2**31 - 1
_MANY = 256  # vocabularies whose numbers take two bytes
_OF_INITIAL = {"fresh": 1.0, "small": 0.01, "zero": 0.0}  # values of a row that an id gets, by ``start``


class DynamicTable(EmbeddingTable[DynamicConfig]):
    """One store; vocabulary v owns ``num_rows[v]`` consecutive rows of it, which its ids get and lose. In a pool all
    vocabularies that are not kept whole own the same.

    A lookup in training mode and with gradients counts and ages what it reads, and admits ids; any other lookup changes
    nothing. A row that an id gets starts again: values, and the state that the row optimizer keeps for it. Nothing is
    admitted while gradients wait for a step, or where row gradients have no optimizer. Time is a whole number that
    never falls: the caller's (:meth:`set_clock`), else the number of steps. A row that was used at the present time
    stays its id's, so with a clock of the caller's nothing is evicted twice within a unit of it.

    A fitted vocabulary whose range has a row for every id is kept whole. Any other int64 but -1 can get a row.

    Memory: (sum of num_rows) * (bytes of a row, 8 for the id, 4 for its age, 4 for its count where ``evict`` asks, and
    in a pool 1 or 2 for its vocabulary), 4 * sketch_width, 24 bytes a vocabulary (32 in a pool) and 64.
    """

    ids_move = True
    first_row: Tensor
    num_rows: Tensor
    reserved: Tensor
    identities: Tensor
    last: Tensor
    count: Tensor
    owner: Tensor
    key_salt: Tensor
    sketch: Tensor
    tally: Tensor

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        embedding_dim: int,
        config: DynamicConfig,
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(vocabularies, embedding_dim, config, options)
        rows = config.num_rows
        if len(rows) != len(self.vocabularies) or min(rows) < 1:
            raise ValueError(f"num_rows needs one positive number a vocabulary, got {tuple(rows)}")
        if config.width > embedding_dim:
            raise ValueError(f"dynamic: width {config.width} is more than embedding_dim {embedding_dim}")
        first_row, num_rows, reserved = (list(column) for column in zip(*config.layout(vocabularies), strict=True))
        self.whole = tuple(number < 0 for number in num_rows)
        self.lookup_refuses = all(self.whole)
        total, device = sum(rows), self.options.device
        for name, values in (("first_row", first_row), ("num_rows", num_rows), ("reserved", reserved)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.int64, device=device))
        counted = total if config.evict in COUNTING else 0
        self.register_buffer("identities", empty_rows(total, dtype=torch.int64, device=device).fill_(EMPTY))
        self.register_buffer("last", empty_rows(total, dtype=torch.int32, device=device).zero_())
        self.register_buffer("count", empty_rows(counted, dtype=torch.int32, device=device).zero_())
        owners = torch.uint8 if len(rows) < _MANY else torch.int16
        self.register_buffer("owner", torch.zeros(total if config.pool else 0, dtype=owners, device=device))
        salts = [salt_of(config.seed, "slot", v.name) for v in self.vocabularies] if config.pool else []
        self.register_buffer("key_salt", torch.tensor(salts, dtype=torch.int64, device=device))
        self.register_buffer("sketch", torch.zeros(4, config.sketch_width, dtype=torch.uint8, device=device))
        self.register_buffer("tally", torch.zeros(len(TALLY), dtype=torch.int64, device=device))
        self.rule = config.rule(salt_of(config.seed, "dynamic"))
        self.width = config.width or embedding_dim
        self.init_std = self.options.init_std * (embedding_dim / self.width) ** 0.5  # of the vector, zeros included
        self.store = self.options.row_store(
            total,
            self.width,
            init_std=self.init_std,
            generator=torch.Generator().manual_seed(self.options.seed),
        )
        if config.start == "zero" and self.store.device.type != "meta":
            self._clear_reserved()
        self.evicted: list[tuple[Tensor, Tensor]] | None = None
        """(rows, the ids that lost them) since a caller set it to an empty list; None keeps no record."""

    def _clear_reserved(self) -> None:
        ends = {f + n: r for f, n, r in self.config.layout(self.vocabularies) if r}
        rows = torch.tensor([row for end, count in ends.items() for row in range(end - count, end)], dtype=torch.int64)
        zeros = torch.zeros(rows.numel(), self.width, dtype=self.store.dtype)
        self.store.write(rows.to(self.store.device), zeros.to(self.store.device))

    @property
    def blocks(self) -> Blocks:
        """Where the rows of every vocabulary are."""
        return Blocks(self.first_row, self.num_rows, self.reserved)

    @property
    def state(self) -> SlotState:
        """What is kept for every row."""
        return SlotState(self.identities, self.last, self.count, self.sketch, self.tally)

    def tallies(self) -> dict[str, int]:
        """What has happened so far, by name: see :data:`rectab.ops.slots.TALLY`."""
        return dict(zip(TALLY, self.tally.tolist(), strict=True))

    @torch.no_grad()
    def set_clock(self, now: int) -> None:
        """Say what time it is: a whole number of 0 .. 2^31 - 1 in units of the caller's, such as minutes.

        Raises:
            ValueError: it is outside, or earlier than what it was.
        """
        before = int(self.tally[0])
        if not before <= now <= _LATEST:
            raise ValueError(f"the clock of a dynamic table stands at {before} and goes up to {_LATEST}, got {now}")
        self.tally[0], self.tally[1] = now, 1

    def holds(self, ids: Tensor, vocabulary: Tensor | int) -> Tensor:
        """bool [*]: which ids have a row of their own."""
        columns = vocabulary if isinstance(vocabulary, Tensor) else torch.tensor(vocabulary, device=ids.device)
        keys = self.keys(ids, columns)
        return find_rows(keys, columns, self.blocks, self.identities, self.config.max_probe, shared=False) >= 0

    def keys(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        """int64 [*] ids -> int64 [*]: what identities they have."""
        if not self.config.pool:
            return ids
        return torch.where(self.num_rows[vocabulary] > 0, mix(ids, self.key_salt[vocabulary]), ids)

    def own(self, rows: Tensor, keys: Tensor, vocabulary: Tensor) -> None:
        """Note the vocabularies of ids, int64 [n] each, that are in these rows; of those that share one, nothing."""
        held = self.identities[rows] == keys
        self.owner[rows[held]] = vocabulary[held].to(self.owner.dtype)

    def lookup(self, ids: Tensor, vocabulary: Tensor) -> Tensor:
        ids = ids.expand(torch.broadcast_shapes(ids.shape, vocabulary.shape))
        zeros = self.config.absent == "zero"
        keys = self.keys(ids, vocabulary)
        if self._takes(ids):
            rows = self._take(keys, vocabulary)
            if zeros:
                rows = torch.where(self._is_reserved(rows, vocabulary), -1, rows)
        else:
            rows = find_rows(keys, vocabulary, self.blocks, self.identities, self.config.max_probe, not zeros)
        vectors = self.store(rows) if not zeros else self._or_zeros(rows)
        missing = self.embedding_dim - self.width
        return nn.functional.pad(vectors, (0, missing)) if missing else vectors

    def _or_zeros(self, rows: Tensor) -> Tensor:
        if not is_eager(rows):
            return self.store(rows.clamp(min=0)).masked_fill((rows < 0).unsqueeze(-1), 0.0)
        flat = rows.reshape(-1)
        kept = (flat >= 0).nonzero().squeeze(1)
        found = self.store(flat[kept])
        vectors = found.new_zeros(flat.numel(), self.width).index_copy(0, kept, found)
        return vectors.view(*rows.shape, self.width)

    def _is_reserved(self, rows: Tensor, vocabulary: Tensor) -> Tensor:
        """bool [*]: rows that hold no id, of ids that so have none."""
        size = self.num_rows[vocabulary]
        return (size > 0) & (rows - self.first_row[vocabulary] >= size - self.reserved[vocabulary])

    def _takes(self, ids: Tensor) -> bool:
        if not (self.training and torch.is_grad_enabled() and self.store.trained and is_eager(ids)):
            return False
        return self.options.gradient != "row" or (
            self.store.gradients.optimizer is not None and not self.store.gradients.parts
        )

    @torch.no_grad()
    def _take(self, keys: Tensor, vocabulary: Tensor) -> Tensor:
        number = int(self.tally[4])
        made = take_rows(keys, vocabulary, self.blocks, self.state, self.rule)
        if made.admitted.numel():
            self._restart(made, number)
            if self.config.pool:
                self.own(made.rows.reshape(-1), keys.reshape(-1), vocabulary.expand(keys.shape).reshape(-1))
        if self.options.gradient != "row" and not int(self.tally[1]):
            self.tally[0] += 1  # nobody tells of the steps of an optimizer of torch's
        return made.rows

    def _restart(self, made: Admission, number: int) -> None:
        """Rows of new ids, of which ``number`` came before, start again."""
        rows = made.admitted
        if self.evicted is not None:
            lost = made.replaced != EMPTY
            self.evicted.append((rows[lost], self._ids_of(made.replaced[lost], rows[lost])))
        if self.config.start == "shared":
            values = self.store.read(shared_rows(self.identities[rows], self._block_of(rows), self.blocks))
        else:
            generator = torch.Generator().manual_seed(salt_of(self.options.seed, "admitted", number) & (2**63 - 1))
            values = torch.empty(rows.numel(), self.width, dtype=self.store.dtype)
            std = self.init_std * _OF_INITIAL[self.config.start]
            values = values.normal_(0.0, std, generator=generator).to(self.store.device)
        optimizer = self.store.gradients.optimizer
        if isinstance(optimizer, RowOptimizer):
            optimizer.reset(self.store, rows, values)
        else:
            self.store.write(rows, values)

    def _ids_of(self, identities: Tensor, rows: Tensor) -> Tensor:
        """The ids that have, or until now had, these rows."""
        if not self.config.pool:
            return identities
        return unmix(identities, self.key_salt[self.owner[rows].to(torch.int64)])

    def _block_of(self, rows: Tensor) -> Tensor:
        """A vocabulary that these rows are of."""
        if self.config.pool:
            return torch.full_like(rows, self.whole.index(False))
        return torch.searchsorted(self.first_row, rows, right=True) - 1

    def after_step(self, step: int, optimizer: RowOptimizer | None) -> None:
        """One unit of time more, unless the caller gives the time."""
        self.tally[0] += 1 - self.tally[1]

    def start_from(self, targets: Sequence[FitTarget], seed: int = 0) -> None:
        """Give rows to the ids that occur most, with their vectors; a reserved row is the mean of those it serves."""
        start_from_targets(self, targets)

    def ids_held(self, tensor: Callable[[str], Tensor]) -> dict[str, np.ndarray]:
        held = tensor("identities").cpu() != EMPTY
        rows, identities = held.nonzero().squeeze(1), tensor("identities").cpu()[held]
        if self.config.pool:
            owner = tensor("owner").cpu()[held].to(torch.int64)
            ids = unmix(identities, tensor("key_salt").cpu()[owner])
        else:
            owner, ids = torch.searchsorted(tensor("first_row").cpu(), rows, right=True) - 1, identities
        moving = [(v, name.name) for v, name in enumerate(self.vocabularies) if not self.whole[v]]
        return {name: np.sort(ids[owner == v].numpy()) for v, name in moving}
