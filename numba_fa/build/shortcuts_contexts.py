"""More of `shortcuts`: what Numba-CUDA wraps around each step of a compilation, for an error or a warning that hardly comes.

A kernel of 47 functions enters 11 thousand contexts that hold words for an error, and catches warnings 3 thousand times.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from numba_fa.build.shortcuts_passes import Replacement


def replacements() -> Iterator[Replacement]:
    """(owner, attribute, what to put there)."""
    yield from _words_for_errors()
    yield _warnings_caught_once()
    yield from _nothing_to_log()


def _words_for_errors() -> Iterator[Replacement]:
    """What Numba was doing is put into words where there is an error to join them; else no generator runs."""
    from numba.cuda import lowering
    from numba.cuda.core import errors, typeinfer

    words = _words(errors.new_error_context, errors.loc_info, errors._numba_path)
    for module in (errors, typeinfer, lowering):
        yield module, "new_error_context", words


def _words(put: Callable[..., Any], last: dict[str, Any], numba: str) -> type:
    """Contexts as `put` makes them. last: where they leave the last place outside of the folder `numba`."""

    class Words:
        __slots__ = ("given", "named")

        def __init__(self, *given: Any, **named: Any) -> None:
            self.given, self.named = given, named

        def __enter__(self) -> None:
            place = self.named.get("loc")
            if place is not None and not place.filename.startswith(numba):
                last.update(self.named)

        def __exit__(self, kind: Any, error: Any, trace: Any) -> Any:
            if error is not None:
                context = put(*self.given, **self.named)
                context.__enter__()
                return context.__exit__(kind, error, trace)

    return Words


def _warnings_caught_once() -> Replacement:
    """Of instructions within each other, a call and its callee's, only the outermost sets Python's filters of warnings."""
    from numba.cuda.core.errors import WarningsFixer

    plain, ours, caught = WarningsFixer.catch_warnings, threading.get_ident(), list[Any]()

    class Within:
        """Leaves what others than Numba warn of where it came, for the outermost."""

        __slots__ = ("fixer", "before", "filename", "lineno")

        def __init__(self, fixer: Any, filename: str | None, lineno: int | None) -> None:
            self.fixer, self.filename, self.lineno = fixer, filename, lineno

        def __enter__(self) -> None:
            self.before = len(caught[0])

        def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
            if len(caught[0]) > self.before:
                mine, caught[0][self.before :] = caught[0][self.before :], []
                for one in mine if error is None else ():
                    if issubclass(one.category, self.fixer._category):
                        place = self.filename or one.filename, self.lineno or one.lineno
                        self.fixer._warnings[*place, one.category].add(str(one.message))
                    else:
                        caught[0].append(one)

    @contextmanager
    def outermost(numbas: Any) -> Iterator[None]:
        with numbas:
            with warnings.catch_warnings(record=True) as found:
                caught.append(found)
                try:
                    yield
                finally:
                    caught.clear()
            for one in found:
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)

    def catch_warnings(self: Any, filename: str | None = None, lineno: int | None = None) -> Any:
        if threading.get_ident() != ours:
            return plain(self, filename, lineno)
        return Within(self, filename, lineno) if caught else outermost(plain(self, filename, lineno))

    return WarningsFixer, "catch_warnings", catch_warnings


def _nothing_to_log() -> Iterator[Replacement]:
    """Words for a log that nobody keeps: 46 thousand calls."""
    from numba.cuda.core import byteflow, interpreter, ssa, typeinfer

    for module in (byteflow, interpreter, ssa, typeinfer):
        if not module._logger.isEnabledFor(logging.DEBUG):
            yield module, "_logger", SimpleNamespace(debug=lambda *_, **__: None)
