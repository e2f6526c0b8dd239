"""Budgets at which tables that are small while they train take equally many bytes to train, as entries of a sweep file.

    python bench/equal_training.py data/criteo --dim 16 >> bench/sweeps/equal_training_criteo.toml

A share is of the bytes that training the full table takes (rows, state of Adam, best weights). What is printed are
serving budgets, found by bisection on the bytes that ``plan`` counts: a serving budget fixes what training takes.
"""

from __future__ import annotations

import argparse

from rectab.data import PreparedDataset
from rectab.tables import InfeasibleBudget, TableOptions, full_table_bytes, plan

METHODS = ("hashed", "unified", "adaptemb", "cafe", "alpt")
WITHOUT_ROWS = ("alpt",)  # holds bytes of its own
CLOSE = 256  # bytes of training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="prepared data set")
    parser.add_argument("--dim", type=int, default=16, help="embedding_dim")
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[25, 10], help="per cent of the full table's training bytes"
    )
    asked = parser.parse_args()
    dataset = PreparedDataset.open(asked.data)
    whole = plan("full", dataset.schema.vocabularies, asked.dim).training.bytes
    for method in METHODS:
        for rows in ("fp32",) if method in WITHOUT_ROWS else ("fp32", "int8"):
            found = [largest(dataset, asked.dim, method, rows, int(whole * share / 100)) for share in asked.shares]
            print(
                f'[[methods]]\nmethod = "{method}"\nrows = "{rows}"\nbudgets = {[f"{n}B" for n in found]}\n'.replace(
                    "'", '"'
                )
            )


def largest(dataset: PreparedDataset, embedding_dim: int, method: str, rows: str, limit: int) -> int:
    """Serving bytes of the largest table of ``method`` that ``limit`` bytes train."""
    vocabularies, options = dataset.schema.vocabularies, TableOptions(rows=rows)
    fits, exceeds, best = 0, full_table_bytes(vocabularies, embedding_dim), 0
    while exceeds - fits > 1:
        budget = (fits + exceeds) // 2
        try:
            made = plan(method, vocabularies, embedding_dim, budget, options=options)
        except InfeasibleBudget:
            fits = budget
            continue
        if made.training.bytes > limit:
            exceeds = budget
            continue
        fits, best = budget, made.serving.bytes
        if limit - made.training.bytes < CLOSE:
            break
    return best


if __name__ == "__main__":
    main()
