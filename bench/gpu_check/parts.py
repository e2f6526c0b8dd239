"""The parts of the check, in order, and how they are run: the result is written after every one."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu_check.kernels import bags, coalescing, lookups, updates
from bench.gpu_check.models import small_models, waiting
from bench.gpu_check.packed import packed_tables
from bench.gpu_check.row_times import format_times, row_times
from bench.gpu_check.setting import Setting
from bench.gpu_check.step_times import dcnv2_times, din_times
from bench.gpu_check.trained import trained
from bench.gpu_check.writes import writes

__all__ = ["PARTS", "Part", "missing_parts", "run_parts", "wrong_of"]

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """Attributes:
    name: as given to ``--only``.
    run: gives rows: of a check ``check``, ``cases``, ``worst`` and ``wrong``; of times ``name``, ``ms``, ...
    """

    name: str
    run: Callable[[Setting], Rows]


PARTS = (
    Part("lookups", lookups),
    Part("bags", bags),
    Part("coalescing", coalescing),
    Part("updates", updates),
    Part("writes", writes),
    Part("packed", packed_tables),
    Part("models", small_models),
    Part("waiting", waiting),
    Part("trained", trained),
    Part("row_times", row_times),
    Part("format_times", format_times),
    Part("dcnv2_times", dcnv2_times),
    Part("din_times", din_times),
)


def run_parts(parts: Sequence[Part], setting: Setting, about: dict[str, Any], out: Path | None) -> dict[str, Any]:
    """Run them; a part that raises is noted with its error, and the others go on.

    Returns:
        ``about`` with ``parts``: by name ``seconds``, ``rows`` and, if it raised, ``error``.
    """
    result: dict[str, Any] = {**about, "parts": {}}
    for part in parts:
        begin = time.perf_counter()
        found: dict[str, Any] = {"rows": []}
        try:
            found["rows"] = part.run(setting)
        except Exception:
            found["error"] = traceback.format_exc()
        found["seconds"] = round(time.perf_counter() - begin, 2)
        result["parts"][part.name] = found
        _tell(part.name, found)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(result, indent=1))
    return result


def _tell(name: str, found: dict[str, Any]) -> None:
    wrong = wrong_of(found)
    print(f"{name}: {'WRONG' if wrong else 'right'}, {found['seconds']} s", flush=True)
    for line in wrong:
        print(f"  {line}", flush=True)


def wrong_of(found: dict[str, Any]) -> list[str]:
    """What is wrong in the result of a part, in words."""
    lines = found["error"].splitlines()[-12:] if "error" in found else []
    for row in found["rows"]:
        lines += [f"{row['check']}: {case}" for case in row.get("wrong", [])]
    return lines


def missing_parts(result: dict[str, Any], parts: Sequence[Part]) -> list[str]:
    """Names of parts whose result has no rows: a check that compared nothing, or times of nothing."""
    return [part.name for part in parts if not result["parts"].get(part.name, {}).get("rows")]
