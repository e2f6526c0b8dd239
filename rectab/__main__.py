"""``python -m rectab`` is the ``rectab`` command."""

from rectab.cli import main

if __name__ == "__main__":
    main()
