"""What the rows of the tables do with a Dual among their operands."""

from __future__ import annotations

from typing import Any

from numba.cuda import types
from numba.cuda.typing import signature

from numba_fa.scalar.derivative import name_of, refuse, slope_of
from numba_fa.scalar.table import Row
from numba_fa.scalar.types import DualType, RealType

__all__ = ["differentiate", "signature_of"]


def signature_of(row: Row, key: Any, meeting: DualType, args: Any) -> Any:
    """The signature of a row for operands with a Dual among them; CompileError when the row has no derivative."""
    if row.partials is None and row.gives != "truth":
        raise refuse(name_of(key))
    real = RealType(meeting.fast)
    wanted = [meeting if isinstance(each, DualType) else real for each in args]
    if row.literal and isinstance(args[-1], types.IntegerLiteral):
        wanted[-1] = args[-1]
    return signature(types.boolean if row.gives == "truth" else meeting, *wanted)


def differentiate(row: Row, operands: list[Any], fast: bool) -> Any:
    """The row's value and derivative for operands, a Dual being a pair of Terms: a truth value, or a pair of Terms."""
    values = [each[0] if isinstance(each, tuple) else each for each in operands]
    assert row.real is not None
    value = (row.quick if row.quick and fast else row.real)(*values)
    return value if row.gives == "truth" else (value, slope_of(row, operands, value))
