"""What stands for functions of math and NumPy in a program's functions, where Numba has them otherwise than is wanted here.

math.tanh vectorises. np.where and np.clip of numbers give a number, where Numba gives an array or nothing; written in
Python, they are differentiated as what they are made of. math.cbrt is not Numba's.
"""

import math
from types import CellType, FunctionType, ModuleType

import numpy as np
from numba import types
from numba.extending import overload

from numba_fa.kernels.cpu import elementary


def tanh(x):
    return math.tanh(x)


@overload(tanh)
def _tanh_of(x):
    return (lambda x: elementary.tanh(x)) if x == types.float32 else (lambda x: math.tanh(x))


def where(condition, x, y):
    return np.where(condition, x, y)


@overload(where)
def _where_of(condition, x, y):
    if any(isinstance(each, types.Array) for each in (condition, x, y)):
        return lambda condition, x, y: np.where(condition, x, y)
    return lambda condition, x, y: x if condition else y


def clip(a, a_min, a_max):
    return np.clip(a, a_min, a_max)


@overload(clip)
def _clip_of(a, a_min, a_max):
    if isinstance(a, types.Array):
        return lambda a, a_min, a_max: np.clip(a, a_min, a_max)
    return lambda a, a_min, a_max: min(max(a, a_min), a_max)


def _standing_in(module, **functions):
    copy = ModuleType(module.__name__)
    vars(copy).update(vars(module), **functions)
    return copy


_FUNCTIONS = {math.tanh: tanh, np.where: where, np.clip: clip}
if hasattr(math, "cbrt"):
    _FUNCTIONS[math.cbrt] = np.cbrt
_STAND_INS = {id(original): stand_in for original, stand_in in _FUNCTIONS.items()}
for _module in (math, np):
    _named = {name: _STAND_INS[id(value)] for name, value in vars(_module).items() if id(value) in _STAND_INS}
    _STAND_INS[id(_module)] = _standing_in(_module, **_named)
TANH = tanh, math.tanh  # (what stands for it, the function)


def with_stand_ins(function):
    """The function with what stands for its globals and for what it closes over."""
    scope = {name: _STAND_INS.get(id(value), value) for name, value in function.__globals__.items()}
    cells = [CellType(_STAND_INS.get(id(cell.cell_contents), cell.cell_contents)) for cell in function.__closure__ or ()]
    return FunctionType(function.__code__, scope, function.__name__, function.__defaults__, tuple(cells) or None)
