"""Table methods from outside the package: modules that register them when they are imported.

A package that is installed names its module in the entry point group ``rectab.tables``. Any other is named in the
environment variable ``RECTAB_PLUGINS`` (several are separated by commas), which the option ``--plugin`` adds to and
the processes of a sweep inherit.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path

__all__ = ["ENTRY_POINTS", "VARIABLE", "add_plugins", "load_plugins", "module_outside", "plugin_names"]

ENTRY_POINTS = "rectab.tables"
VARIABLE = "RECTAB_PLUGINS"

_loaded: set[str] = set()


def plugin_names() -> list[str]:
    """The modules that ``RECTAB_PLUGINS`` names."""
    return [name for part in os.environ.get(VARIABLE, "").split(",") if (name := part.strip())]


def module_outside(kind: type) -> str | None:
    """The module of a class from outside the package; None for rectab's own."""
    return None if kind.__module__.split(".")[0] == "rectab" else kind.__module__


def add_plugins(names: Iterable[str]) -> None:
    """Import modules, here and in every process that this one starts. Raises ValueError for one that cannot be."""
    names = list(dict.fromkeys([*plugin_names(), *names]))
    if names:
        os.environ[VARIABLE] = ",".join(names)
    load_plugins()


def load_plugins() -> None:
    """Import what entry points and ``RECTAB_PLUGINS`` name, each once.

    Raises:
        ValueError: a module that was asked for cannot be imported. Of an installed package it is only a warning: it may
            have nothing to do with what is being done.
    """
    for name in plugin_names():
        if name not in _loaded:
            _loaded.add(name)
            try:
                _import_beside_us(name)
            except Exception as error:
                _loaded.discard(name)
                raise ValueError(f"plugin {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if ENTRY_POINTS not in _loaded:
        _loaded.add(ENTRY_POINTS)
        for entry_point in entry_points(group=ENTRY_POINTS):
            try:
                entry_point.load()
            except Exception as error:
                message = f"the table plugin {entry_point.value!r} cannot be imported: {type(error).__name__}: {error}"
                warnings.warn(message, stacklevel=2)


def _import_beside_us(name: str) -> None:
    """As ``python -m`` would: also from the working directory, which the ``rectab`` command does not look in."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    importlib.import_module(name)
