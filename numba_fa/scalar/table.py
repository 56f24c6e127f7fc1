"""What a row of the operator tables is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Row"]


@dataclass(frozen=True)
class Row:
    """A Python operator or function and the code it becomes.

    keys: what a user may write, e.g. (math.exp, np.exp).
    real: generator for Terms (`term.py`). index: generator for Wholes, used when all operands are integers; without one
    they become Terms. quick: instead of `real` for RealType(fast=True).
    gives: "number" (a Term makes a Real, a Whole an Index), "real", "whole" or "truth".
    partials: (*operands, result) -> the derivatives by each operand; None: the operation has no derivative to speak of,
    and a number being differentiated must not meet it. A "truth" needs none: a branch follows the value.
    literal: a Python int as the last operand is given to the generator as it is.
    index_exponents: `index` is for literal last operands out of these only.
    """

    keys: tuple[Callable[..., Any], ...]
    real: Callable[..., Any] | None = None
    index: Callable[..., Any] | None = None
    partials: Callable[..., tuple[Any, ...]] | None = None
    gives: str = "number"
    quick: Callable[..., Any] | None = None
    arities: tuple[int, ...] = (1,)
    literal: bool = False
    index_exponents: range | None = None
