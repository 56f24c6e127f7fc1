"""Forward-mode differentiation: what the rows of the tables do with a Dual among their operands."""

from __future__ import annotations

from typing import Any

from numba.cuda import types
from numba.cuda.typing import signature

from numba_fa.errors import CompileError
from numba_fa.scalar.table import Row
from numba_fa.scalar.term import Term
from numba_fa.scalar.types import DualType, RealType

__all__ = ["differentiate", "refuse", "signature_of"]


def refuse(operation: str) -> CompileError:
    """The error for what has no derivative."""
    return CompileError(
        f"a score function that is differentiated uses {operation} on the score or on what was made of it; "
        "that has no derivative (use it on indices, or on values that do not depend on the score)"
    )


def signature_of(row: Row, key: Any, meeting: DualType, args: Any) -> Any:
    """The signature of a row for operands with a Dual among them; CompileError when the row has no derivative."""
    if row.partials is None and row.gives != "truth":
        raise refuse(_name_of(key))
    real = RealType(meeting.fast)
    wanted = [meeting if isinstance(each, DualType) else real for each in args]
    if row.literal and isinstance(args[-1], types.IntegerLiteral):
        wanted[-1] = args[-1]
    return signature(types.boolean if row.gives == "truth" else meeting, *wanted)


_SYMBOLS = {
    "floordiv": "//", "mod": "%", "and": "&", "or": "|", "xor": "^", "lshift": "<<", "rshift": ">>", "invert": "~",
}  # fmt: skip


def _name_of(key: Any) -> str:
    if getattr(key, "__module__", None) != "_operator":
        return f"{key.__name__}()"
    name = key.__name__.rstrip("_")
    return _SYMBOLS.get(name) or _SYMBOLS.get(name[1:]) or f"{name}()"  # in place: ifloordiv


def differentiate(row: Row, operands: list[Any], fast: bool) -> Any:
    """The row's value and derivative for operands, a Dual being a pair of Terms: a truth value, or a pair of Terms."""
    values = [each[0] if isinstance(each, tuple) else each for each in operands]
    assert row.real is not None
    value = (row.quick if row.quick and fast else row.real)(*values)
    if row.gives == "truth":
        return value
    assert row.partials is not None
    slope: Any = None
    for operand, partial in zip(operands, row.partials(*values, value), strict=True):
        if isinstance(operand, tuple) and partial is not None:
            term = _times(operand[1], partial)
            slope = term if slope is None else slope + term
    return value, value.lift(0.0) if slope is None else slope


def _times(slope: Term, partial: Term | float) -> Term:
    if partial == 1.0 or partial == -1.0:
        return slope if partial == 1.0 else -slope
    return slope * partial
