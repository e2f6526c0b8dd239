"""How rows that torchrec holds begin: as the ``init_fn`` of the tables that they take the place of says.

This module needs torchrec; only :mod:`rectab.swap.torchrec` imports it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rectab.swap.torchrec_addressing import Layout
from rectab.tables import Plan

__all__ = ["InitFunction", "init_functions", "shared_std"]

InitFunction = Callable[[Tensor], Any]
"""Fills a weight in place."""

_SAMPLE = (1024, 8)


def init_functions(planned: Plan, layout: Layout, hosts: Mapping[str, InitFunction] | None) -> list[InitFunction]:
    """Of every range of rows: a host table's own where only that table reads the range, else N(0, ``init_std``).

    Args:
        planned: the table.
        layout: its ranges of rows.
        hosts: ``init_fn`` of the host tables, by name; None where there are none.
    """
    readers: list[set[int]] = [set() for _ in layout.ranges]
    for (vocabulary, _), index in layout.table_of.items():
        readers[index].add(vocabulary)
    normal = partial(nn.init.normal_, std=planned.options.init_std)
    return [
        hosts[planned.vocabularies[next(iter(found))].name] if hosts is not None and len(found) == 1 else normal
        for found in readers
    ]


def shared_std(configs: Sequence[Any]) -> float:
    """For rows that several tables share: the geometric mean std of what their ``init_fn`` draw, by number of ids.

    Raises:
        ValueError: an ``init_fn`` draws values that are not spread around zero, which shared rows cannot start from.
    """
    total = weight = 0.0
    for config in configs:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            drawn = torch.zeros(_SAMPLE)
            config.init_fn(drawn)
        mean, std = float(drawn.mean()), float(drawn.std())
        if not std > abs(mean):
            raise ValueError(
                f"table {config.name!r} has an init_fn whose values lie around {mean:.3g}, not around zero; rows that "
                "tables share cannot start so: use method 'full' or 'hashed', or another init_fn"
            )
        total += config.num_embeddings * math.log(std)
        weight += config.num_embeddings
    return math.exp(total / weight)
