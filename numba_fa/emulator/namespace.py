"""What a kernel finds under the name `cuda`, and Numba's types as casts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numba_fa.emulator.arrays import LocalArray
from numba_fa.emulator.errors import EmulationError
from numba_fa.emulator.threads import current


class _Axes:
    """A triple x, y, z asked of the running thread."""

    def __init__(self, triple: Callable[[], tuple[int, int, int]]) -> None:
        self._triple = triple

    x = property(lambda self: self._triple()[0])
    y = property(lambda self: self._triple()[1])
    z = property(lambda self: self._triple()[2])


class Cast:
    """A Numba number type: called, it converts; integers wrap as C's do."""

    def __init__(self, name: str) -> None:
        self.dtype = np.dtype(name)
        self._bits = 8 * self.dtype.itemsize
        self._sign = 1 << (self._bits - 1) if self.dtype.kind == "i" else 0

    def __call__(self, value: Any) -> Any:
        if self.dtype.kind == "f":
            return self.dtype.type(value)
        return ((int(value) + self._sign) & ((1 << self._bits) - 1)) - self._sign


class _Shared:
    @staticmethod
    def array(size: int, cast: Cast) -> Any:
        """The block's dynamic shared memory."""
        if size != 0:
            raise EmulationError(f"shared array of {size} elements; only dynamic shared memory (0) is emulated")
        block = current().block
        return block.shared_array(cast.dtype, block.shared.base)


class _Local:
    @staticmethod
    def array(shape: Any, cast: Cast) -> LocalArray:
        """A thread's own array, unwritten."""
        return LocalArray(shape, cast.dtype)


class Cuda:
    """The emulated `cuda` module; blocks are one-dimensional."""

    threadIdx = _Axes(lambda: (current().index, 0, 0))
    blockIdx = _Axes(lambda: current().block.index)
    gridDim = _Axes(lambda: current().block.grid)
    blockDim = _Axes(lambda: (current().block.size, 1, 1))
    shared, local = _Shared, _Local

    @staticmethod
    def syncthreads() -> None:
        """Barrier 0, of all threads of the block."""
        block = current().block
        block.named_barrier(0).come(block.size, wait=True)
