"""Python's `math` as device code has it: on float32, each result rounded to float32, no exceptions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

# math's name -> NumPy's where they differ.
_NUMPY = {
    "acos": "arccos", "acosh": "arccosh", "asin": "arcsin", "asinh": "arcsinh", "atan": "arctan", "atan2": "arctan2",
    "atanh": "arctanh", "pow": "power",
}  # fmt: skip
# Those that NumPy lacks, or that give integers or truth values.
_AS_THEY_ARE = ("ceil", "floor", "trunc", "isfinite", "isinf", "isnan", "gcd")
_BY_PYTHON = ("erf", "erfc", "gamma", "lgamma")


def _rounded(function: Callable[..., Any]) -> Callable[..., Any]:
    def rounded(*values: Any) -> np.float32:
        return np.float32(function(*[np.float64(np.float32(value)) for value in values]))

    return rounded


def _functions() -> dict[Any, Callable[..., Any]]:
    """math's function -> its namesake on float32."""
    found = {}
    for name, function in vars(math).items():
        ufunc = getattr(np, _NUMPY.get(name, name), None)
        if name.startswith("_") or not callable(function) or name in _AS_THEY_ARE:
            continue
        if name in _BY_PYTHON or isinstance(ufunc, np.ufunc):
            found[function] = _rounded(function if name in _BY_PYTHON else ufunc)
    return found


FUNCTIONS = _functions()


class Mathematics:
    """Stands for the module `math`."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(math, name)
        return FUNCTIONS.get(value, value) if callable(value) else value


MATH = Mathematics()
