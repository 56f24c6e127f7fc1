"""A kernel's arguments as its emulated threads see them."""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_fa.emulator.errors import EmulationError
from numba_fa.emulator.memory import Address, FlatPointer, GlobalMemory, TensorMap
from numba_fa.emulator.namespace import Cast
from numba_fa.jit import KernelSource

_FLAT = {"float32*": np.float32, "uint16*": np.uint16}


class DeviceArray:
    """An array among a program's arguments: read only, every index checked.

    Elements come as device code computes with them: integers as int, floats as float32.
    """

    def __init__(self, array: np.ndarray) -> None:
        self._data = array
        self.shape, self.ndim, self.size = array.shape, array.ndim, array.size
        # What is none of these is a float; the 16-bit ones of ml_dtypes are of kind "V".
        self._convert: Any = {"b": bool, "i": int, "u": int}.get(array.dtype.kind, np.float32)

    def __getitem__(self, index: Any) -> Any:
        place = index if isinstance(index, tuple) else (index,)
        if len(place) != self.ndim or not all(0 <= i < n for i, n in zip(place, self.shape, strict=True)):
            raise EmulationError(f"element {_worded(place)} of an array of shape {self.shape}")
        return self._convert(self._data[place])

    def __setitem__(self, index: Any, value: Any) -> None:
        raise EmulationError("a function of scores writes to one of its arrays")

    def __len__(self) -> int:
        return self.shape[0]


def bind(source: KernelSource, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The kernel's parameters: those of its signature, then its program's arguments as one tuple where it takes them."""
    tokens = (*source.signature, *source.program)
    if len(arguments) != len(tokens):
        raise TypeError(f"{len(arguments)} arguments for {len(tokens)} parameters")
    memory = next((argument.memory for argument in arguments if isinstance(argument, Address)), None)
    values = tuple(_argument(*pair, memory) for pair in zip(tokens, arguments, strict=True))
    fixed = len(source.signature)
    if not source.program and source.function.__code__.co_argcount == fixed:
        return values
    return (*values[:fixed], values[fixed:])


def _argument(token: str, value: Any, memory: GlobalMemory | None) -> Any:
    """A parameter's value as the kernel sees it."""
    if token == "tensor_map":
        if not isinstance(value, TensorMap):
            raise TypeError(f"{value!r} for a tensor map")
        return value
    if token == "pointer":
        if isinstance(value, Address) and value.memory is not memory or not isinstance(value, int):
            raise TypeError(f"{value!r} for a pointer; those of one GlobalMemory, or 0, are wanted")
        return int(value)
    if token in _FLAT:
        return value if isinstance(value, FlatPointer) else FlatPointer(value, _FLAT[token])
    if token.startswith("array:"):
        return _array(token, value)
    return Cast(token)(value)


def _array(token: str, value: Any) -> DeviceArray:
    _, dtype, axes = token.split(":")
    if not isinstance(value, np.ndarray) or str(value.dtype) != dtype or value.ndim != int(axes):
        met = f"{value.dtype} of {value.ndim} axes" if isinstance(value, np.ndarray) else repr(value)
        raise TypeError(f"{met} for {token}; a NumPy array of {dtype} with {axes} axes is wanted")
    return DeviceArray(value)


def _worded(place: tuple[Any, ...]) -> str:
    return str(tuple(int(i) for i in place))
