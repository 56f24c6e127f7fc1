"""x ** y: products where the exponent is a small integer known now, else by logarithms."""

from __future__ import annotations

from typing import Any

from numba_fa.scalar.term import Term, Whole, hardware, log2_of, select, simple

__all__ = ["power", "power_partials"]

LONGEST = 64  # the greatest exponent that is multiplied out


def power(x: Term | Whole, y: Any) -> Any:
    """x ** y. A Whole to a Python int >= 0 stays one; otherwise relative error about 2**-22 * (1 + |y log2 x|)."""
    exponent = y if isinstance(y, int) else None
    if exponent is None and isinstance(y, Term) and y.constant is not None and y.constant == int(y.constant):
        exponent = int(y.constant)
    if isinstance(x, Whole):
        if exponent is not None and 0 <= exponent <= LONGEST:
            return _product(x, exponent, x.lift(1))
        x = x.real
    if exponent is not None and abs(exponent) <= LONGEST:
        positive = _product(x, abs(exponent), x.lift(1.0))
        return positive if exponent >= 0 else x.lift(1.0) / positive
    y = y.real if isinstance(y, Whole) else x.lift(y)
    if y.constant == 0.5:
        return hardware("sqrt", x)
    return _by_logarithm(x, y)


def _product(x: Any, exponent: int, result: Any) -> Any:
    """x multiplied out by repeated squaring."""
    first = True
    while exponent:
        if exponent & 1:
            result, first = (x if first else result * x), False
        exponent >>= 1
        if exponent:
            x = x * x
    return result


def _by_logarithm(x: Term, y: Term) -> Term:
    magnitude = hardware("ex2", y * log2_of(abs(x) if x.constant is None else x.lift(abs(x.constant))))
    if x.constant is not None and x.constant > 0:
        return magnitude
    nearest = simple("rint", y)
    odd = simple("rint", y * 0.5).differs(y * 0.5)
    negative = select(nearest.same(y), select(odd, -magnitude, magnitude), float("nan"))
    return select(y.same(0.0), 1.0, select(x < 0.0, negative, magnitude))


def power_partials(x: Term, y: Any, result: Term) -> tuple[Term, Any]:
    """y x ** (y - 1) and x ** y log x, the latter 0 where x <= 0."""
    if isinstance(y, int):
        return (x.lift(float(y)) * power(x, y - 1) if y else x.lift(0.0)), None
    slope = y * power(x, y - 1.0) if y.constant is None else power(x, x.lift(y.constant - 1.0)) * y.constant
    return slope, select(x > 0.0, result * log2_of(x) * 0.6931471805599453, 0.0)
