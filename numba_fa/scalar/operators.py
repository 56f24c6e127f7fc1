"""The table of operators, comparisons and conversions."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from numba_fa.scalar.power import LONGEST, power, power_partials
from numba_fa.scalar.table import Row
from numba_fa.scalar.term import I32, Term, Whole, hardware, select, simple

__all__ = ["OPERATORS"]

def _binary(name: str, *more: Any, **fields: Any) -> Row:
    """A row for an operator with two operands and for its in-place form."""
    keys = [getattr(operator, name), getattr(operator, "i" + name.rstrip("_"), None), *more]
    return Row(tuple(key for key in keys if key is not None), arities=(2,), **fields)


def floor_division(a: Term, b: Term | int) -> tuple[Term, Term]:
    """(a // b, a % b) as Python means them, right where the quotient is below 2**22. b: a whole number written out too."""
    b = a.lift(b)
    quotient = simple("floor", a * hardware("rcp", b))
    remainder = simple("fma", -quotient, b, a)
    # The reciprocal may be off by a bit, and so the quotient by one.
    low = select(b > 0.0, remainder, -remainder) < 0.0
    high = select(b > 0.0, remainder, -remainder) >= abs(b)
    quotient = select(low, quotient - 1.0, select(high, quotient + 1.0, quotient))
    remainder = select(low, remainder + b, select(high, remainder - b, remainder))
    return quotient, remainder


_UFUNCS = {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
}  # fmt: skip


def _compare(name: str, symbol: str, real: Callable[[Term, Term], Term]) -> Row:
    keys = (getattr(operator, name), _UFUNCS[name])
    return Row(keys, real, lambda a, b: a.compare(symbol, b), gives="truth", arities=(2,))


def whole_of(x: Term) -> Whole:
    """A float that holds an integer, as one."""
    return Whole(x.builder, x.builder.fptosi(x.value, I32), x.value)


def _fold(pair: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def folded(*operands: Any) -> Any:
        result = operands[0]
        for operand in operands[1:]:
            result = pair(result, operand)
        return result

    return folded


def _first_of_equals(*operands: Any) -> tuple[Any, ...]:
    """Of min and max: the derivative goes to the operand that is the result, to the first of equal ones."""
    *candidates, result = operands
    partials, taken = [], None
    for candidate in candidates:
        hit = candidate.same(result)
        mine = hit if taken is None else hit & ~taken
        taken = hit if taken is None else hit | taken
        partials.append(select(mine, 1.0, result.lift(0.0)))
    return tuple(partials)


_EXTREMES = {"arities": tuple(range(2, 9)), "partials": _first_of_equals}

OPERATORS = (
    _binary("add", np.add, real=lambda a, b: a + b, index=lambda a, b: a + b, partials=lambda a, b, y: (1.0, 1.0)),
    _binary("sub", np.subtract, real=lambda a, b: a - b, index=lambda a, b: a - b, partials=lambda a, b, y: (1.0, -1.0)),
    _binary("mul", np.multiply, real=lambda a, b: a * b, index=lambda a, b: a * b, partials=lambda a, b, y: (b, a)),
    _binary(
        "truediv", np.true_divide, real=lambda a, b: a / b, gives="real",
        partials=lambda a, b, y: ((inverse := y.lift(1.0) / b), -y * inverse),
    ),
    _binary(
        "floordiv", np.floor_divide, literal=True,
        real=lambda a, b: floor_division(a, b)[0], index=lambda a, b: a.divided(b)[0],
    ),
    _binary(
        "mod", np.remainder, literal=True,
        real=lambda a, b: floor_division(a, b)[1], index=lambda a, b: a.divided(b)[1],
    ),
    _binary(
        "pow", pow, np.power, literal=True,
        real=power, index=power, index_exponents=range(LONGEST + 1), partials=power_partials,
    ),
    _binary("and_", index=lambda a, b: a.bits("and_", b)),
    _binary("or_", index=lambda a, b: a.bits("or_", b)),
    _binary("xor", index=lambda a, b: a.bits("xor", b)),
    _binary("lshift", index=lambda a, b: a.bits("shl", b)),
    _binary("rshift", index=lambda a, b: a.bits("ashr", b)),
    Row((operator.neg, np.negative), lambda a: -a, lambda a: -a, lambda a, y: (-1.0,)),
    Row((operator.pos, np.positive), lambda a: a, lambda a: a, lambda a, y: (1.0,)),
    Row((operator.invert, np.invert), None, lambda a: ~a),
    Row((abs, np.abs), abs, abs, lambda a, y: (select(a < 0.0, -1.0, select(a > 0.0, y.lift(1.0), 0.0)),)),
    Row((min, np.minimum, np.fmin), _fold(lambda a, b: simple("minimum", a, b)), _fold(Whole.least), **_EXTREMES),
    Row((max, np.maximum, np.fmax), _fold(lambda a, b: simple("maximum", a, b)), _fold(Whole.greatest), **_EXTREMES),
    _compare("lt", "<", lambda a, b: a < b),
    _compare("le", "<=", lambda a, b: a <= b),
    _compare("gt", ">", lambda a, b: a > b),
    _compare("ge", ">=", lambda a, b: a >= b),
    _compare("eq", "==", lambda a, b: a.same(b)),
    _compare("ne", "!=", lambda a, b: a.differs(b)),
    Row((bool, operator.truth), lambda a: a.differs(0.0), lambda a: a.compare("!=", 0), gives="truth"),
    Row((operator.not_, np.logical_not), lambda a: a.same(0.0), lambda a: a.compare("==", 0), gives="truth"),
    Row((int,), lambda a: whole_of(simple("trunc", a)), lambda a: a, gives="whole"),
    Row((round,), lambda a: whole_of(simple("rint", a)), lambda a: a, gives="whole"),
    Row((float,), lambda a: a, None, lambda a, y: (1.0,), gives="real"),
)  # fmt: skip
