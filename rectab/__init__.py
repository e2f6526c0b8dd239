"""rectab: embedding tables for CTR models at any memory budget."""

from typing import Any

__version__ = "0.1.0"
__all__ = [
    "CompressResult",
    "SwapPlan",
    "SwapResult",
    "__version__",
    "compress_",
    "load",
    "load_compressed_",
    "plan_swap",
    "swap_",
]


def __getattr__(name: str) -> Any:
    """What ``rectab`` offers, imported when first used: ``import rectab`` alone does not load torch."""
    if name == "load":
        from rectab.training.served import load

        return load
    if name in __all__:
        from rectab import swap

        return getattr(swap, name)
    raise AttributeError(f"module 'rectab' has no attribute {name!r}")
