"""Checkpoints of rows that several processes share out, and of their optimizer's state.

Each process writes what it holds, as pieces of the tensors of the whole table
(:mod:`rectab.swap.torchrec_checkpoint`); all else is in the ordinary file of a checkpoint. So a run goes on in any
number of processes, its rows laid out in another way, shared out or not, whichever it was before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rectab.swap.torchrec_checkpoint import Pieces, load_sharded, save_sharded
from rectab.tables.base import EmbeddingTable
from rectab.tables.shards import Shard
from rectab.training.checkpoint import rows_beside
from rectab.training.optimizers import OptimizerSet

__all__ = ["RowShards"]

_TABLE = "table."
_SAME_IN_ALL_COLUMNS = ("seen", "steps")

State = dict[str, Tensor]
SaveRows = Callable[[Path, bool], None]


class RowShards:
    """The rows of ``table`` and their state, as parts of those of the whole table.

    Args:
        table: that is trained.
        optimizers: of it; None reads its rows alone.
    """

    def __init__(self, table: EmbeddingTable, optimizers: OptimizerSet | None = None) -> None:
        held = table.shards()
        self.apart = held is not None
        """Whether other processes hold other rows."""
        self._optimizers = optimizers
        self._shards = list(_whole_stores(table) if held is None else held)

    # Checkpoints.

    def set_apart(self, content: dict[str, Any], best: State | None) -> tuple[State | None, SaveRows | None]:
        """Take rows that are apart, and their state, out of a checkpoint.

        Args:
            content: ``model`` and ``optimizers`` of it; changed.
            best: the best weights.

        Returns:
            The best weights without them, and what writes them into a folder: those of now with their state (False), or
            the best (True). All as it is, and None, where nothing is apart.
        """
        if not self.apart:
            return best, None
        rows = content["model"]
        content["model"] = self._without_rows(rows)
        content["optimizers"] = [
            {**state, "state": {}} if part == "rows" else state for part, state in self._by_part(content["optimizers"])
        ]

        def save(folder: Path, of_best: bool) -> None:
            save_sharded(folder, self._pieces(best if of_best and best is not None else rows, not of_best, saves=True))

        return None if best is None else self._without_rows(best), save

    def take_up(self, path: Path, content: dict[str, Any], best: State | None, own: State) -> State | None:
        """Bring the rows of a checkpoint, whichever way they were laid out, to where they are now.

        Args:
            path: of the checkpoint.
            content: of it; ``model`` and ``optimizers`` become what the model and the optimizers here load.
            best: its best weights.
            own: the state of the model here, which is filled.

        Returns:
            The best weights here.

        Raises:
            FileNotFoundError: rows that are apart are not there.
            ValueError: they are damaged, or of another table.
        """
        if content["rows"] is not None:
            load_sharded(path.with_name(content["rows"]), self._pieces(own, True, saves=False))
            content["model"] = {**own, **content["model"]}
            mine = dict(self._by_part(self._optimizers_state()))
            content["optimizers"] = [
                {**state, "state": mine["rows"]["state"]} if part == "rows" else state
                for part, state in self._by_part(content["optimizers"])
            ]
            if best is not None:
                best = {**{name: tensor.clone() for name, tensor in own.items()}, **best}
                load_sharded(rows_beside(path.with_name(content["best"])), self._pieces(best, False, saves=False))
        elif self.apart:
            content["model"] = self.of_whole(content["model"])
            ends = [(shard, f"{shard.store}.", f"{shard.name}.") for shard in self._shards]
            content["optimizers"] = [
                {**state, "state": _taken(state["state"], ends)} if part == "rows" else state
                for part, state in self._by_part(content["optimizers"])
            ]
            best = None if best is None else self.of_whole(best)
        return best

    def of_whole(self, state: State) -> State:
        """The state of the model here, of one whose rows are not apart."""
        if not self.apart:
            return state
        # What else a table of plain rows keeps follows from its plan, which torchrec's addressing has read.
        rest = {name: tensor for name, tensor in state.items() if not name.startswith(_TABLE)}
        return rest | _taken(state, [(s, f"{_TABLE}{s.store}.", f"{_TABLE}{s.name}.") for s in self._shards])

    # Pieces.

    def _without_rows(self, state: State) -> State:
        return {name: tensor for name, tensor in state.items() if self._of_row(name) is None}

    def _optimizers_state(self) -> list[dict[str, Any]]:
        assert self._optimizers is not None
        return self._optimizers.state_dict()

    def _by_part(self, states: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
        """(what it is of, state) of each of the optimizers."""
        assert self._optimizers is not None
        parts = [*self._optimizers.by_part, *("extra" for _ in self._optimizers.extra)]
        return list(zip(parts, states, strict=True))

    def _of_row(self, name: str) -> Shard | None:
        return next((shard for shard in self._shards if name.startswith(f"{_TABLE}{shard.name}.")), None)

    def _pieces(self, model: State, with_state: bool, saves: bool) -> dict[str, dict[str, Pieces]]:
        found: dict[str, dict[str, Pieces]] = {"rows": self._joined(self._rows(model))}
        if with_state:
            state = self._state()
            # Parts of the same rows have the same numbers of steps; one of them writes these.
            once = (e for e in state if not (saves and e[1] in _SAME_IN_ALL_COLUMNS and e[0].first_column))
            found["state"] = self._joined(once)
        return found

    def _rows(self, model: State) -> Iterator[tuple[Shard, str, Tensor]]:
        for name, tensor in model.items():
            if (shard := self._of_row(name)) is not None:
                yield shard, name.removeprefix(f"{_TABLE}{shard.name}."), tensor

    def _state(self) -> list[tuple[Shard, str, Tensor]]:
        """(shard, name, tensor) of what the optimizer of the rows holds."""
        held = dict(self._by_part(self._optimizers_state())).get("rows", {}).get("state", {})
        by_name = {f"{shard.name}.": shard for shard in self._shards}
        return [
            (shard, key.removeprefix(start), tensor)
            for key, tensor in held.items()
            for start, shard in by_name.items()
            if key.startswith(start)
        ]

    @staticmethod
    def _joined(entries: Any) -> dict[str, Pieces]:
        found: dict[str, Pieces] = {}
        for shard, key, tensor in entries:
            name, shape = f"{shard.store}.{key}", shard.shape[: tensor.dim()]
            before = found[name].held if name in found else ()
            found[name] = Pieces(shape, (*before, (shard.offsets(tensor), tensor)))
        return found


def _whole_stores(table: EmbeddingTable) -> Iterator[Shard]:
    for name, store in table.row_stores():
        shape = (store.num_rows, store.row_dim)
        yield Shard(name, name, 0, 0, *shape, shape)


@torch.no_grad()
def _taken(whole: State, own: list[tuple[Shard, str, str]]) -> State:
    """By the names here, the parts of tensors of the whole; of (shard, how names begin there, and here)."""
    return {
        here + name.removeprefix(there): shard.of(tensor)
        for shard, there, here in own
        for name, tensor in whole.items()
        if name.startswith(there)
    }
