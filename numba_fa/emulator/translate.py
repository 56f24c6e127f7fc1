"""A kernel's functions rebuilt for Python: intrinsics become their twins, device functions plain functions."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numba.cuda
from numba.cuda.dispatcher import CUDADispatcher
from numba.cuda.extending import _Intrinsic
from numba.cuda.types import Number

from numba_fa.emulator import twins_backward, twins_elementwise, twins_fragment, twins_memory, twins_sync, twins_wgmma
from numba_fa.emulator.errors import EmulationError
from numba_fa.emulator.float32 import MODULES, device_meaning
from numba_fa.emulator.namespace import Cast, Cuda

_TWINS: dict[str, Callable[..., Any]] = {
    twin.__name__: twin
    for module in (twins_backward, twins_elementwise, twins_fragment, twins_memory, twins_sync, twins_wgmma)
    for twin in module.TWINS
}


# Functions of these stay as they are: they hold no device code.
_LIBRARIES = {*sys.stdlib_module_names, "numba_fa.emulator", "numpy", "numba", "pytest"}


def twin_of(intrinsic: Any) -> Callable[..., Any]:
    """The Python function that has an intrinsic's meaning; EmulationError when there is none."""
    if intrinsic.twin is not None:
        return intrinsic.twin
    twin = _TWINS.get(intrinsic.__name__)
    if twin is None:
        raise EmulationError(f"the intrinsic {intrinsic.__name__} has no twin")
    return partial(twin, *intrinsic.parameters) if intrinsic.parameters else twin


class Translator:
    """Rebuilds functions, each once, so that recursion ends and closures stay shared."""

    def __init__(self) -> None:
        self._functions: dict[types.FunctionType, types.FunctionType] = {}

    def function(self, source: types.FunctionType) -> types.FunctionType:
        """`source` with its globals and closure translated; its code is the same."""
        if source in self._functions:
            return self._functions[source]
        names = set(_names(source.__code__))
        scope = {name: self.value(value) for name, value in source.__globals__.items() if name in names}
        if "float" in names:
            scope.setdefault("float", device_meaning(float))
        scope["__builtins__"] = source.__globals__["__builtins__"]
        cells = tuple(types.CellType() for _ in source.__closure__ or ())
        made = types.FunctionType(source.__code__, scope, source.__name__, source.__defaults__, cells)
        self._functions[source] = made
        for cell, old in zip(cells, source.__closure__ or (), strict=True):
            cell.cell_contents = self.value(old.cell_contents)
        return made

    def value(self, value: Any) -> Any:
        """What stands for a global or closed-over value."""
        if isinstance(value, _Intrinsic):
            twin = twin_of(value)
            # What an intrinsic was made from may be a device function, which its twin calls.
            return partial(twin.func, *map(self.value, twin.args)) if isinstance(twin, partial) else twin
        if isinstance(value, CUDADispatcher):
            return self.function(value.py_func)
        if value is numba.cuda:
            return Cuda
        if isinstance(value, Number):
            return Cast(value.name)
        if isinstance(value, types.ModuleType):
            return MODULES.get(value, value)
        if isinstance(value, types.FunctionType) and _root(value) not in _LIBRARIES:
            return self.function(value)
        return device_meaning(value)


def _root(function: types.FunctionType) -> str:
    """The library that a function is from."""
    module = function.__module__ or ""
    return "numba_fa.emulator" if module.startswith("numba_fa.emulator.") else module.partition(".")[0]


def _names(code: types.CodeType) -> Iterator[str]:
    """Global names that a code object and those inside it use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
