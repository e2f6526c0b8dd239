"""What ``pip install rectab`` leaves out: a part of the package that needs more says so, and how to get it.

The core is what :func:`rectab.swap_` and tables need: torch, numpy, numba, safetensors and xxhash.
"""

from __future__ import annotations

from importlib.util import find_spec

__all__ = ["need_extra"]


def need_extra(part: str, extra: str, *modules: str) -> None:
    """Raises ImportError that names the extra, if one of ``modules`` that ``part`` needs cannot be imported."""
    missing = [name for name in modules if not _is_there(name)]
    if missing:
        raise ImportError(
            f"{part} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            f"pip install 'rectab[{extra}]'"
        )


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
