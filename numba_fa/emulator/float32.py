"""Python's `math` and NumPy's functions as users' functions have them on a GPU: on float32, with no exceptions.

Each result is rounded to float32 once; the hardware's own errors are in `scalar/functions.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from numba_fa.emulator.namespace import Cast

# math's name -> NumPy's where they differ.
_NUMPY = {
    "acos": "arccos", "acosh": "arccosh", "asin": "arcsin", "asinh": "arcsinh", "atan": "arctan", "atan2": "arctan2",
    "atanh": "arctanh", "pow": "power",
}  # fmt: skip
# math's that NumPy lacks, and those that give integers or truth values.
_BY_PYTHON = ("erf", "erfc", "gamma", "lgamma")
_AS_THEY_ARE = ("ceil", "floor", "trunc", "isfinite", "isinf", "isnan", "gcd")


def _rounded(function: Callable[..., Any]) -> Callable[..., Any]:
    def rounded(*values: Any) -> np.float32:
        return np.float32(function(*[np.float64(np.float32(value)) for value in values]))

    return rounded


def _of_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """NumPy's function, whole numbers staying whole where it lets them."""

    def computed(*values: Any) -> Any:
        whole = all(isinstance(value, int) for value in values)
        result = np.asarray(function(*[value if whole else np.float64(np.float32(value)) for value in values]))
        return result.item() if result.dtype.kind in "biu" else np.float32(result)

    return computed


def _functions_of_math() -> dict[Any, Callable[..., Any]]:
    found = {}
    for name, function in vars(math).items():
        ufunc = getattr(np, _NUMPY.get(name, name), None)
        if name.startswith("_") or not callable(function) or name in _AS_THEY_ARE:
            continue
        if name in _BY_PYTHON or isinstance(ufunc, np.ufunc):
            found[function] = _rounded(function if name in _BY_PYTHON else ufunc)
    return found


# A function of `math` or NumPy -> its namesake on float32.
FUNCTIONS: dict[Any, Callable[..., Any]] = {
    **_functions_of_math(),
    **{value: _of_numbers(value) for value in vars(np).values() if isinstance(value, np.ufunc)},
    np.clip: _of_numbers(np.clip),
    np.where: lambda condition, x, y: x if condition else y,
}
# A number type -> the cast that it is on the device, where wholes have 32 bits as `int` here and fractions too.
CASTS: dict[Any, Any] = {float: np.float32, np.float64: np.float32} | {
    kind: Cast(kind.__name__) for kind in (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32)
}


class Module:
    """Stands for `math` or NumPy: what is in FUNCTIONS or CASTS by its other meaning, the rest as it is."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        return device_meaning(getattr(self.module, name))


MODULES = {math: Module(math), np: Module(np)}


def device_meaning(value: Any) -> Any:
    """What a function or number type means in device code."""
    try:
        return CASTS.get(value) or FUNCTIONS.get(value, value)
    except TypeError:  # unhashable, so neither
        return value
