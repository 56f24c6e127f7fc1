"""Which functions of a kernel follow from what a user wrote; all others are the same for every function of that kind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NOTES = threading.local()


@contextmanager
def dependents() -> Iterator[list[tuple[str, Any]]]:
    """The (word, function) that this thread makes meanwhile, in their order. The word says what the function is for."""
    before = getattr(_NOTES, "found", None)
    _NOTES.found = []
    try:
        yield _NOTES.found
    finally:
        _NOTES.found = before


def dependent(word: str, function: Any) -> Any:
    """`function`, which is noted where somebody wants to know."""
    found = getattr(_NOTES, "found", None)
    if found is not None:
        found.append((word, function))
    return function
