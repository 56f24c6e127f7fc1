"""Keeps float64 out of user functions: before types are inferred, their float constants become Reals.

So does math.log(8.0) and its like, which Numba would call in float64: in a branch, dozens of slow instructions an
element. Only functions that are compiled for scalars are touched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir as llvm
from numba.cuda.core import ir
from numba.cuda.core.rewrites import Rewrite, register_rewrite
from numba.cuda.cudaimpl import registry as lowering
from numba.cuda.typing.typeof import typeof_impl

from numba_fa.scalar.functions import FUNCTIONS
from numba_fa.scalar.operators import OPERATORS
from numba_fa.scalar.term import F32
from numba_fa.scalar.types import RealType, ScalarType

__all__ = ["FloatsToReals"]

_FOLDED = {key for row in (*OPERATORS, *FUNCTIONS) for key in row.keys}


class _RealConstant(float):
    """A float that Numba types as a Real."""


@typeof_impl.register(_RealConstant)
def _type_of_constant(value: _RealConstant, _: Any) -> RealType:
    return RealType()


@lowering.lower_constant(RealType)
def _constant(context: Any, builder: Any, numba_type: Any, value: float) -> Any:
    with np.errstate(over="ignore"):
        return llvm.Constant(F32, float(np.float32(value)))


class _Unknown(Exception):
    """The value is not known at compile time."""


@register_rewrite("before-inference")
class FloatsToReals(Rewrite):  # type: ignore[misc]
    """Float constants, and what is computed from constants alone, as Reals."""

    def __init__(self, state: Any) -> None:
        arguments = state.args or ()  # a nested function that is to be inlined has none yet
        self._ours = any(isinstance(each, ScalarType) for each in arguments)

    def match(self, func_ir: Any, block: Any, typemap: Any, calltypes: Any) -> bool:
        """Find the floats of a block that are known now."""
        if not self._ours:
            return False
        self._block, self._ir, self._found = block, func_ir, {}
        for statement in block.find_insts(ir.Assign):
            if isinstance(statement.value, ir.Const | ir.Global | ir.FreeVar | ir.Expr):
                try:
                    value = self._value_of(statement.value)
                except _Unknown:
                    continue
                if isinstance(value, float) and not isinstance(value, _RealConstant):
                    self._found[statement] = _RealConstant(value)
        return bool(self._found)

    def apply(self) -> Any:
        """The block with constants in their place."""
        made = self._block.copy()
        made.clear()
        for statement in self._block.body:
            if statement in self._found:
                constant = ir.Const(self._found[statement], statement.loc)
                self._ir._definitions[statement.target.name] = [
                    constant if each is statement.value else each for each in self._ir._definitions[statement.target.name]
                ]
                statement = ir.Assign(constant, statement.target, statement.loc)
            made.append(statement)
        return made

    def _value(self, variable: Any) -> Any:
        """What a variable holds, when it is assigned once."""
        try:
            return self._value_of(self._ir.get_definition(variable))
        except KeyError:
            raise _Unknown from None

    def _value_of(self, value: Any) -> Any:
        """A number, a function or a module."""
        if isinstance(value, ir.Const | ir.Global | ir.FreeVar):
            return value.value
        if not isinstance(value, ir.Expr):
            raise _Unknown
        if value.op == "binop":
            return _number(value.fn, [self._value(value.lhs), self._value(value.rhs)])
        if value.op == "unary":
            return _number(value.fn, [self._value(value.value)])
        if value.op == "call" and not value.kws and not value.vararg:
            return _number(self._value(value.func), [self._value(argument) for argument in value.args])
        owner = self._value(value.value) if value.op == "getattr" else None
        if getattr(owner, "__name__", None) not in ("math", "numpy") or not hasattr(owner, value.attr):
            raise _Unknown
        return getattr(owner, value.attr)


def _number(function: Callable[..., Any], arguments: list[Any]) -> float | int:
    """function(*arguments), when it is one of ours and they are plain numbers; float("-inf") too."""
    try:
        known = function in _FOLDED and all(_is_number(each) or function is float for each in arguments)
        result = function(*arguments) if known else None
    except (ArithmeticError, ValueError, TypeError):
        raise _Unknown from None
    if isinstance(result, float):
        return float(result)
    if type(result) is not int:
        raise _Unknown
    return result


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
