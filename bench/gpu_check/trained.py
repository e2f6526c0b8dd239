"""A run through rectab's own trainer on the CPU and on the device, where what it needs beside the core is installed."""

from __future__ import annotations

from typing import Any

from bench.gpu_check.setting import Setting

__all__ = ["trained"]


def trained(setting: Setting) -> list[dict[str, Any]]:
    """Trainer on both devices; a row that says what is missing, on a bare machine."""
    try:
        import rectab.training  # noqa: F401
    except ImportError as error:
        return [{"check": "trainer", "cases": 0, "worst": 0.0, "wrong": [], "left_out": str(error)}]
    return [{"check": "trainer", "cases": 0, "worst": 0.0, "wrong": [], "left_out": "not yet"}]
