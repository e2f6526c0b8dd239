"""What `rectab choose` would answer from trainings that sweeps recorded: its own race, with nothing trained anew.

    python bench/choose_replay.py bench/results/quantized_frappe bench/results/quantized_criteo ... --json out.json

A sweep of the method `quantized` keeps, of every width, validation AUC and seconds. The race of :mod:`rectab.choosing`
runs on them: same rules, same order, no clock. Regret is the test AUC of the sweep's row of the highest mean validation
AUC at that budget, less that of the answer, over the seeds whose test AUC the record holds (it holds that of the chosen
width and, in the row of one width, of the widest).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rectab.choosing.candidates import Candidate
from rectab.choosing.choose import worth_training
from rectab.choosing.race import run_race

Row = dict[int, dict[str, Any]]


def load(folder: Path) -> dict[tuple[str, str], Row]:
    """Results by (method, budget) and seed."""
    rows: dict[tuple[str, str], Row] = {}
    for path in folder.glob("*.json"):
        record = json.loads(path.read_text())
        spec, result = record["spec"], record["result"]
        if result is not None and spec["budget"] is not None:
            rows.setdefault((spec["method_label"], spec["budget"]), {})[spec["seed"]] = result
    return rows


def replay(rows: dict[tuple[str, str], Row], budget: str) -> dict[str, Any]:
    """The answer at a budget, and its regret."""
    runs = rows["quantized", budget]
    of_width = {s: {w["embedding_dim"]: w for w in run["encoded"]["widths"]} for s, run in runs.items()}
    widths = sorted(of_width[0], reverse=True)
    candidates = {f"{w}": Candidate("quantized", "fp32", w, 1, 1, 1, True) for w in widths}
    lost = of_width[0][widths[0]]["full_valid"]["auc"] - of_width[0][widths[0]]["expected"]["auc"]
    order = [str(c.embedding_dim) for c in worth_training(list(candidates.values()), lost)]

    def measure(name: str, seed: int) -> float:
        auc: float = of_width[seed][int(name)]["valid"]["auc"]
        return auc

    race = run_race(order, measure, len(of_width), lambda name, seed: 0.0, lambda: 1.0)
    chosen = race.left[0]
    trained = [(int(name), seed) for name, seeds in race.auc.items() for seed in seeds]
    best = max(
        (key for key in rows if key[1] == budget), key=lambda key: mean([r["valid"]["auc"] for r in rows[key].values()])
    )
    tests = {seed: _test(rows, budget, int(chosen), seed) for seed in runs}
    known = [seed for seed, value in tests.items() if value is not None]
    regret = mean([rows[best][seed]["test"]["auc"] - (tests[seed] or 0.0) for seed in known]) if known else None
    return {
        "budget": budget,
        "predicted loss": lost,
        "answer": int(chosen),
        "valid": race.mean(chosen),
        "best row": best[0],
        "best valid": mean([r["valid"]["auc"] for r in rows[best].values()]),
        "regret": regret,
        "seeds": len(known),
        "trainings": len(trained),
        "training seconds": sum(of_width[seed][width]["train_seconds"] for width, seed in trained),
    }


def _test(rows: dict[tuple[str, str], Row], budget: str, width: int, seed: int) -> float | None:
    for method in ("quantized", "quantized, one width"):
        run = rows.get((method, budget), {}).get(seed)
        if run is not None and run["encoded"]["embedding_dim"] == width:
            auc: float = run["test"]["auc"]
            return auc
    return None


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--budgets", nargs="+", default=["10%", "2%"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    told = {}
    for folder in arguments.folders:
        rows = load(folder)
        told[folder.name] = [replay(rows, budget) for budget in arguments.budgets]
        for answer in told[folder.name]:
            print(folder.name, {k: round(v, 5) if isinstance(v, float) else v for k, v in answer.items()})
    if arguments.json:
        arguments.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
