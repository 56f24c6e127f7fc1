"""Forward-mode differentiation by the rows of the tables, for any compiler: slopes, and what has none."""

from __future__ import annotations

from typing import Any

from numba_fa.errors import CompileError
from numba_fa.scalar.table import Row
from numba_fa.scalar.term import Term

__all__ = ["name_of", "refuse", "slope_of"]


def refuse(operation: str) -> CompileError:
    """The error for what has no derivative."""
    return CompileError(
        f"a score function that is differentiated uses {operation} on the score or on what was made of it; "
        "that has no derivative (use it on indices, or on values that do not depend on the score)"
    )


_SYMBOLS = {
    "floordiv": "//", "mod": "%", "and": "&", "or": "|", "xor": "^", "lshift": "<<", "rshift": ">>", "invert": "~",
}  # fmt: skip


def name_of(key: Any) -> str:
    """What a user calls an operator or a function."""
    if getattr(key, "__module__", None) != "_operator":
        return f"{key.__name__}()"
    name = key.__name__.rstrip("_")
    return _SYMBOLS.get(name) or _SYMBOLS.get(name[1:]) or f"{name}()"  # in place: ifloordiv


def slope_of(row: Row, operands: list[Any], value: Term) -> Term:
    """The derivative of a row's value; of the operands a number with its own derivative is a pair of Terms."""
    values = [each[0] if isinstance(each, tuple) else each for each in operands]
    assert row.partials is not None
    slope: Any = None
    for operand, partial in zip(operands, row.partials(*values, value), strict=True):
        if isinstance(operand, tuple) and partial is not None:
            term = _times(operand[1], partial)
            slope = term if slope is None else slope + term
    return value.lift(0.0) if slope is None else slope


def _times(slope: Term, partial: Term | float) -> Term:
    if partial == 1.0 or partial == -1.0:
        return slope if partial == 1.0 else -slope
    return slope * partial
