"""Sweeps: a grid of runs, resumable at any kill, their results and the report."""

from rectab.extras import need_extra

need_extra("rectab.sweep", "sweep", "polars", "pydantic", "rich", "psutil", "jinja2")

from rectab.sweep.report import write_report
from rectab.sweep.sweep import run_sweep

__all__ = ["run_sweep", "write_report"]
