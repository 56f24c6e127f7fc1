"""Where biases are a straight line over a tile's keys: score + base + step * (key - the tile's first).

ALiBi is one on either side of the query, and so is every function that adds to the score what is linear in q_idx and
kv_idx between the bends of abs(); T5's bias is one beyond the last border of its buckets. A kernel then spends one
multiply-add an element, by a column's number, which it knows when it is compiled; what belongs to a row joins the row's
maximum. Which functions are such is found by calling them once,
when a kernel is made, with numbers that write down what is done to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product, starmap
from typing import Any

from numba_fa.flash.program import make_program
from numba_fa.problem.dependent import dependent
from numba_fa.problem.tokens import tokens_of

Bend = tuple[str, float, float]  # what must lie below the one or above the other at a whole tile

_LONGEST = 4000  # characters of what a function does; more is left alone


@dataclass(frozen=True)
class Line:
    """Functions that end in `aux`, as a Program's.

    straight(b, h, q_first, q_last, kv_first, kv_last, aux) -> bool: whether for each of these queries the biases make of a
    score: score + base(b, h, q_idx, kv_first, 1, aux) + step(b, h, q_idx, kv_first, 1, aux) * (kv_idx - kv_first), and step
    is one for all. False is always right. base, step(b, h, q_idx, kv_idx, unit, aux) -> what the line is times unit, which
    is above 0: it joins what does not depend on positions, so that no product with it stays in a loop over keys. level:
    whether step is 0 and base the same at all positions for which `straight` holds.
    """

    straight: Any
    base: Any
    step: Any
    level: bool


def make_line(mask: str, bias: str, jit: Callable[[Callable[..., Any]], Any]) -> Line | None:
    """The line of a key's `bias` text; None where its biases are none, as far as is known. `jit`: as of `make_program`."""
    modify = make_program(mask, bias, lambda function: getattr(function, "far", function)).modify
    if modify is None:
        return None
    bends: list[Bend] = []
    b, h = [_Number(name, bends) for name in ("b", "h")]
    q_idx, kv_idx = _Number("q_idx", bends, placed=True), _Number("kv_idx", bends, placed=True, steps=(("1.0", ()),))
    aux = [
        _Array(f"aux[{i}]", bends) if token.startswith("array") else _Number(f"aux[{i}]", bends)
        for i, token in enumerate(tokens_of(mask, bias))
    ]
    try:
        result = modify(_Number("", bends, scored=True), b, h, q_idx, kv_idx, aux)
    except Exception:  # a user's function may fail in any way on numbers that are none; it is no line then
        return None
    if not isinstance(result, _Number) or not result.scored:
        return None
    texts = [result.unit or "0.0", " + ".join(starmap(_signed, result.steps)) or "0.0", *[text for text, _, _ in bends]]
    if sum(map(len, texts)) > _LONGEST:
        return None
    places = "b, h, q_idx, kv_idx"
    scope: dict[str, Any] = {}
    _define(scope, jit, "base", f"{places}, unit, aux", texts[0])
    _define(scope, jit, "step", f"{places}, unit, aux", texts[1])
    for n, (bend, _, _) in enumerate(bends):
        _define(scope, jit, f"bend{n}", f"{places}, aux", _as_float(bend))
    _define(scope, jit, "straight", "b, h, q_first, q_last, kv_first, kv_last, aux", _straight(bends))
    level = not (result.placed or result.steps)
    return Line(*[dependent(name, scope[name]) for name in ("straight", "base", "step")], level)


def _define(scope: dict[str, Any], jit: Callable[..., Any], name: str, arguments: str, value: str) -> None:
    """A function of one expression over those in `scope`."""
    exec(f"def {name}({arguments}):\n    return {value}", scope)
    scope[name] = jit(scope[name])


def _as_float(value: str) -> str:
    """An expression as a float32, whose sign is right where a whole number's 32 bits overflow."""
    return f"({value}) * 1.0"


def _straight(bends: list[Bend]) -> str:
    """Whether each bend is on one side at all corners of the tile, and so everywhere: up to there, all is linear."""
    sides = []
    for n, (_, low, high) in enumerate(bends):
        tile = product(("q_first", "q_last"), ("kv_first", "kv_last"))
        corners = ", ".join(f"bend{n}(b, h, {q_idx}, {kv_idx}, aux)" for q_idx, kv_idx in tile)
        sides.append(f"(min({corners}) > {high} or max({corners}) < {low})")
    return " and ".join(sides) or "True"


def _signed(coefficient: str, bends: tuple[str, ...]) -> str:
    """What one part of a line adds a key, times unit: its sign changes with that of each of `bends`."""
    text = f"({coefficient} * unit)"
    for bend in bends:
        text = f"({text} if {_as_float(bend)} > 0.0 else -{text})"
    return text


class _Bent(Exception):
    """What was done keeps no line."""


def _refuse(*_: Any) -> Any:
    raise _Bent


class _Number:
    """A number that writes itself down, as expressions.

    value: what it is. unit: that times `unit`. steps: what a key adds to it, the sum of coefficients, each with bends that
    it takes the sign of. placed: whether it depends on q_idx or kv_idx; it is linear in both until one of `bends` changes
    its sign. scored: whether it is the score and something more, which the expressions are ("" is nothing more).
    """

    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self, value: str, bends: list[Bend], unit: str | None = None, steps: tuple[tuple[str, tuple[str, ...]], ...] = (),
        *, placed: bool = False, scored: bool = False,
    ) -> None:  # fmt: skip
        self.value, self.bends, self.steps, self.placed, self.scored = value, bends, steps, placed, scored
        self.unit = unit if unit is not None else value and f"({value} * unit)"

    def of(self, other: Any) -> _Number:
        """`other` as a number."""
        if isinstance(other, _Number):
            return other
        if type(other) not in (int, float) or not math.isfinite(other):
            raise _Bent
        return _Number(repr(other), self.bends)

    def __add__(self, other: Any) -> _Number:
        other = self.of(other)
        if self.scored and other.scored:
            raise _Bent
        value, unit = (" + ".join(filter(None, texts)) for texts in ((self.value, other.value), (self.unit, other.unit)))
        return _Number(
            f"({value})", self.bends, f"({unit})", self.steps + other.steps,
            placed=self.placed or other.placed, scored=self.scored or other.scored,
        )  # fmt: skip

    def __neg__(self) -> _Number:
        if self.scored:
            raise _Bent
        steps = tuple((f"(-{coefficient})", bends) for coefficient, bends in self.steps)
        return _Number(f"(-{self.value})", self.bends, f"(-{self.unit})", steps, placed=self.placed)

    def __sub__(self, other: Any) -> _Number:
        other = self.of(other)
        minus = -other
        if not self.value:
            return self + minus
        return _Number(
            f"({self.value} - {other.value})", self.bends, f"({self.unit} - {other.unit})", self.steps + minus.steps,
            placed=self.placed or other.placed, scored=self.scored,
        )  # fmt: skip

    def __mul__(self, other: Any) -> _Number:
        other = self.of(other)
        if self.scored or other.scored or self.placed and other.placed:
            raise _Bent
        factor, line = (other, self) if self.placed else (self, other)
        steps = tuple((f"({coefficient} * {factor.value})", bends) for coefficient, bends in line.steps)
        return _Number(
            f"({self.value} * {other.value})", self.bends, f"({factor.unit} * {line.value})", steps, placed=line.placed
        )

    def __truediv__(self, other: Any) -> _Number:
        other = self.of(other)
        if other.placed or other.scored:
            raise _Bent
        return self * _Number(f"(1.0 / {other.value})", self.bends)

    def __pow__(self, other: Any) -> _Number:
        other = self.of(other)
        if self.placed or self.scored or other.placed or other.scored:
            raise _Bent
        return _Number(f"({self.value} ** {other.value})", self.bends)

    def __abs__(self) -> _Number:
        if self.scored:
            raise _Bent
        if self.placed:
            self.bends.append((self.value, 0.0, 0.0))
        steps = tuple((coefficient, (*bends, self.value)) for coefficient, bends in self.steps)
        return _Number(f"abs({self.value})", self.bends, f"abs({self.unit})", steps, placed=self.placed)

    def outside(self, low: float, high: float, below: int, above: int) -> _Number:
        """`below` where this whole number is `low` or less, `above` where it is `high` or more; nowhere else a line."""
        if self.scored:
            raise _Bent
        self.bends.append((self.value, low + 0.5, high - 0.5))
        return _Number(f"({above} if {_as_float(self.value)} > {high - 0.5} else {below})", self.bends)

    def __pos__(self) -> _Number:
        return self

    def __radd__(self, other: Any) -> _Number:
        return self.of(other) + self

    def __rsub__(self, other: Any) -> _Number:
        return self.of(other) - self

    def __rmul__(self, other: Any) -> _Number:
        return self.of(other) * self

    def __rtruediv__(self, other: Any) -> _Number:
        return self.of(other) / self

    def __rpow__(self, other: Any) -> _Number:
        return self.of(other) ** self

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = _refuse  # type: ignore[assignment]


class _Array:
    """A launch argument that is an array. Elements that all keys of a head share are numbers; others lie on no line."""

    def __init__(self, name: str, bends: list[Bend]) -> None:
        self.name, self.bends = name, bends

    def __getitem__(self, place: Any) -> _Number:
        numbers = [_Number("", self.bends).of(each) for each in (place if isinstance(place, tuple) else (place,))]
        if any(each.placed or each.scored for each in numbers):
            raise _Bent
        return _Number(f"{self.name}[{', '.join(each.value for each in numbers)}]", self.bends)

    __eq__ = __ne__ = __bool__ = __iter__ = _refuse  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]
