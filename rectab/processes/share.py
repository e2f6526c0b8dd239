"""Which rows of a batch a process has, for layers that look beyond a row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rectab.batch import Share

__all__ = ["current_share", "sharing"]

_share: ContextVar[Share | None] = ContextVar("share", default=None)


@contextmanager
def sharing(share: Share | None) -> Iterator[None]:
    """While it lasts, layers in training see a part of a batch: ``share`` says which."""
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)


def current_share() -> Share | None:
    """Which part of a batch runs through the layers; None if all of it does."""
    return _share.get()
