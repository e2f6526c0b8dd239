"""Command line: ``python -m bench.gpu_check [--only PART ...] [--out FILE] [--dry-run] [--seed N]``."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_CORE = ("torch", "triton", "numpy", "numba", "safetensors", "xxhash")
_OPTIONAL = ("polars", "pydantic", "rich", "psutil", "fbgemm_gpu")


def main(given: Sequence[str] | None = None) -> int:
    """0 if all is right, 1 if something is wrong, 2 if it cannot run here."""
    arguments = _parser().parse_args(given)
    if missing := [name for name in _CORE if find_spec(name) is None]:
        print(f"gpu-check needs {', '.join(missing)}: install them (wheels will do) and run it again", file=sys.stderr)
        return 2
    if arguments.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    import torch

    if not arguments.dry_run and not torch.cuda.is_available():
        print("gpu-check needs a GPU that torch can use; --dry-run checks the kernels without one", file=sys.stderr)
        return 2
    return _run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gpu-check", description="Checks rectab on a GPU, and times it there.")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts; all of them if not given")
    out = os.environ.get("OUT")
    default = Path(out) / "gpu_check.json" if out else Path("runs/gpu_check.json")
    parser.add_argument("--out", type=Path, default=default, help="result, written after every part (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="tiny, on the CPU, kernels in triton's interpreter")
    parser.add_argument("--seed", type=int, help="of all inputs; a fresh one if not given (0 in a dry run)")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    import torch

    from bench.gpu_check.parts import PARTS, missing_parts, run_parts, wrong_of
    from bench.gpu_check.setting import Setting, copy_bandwidth
    from bench.gpu_check.tables import tables

    unknown = sorted(set(arguments.only or ()) - {part.name for part in PARTS})
    if unknown:
        print(f"no parts {unknown}; there are {[part.name for part in PARTS]}", file=sys.stderr)
        return 2
    parts = [part for part in PARTS if not arguments.only or part.name in arguments.only]
    dry = arguments.dry_run
    seed = arguments.seed if arguments.seed is not None else 0 if dry else int.from_bytes(os.urandom(3), "big")
    device = torch.device("cpu" if dry else "cuda")
    setting = Setting(device, dry, seed, copy_bandwidth(device, dry))
    about = _about(setting)
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    result = run_parts(parts, setting, about, arguments.out)
    print(tables(result))
    missing = missing_parts(result, parts)
    if missing:
        print(f"without a result: {', '.join(missing)}", file=sys.stderr)
    return 1 if missing or any(wrong_of(found) for found in result["parts"].values()) else 0


def _about(setting: Any) -> dict[str, Any]:
    """What no number means anything without."""
    import torch
    import triton

    name = (
        torch.cuda.get_device_name(setting.device) if setting.device.type == "cuda" else platform.processor() or "cpu"
    )
    return {
        "device": name,
        "dry": setting.dry,
        "seed": setting.seed,
        "copy_bandwidth": setting.copy_bandwidth,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "not installed": [name for name in _OPTIONAL if find_spec(name) is None],
    }


if __name__ == "__main__":
    sys.exit(main())
