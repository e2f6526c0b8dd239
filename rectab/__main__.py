"""``python -m rectab``, and the ``rectab`` command."""

from __future__ import annotations

import sys

from rectab.extras import need_extra

__all__ = ["run"]


def run() -> None:
    """Entry point of the ``rectab`` command; without what the command line needs, one line says what to install."""
    try:
        need_extra("the rectab command", "cli", "typer", "rich", "polars", "pydantic", "psutil")
    except ImportError as error:
        sys.exit(f"rectab: {error}")
    from rectab.cli import run as run_command

    run_command()


if __name__ == "__main__":
    run()
