"""The table of functions: math's and NumPy's spellings, the code and the derivative of each.

Errors are of float32 arithmetic with the special-function units. Those named `libdevice` are within a few units in the
last place. exp, log and their kin are 2**-22 relative plus what rounding their argument costs: exp(80) is good to 1e-5,
log(x) to 1e-7 absolute.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from numba_fa.scalar.operators import whole_of
from numba_fa.scalar.power import power, power_partials
from numba_fa.scalar.table import Row
from numba_fa.scalar.term import Term, copysign, hardware, libdevice, log2_of, select, simple

__all__ = ["FUNCTIONS"]

LOG2_E, LN_2, LOG10_2 = 1.4426950408889634, 0.6931471805599453, 0.3010299956639812
# 2 pi in two parts, the first short enough for its products with small integers to be exact
TURN_HIGH, TURN_LOW = 6.28125, 2 * math.pi - 6.28125


def tanh(x: Term) -> Term:
    """To 3e-7 absolute and 1e-6 relative: the odd series near 0, else from 2 ** (2 |x| log2 e)."""
    square = x * x
    near = x + x * square * (-1 / 3 + square * (2 / 15 + square * (-17 / 315 + square * (62 / 2835))))
    far = 1.0 - 2.0 * hardware("rcp", hardware("ex2", abs(x) * (2 * LOG2_E)) + 1.0)
    return select(abs(x) < 0.3, near, copysign(far, x))


def log1p(x: Term) -> Term:
    """To 1e-6 relative: near 0 by the series of 2 artanh(x / (2 + x)), else log(1 + x)."""
    ratio = x / (x + 2.0)
    square = ratio * ratio
    series = 2.0 + square * (2 / 3 + square * (2 / 5 + square * (2 / 7 + square * (2 / 9))))
    return select((x > -1 / 3) & (x < 0.5), ratio * series, log2_of(x + 1.0) * LN_2)


def _turned(name: str) -> Callable[[Term], Term]:
    """sine or cosine, absolute error below 1e-6 up to |x| of 1e4: the hardware's, of x less whole turns."""

    def generate(x: Term) -> Term:
        turns = simple("rint", x * (1 / (2 * math.pi)))
        return hardware(name, simple("fma", -turns, TURN_LOW, simple("fma", -turns, TURN_HIGH, x)))

    return generate


sin, cos = _turned("sin"), _turned("cos")


def hypot(x: Term, y: Term) -> Term:
    """Scaled, so that squares do not overflow."""
    a, b = abs(x), abs(y)
    large, small = simple("maximum", a, b), simple("minimum", a, b)
    ratio = small / large
    return select(large.same(0.0), 0.0, large * hardware("sqrt", ratio * ratio + 1.0))


def sign(x: Term) -> Term:
    """-1, 0 or 1."""
    return select(x > 0.0, 1.0, select(x < 0.0, -1.0, x))


def _root_of(y: Term) -> Term:
    return hardware("sqrt", y)


def _row(name: str, real: Callable[..., Any], partials: Any, aliases: tuple[str, ...] = (), **fields: Any) -> Row:
    """A row for math.<name>, np.<name> and np's other names for it."""
    fields.setdefault("gives", "real")
    found = [getattr(math, name, None), *(getattr(np, each, None) for each in (name, *aliases))]
    return Row(tuple(dict.fromkeys(key for key in found if key is not None)), real, None, partials, **fields)


def _library(name: str, partials: Any, aliases: tuple[str, ...] = (), **fields: Any) -> Row:
    return _row(name, lambda *x: libdevice(f"{name}f", *x), partials, aliases, **fields)


def _rounding(name: str) -> Row:
    """math's gives an int."""
    return Row((getattr(math, name),), lambda x: whole_of(simple(name, x)), lambda x: x, gives="whole")


def _rounding_ufunc(name: str) -> Row:
    """NumPy's gives a float."""
    return Row((getattr(np, name),), lambda x: simple(name, x), gives="real")


FUNCTIONS = (
    _row("exp", lambda x: hardware("ex2", x * LOG2_E), lambda x, y: (y,)),
    _row("exp2", lambda x: hardware("ex2", x), lambda x, y: (y * LN_2,)),
    _library("expm1", lambda x, y: (y + 1.0,)),
    _row("log", lambda x: log2_of(x) * LN_2, lambda x, y: (1.0 / x,)),
    _row("log2", log2_of, lambda x, y: (LOG2_E / x,)),
    _row("log10", lambda x: log2_of(x) * LOG10_2, lambda x, y: (LOG2_E * LOG10_2 / x,)),
    _row("log1p", log1p, lambda x, y: (1.0 / (x + 1.0),)),
    _row("sqrt", _root_of, lambda x, y: (0.5 / y,)),
    _library("cbrt", lambda x, y: (1.0 / (3.0 * y * y),)),
    _row("tanh", tanh, lambda x, y: (1.0 - y * y,), quick=lambda x: hardware("tanh", x)),
    _library("sinh", lambda x, y: (libdevice("coshf", x),)),
    _library("cosh", lambda x, y: (libdevice("sinhf", x),)),
    _row("sin", sin, lambda x, y: (cos(x),)),
    _row("cos", cos, lambda x, y: (-sin(x),)),
    _row("tan", lambda x: sin(x) / cos(x), lambda x, y: (y * y + 1.0,)),
    _library("asin", lambda x, y: (1.0 / _root_of(1.0 - x * x),), ("arcsin",)),
    _library("acos", lambda x, y: (-1.0 / _root_of(1.0 - x * x),), ("arccos",)),
    _library("atan", lambda x, y: (1.0 / (x * x + 1.0),), ("arctan",)),
    _library("asinh", lambda x, y: (1.0 / _root_of(x * x + 1.0),), ("arcsinh",)),
    _library("acosh", lambda x, y: (1.0 / _root_of(x * x - 1.0),), ("arccosh",)),
    _library("atanh", lambda x, y: (1.0 / (1.0 - x * x),), ("arctanh",)),
    _library("erf", lambda x, y: (1.1283791670955126 * hardware("ex2", x * x * -LOG2_E),)),
    _library("erfc", lambda x, y: (-1.1283791670955126 * hardware("ex2", x * x * -LOG2_E),)),
    _library(
        "atan2", lambda y, x, angle: (x / (x * x + y * y), -y / (x * x + y * y)), ("arctan2",), arities=(2,),
    ),
    _row("hypot", hypot, lambda a, b, y: (a / y, b / y), arities=(2,)),
    Row((math.pow,), power, None, power_partials, gives="real", arities=(2,), literal=True),
    _row(
        "copysign", lambda a, b: copysign(a, b), lambda a, b, y: (select((a < 0.0) ^ (b < 0.0), -1.0, y.lift(1.0)), None),
        arities=(2,),
    ),
    _row("fabs", abs, lambda x, y: (sign(x),)),
    _row("fmod", lambda a, b: libdevice("fmodf", a, b), None, arities=(2,)),
    _rounding("floor"),
    _rounding("ceil"),
    _rounding("trunc"),
    *(_rounding_ufunc(name) for name in ("floor", "ceil", "trunc", "rint")),
    Row((np.sign,), sign, lambda x: x.least(1).greatest(-1)),
    Row((np.square,), lambda x: x * x, lambda x: x * x, lambda x, y: (2.0 * x,)),
    Row((np.reciprocal,), lambda x: 1.0 / x, None, lambda x, y: (-y * y,), gives="real"),
    _row("isnan", lambda x: x.differs(x), None, gives="truth"),
    _row("isinf", lambda x: abs(x).same(math.inf), None, gives="truth"),
    _row("isfinite", lambda x: abs(x) < math.inf, None, gives="truth"),
    Row(
        (np.clip,), lambda x, low, high: simple("minimum", simple("maximum", x, low), high),
        lambda x, low, high: x.greatest(low).least(high),
        lambda x, low, high, y: (
            select((x >= low) & (x <= high), 1.0, y.lift(0.0)), select(x < low, 1.0, y.lift(0.0)),
            select(x > high, 1.0, y.lift(0.0)),
        ),
        arities=(3,),
    ),
)  # fmt: skip
