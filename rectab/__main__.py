"""``python -m rectab`` is the ``rectab`` command."""

from rectab.cli import run

if __name__ == "__main__":
    run()
