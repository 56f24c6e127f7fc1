"""Derivatives in plain Python: a float that carries its slope through a user's function, for the twins of gradients.

Operators are differentiated by rule; math's and NumPy's functions by central differences of the function alone, in
float64, which is good to 1e-9. Names that a function imported by themselves (`from math import tanh`) are covered too.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from numba_fa.emulator.float32 import FUNCTIONS, Module

_STEP = 1e-6
# What a kernel's translation has put in place of a library's function -> that function, which has a derivative.
_LIBRARY = {meaning: function for function, meaning in FUNCTIONS.items()}


class Dual(float):
    """A number and its derivative by the score."""

    slope: float

    def __new__(cls, value: Any, slope: Any) -> Dual:
        """The number `value`, which grows by `slope` when the score grows by one."""
        made = super().__new__(cls, value)
        made.slope = float(slope)
        return made

    def __add__(self, other: Any) -> Dual:
        return Dual(float(self) + float(other), self.slope + slope_of(other))

    def __sub__(self, other: Any) -> Dual:
        return Dual(float(self) - float(other), self.slope - slope_of(other))

    def __rsub__(self, other: Any) -> Dual:
        return -(self - other)

    def __mul__(self, other: Any) -> Dual:
        return Dual(float(self) * float(other), self.slope * float(other) + float(self) * slope_of(other))

    def __truediv__(self, other: Any) -> Dual:
        quotient = float(self) / float(other)
        return Dual(quotient, (self.slope - quotient * slope_of(other)) / float(other))

    def __rtruediv__(self, other: Any) -> Dual:
        return Dual(other, 0) / self

    def __pow__(self, other: Any, _: Any = None) -> Dual:
        power = float(self) ** float(other)
        slope = float(other) * float(self) ** (float(other) - 1) * self.slope if self.slope else 0.0
        return Dual(power, slope + (power * math.log(float(self)) * slope_of(other) if slope_of(other) else 0.0))

    def __rpow__(self, other: Any, _: Any = None) -> Dual:
        return Dual(other, 0) ** self

    def __neg__(self) -> Dual:
        return Dual(-float(self), -self.slope)

    def __pos__(self) -> Dual:
        return self

    def __abs__(self) -> Dual:
        return -self if self < 0 else self

    __radd__, __rmul__ = __add__, __mul__
    __array_ufunc__ = None  # a NumPy scalar on the left leaves the operation to this class


def slope_of(value: Any) -> float:
    """The derivative of what a function computed; of what does not depend on the score 0."""
    return value.slope if isinstance(value, Dual) else 0.0


def _lifted(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of floats that passes slopes on."""

    def call(*arguments: Any) -> Any:
        values = [float(each) if isinstance(each, Dual) else each for each in arguments]
        result, slope = function(*values), 0.0
        for i, argument in enumerate(arguments):
            if slope_of(argument):
                step = _STEP * max(1.0, abs(values[i]))
                high, low = (function(*values[:i], values[i] + way, *values[i + 1 :]) for way in (step, -step))
                slope += slope_of(argument) * float(high - low) / (2 * step) if high != low else 0.0
        return Dual(result, slope) if any(isinstance(each, Dual) for each in arguments) else result

    return call


def _where(condition: Any, yes: Any, no: Any) -> Any:
    return yes if condition else no


def _as_float(value: Any) -> Any:
    return value if isinstance(value, Dual) else float(value)


class _Module:
    """math or numpy, differentiated."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return differentiated(getattr(self._module, name))


_SPECIAL: dict[Any, Any] = {np.where: _where, float: _as_float, np.float32: _as_float, np.float64: _as_float}
_PLAIN = {math.isnan, math.isinf, math.isfinite, np.isnan, np.isinf, np.isfinite}


def differentiated(value: Any) -> Any:
    """What stands for a global or closed-over value: modules and functions that know of Duals; functions rebuilt."""
    if value is math or value is np:
        return _Module(value)
    if isinstance(value, Module):
        return _Module(value.module)
    if isinstance(value, types.FunctionType) and value in _LIBRARY:
        return differentiated(_LIBRARY[value])
    if isinstance(value, types.FunctionType):
        names = {*value.__code__.co_names, *value.__code__.co_freevars}
        scope = {name: differentiated(each) for name, each in value.__globals__.items() if name in names}
        scope = {"float": _as_float, **scope, "__builtins__": value.__globals__["__builtins__"]}
        cells = tuple(types.CellType(differentiated(cell.cell_contents)) for cell in value.__closure__ or ())
        return types.FunctionType(value.__code__, scope, value.__name__, value.__defaults__, cells)
    try:
        if value in _SPECIAL:
            return _SPECIAL[value]
        if value in _PLAIN:
            return value
    except TypeError:  # not hashable
        return value
    return _lifted(value) if isinstance(value, np.ufunc | types.BuiltinFunctionType) else value
