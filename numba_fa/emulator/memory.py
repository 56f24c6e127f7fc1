"""Global memory as kernels see it: addresses, flat pointers and tensor maps over NumPy arrays."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from numba_fa.emulator.errors import EmulationError
from numba_fa.emulator.threads import WARP, current

_GUARD = 4096  # bytes between arrays, so that running past one does not reach the next


class Address(int):
    """A global address that knows its GlobalMemory."""

    memory: GlobalMemory


class GlobalMemory:
    """Addresses for C-contiguous arrays. 0 is null and belongs to none."""

    def __init__(self) -> None:
        self._arrays: list[tuple[int, np.ndarray]] = []
        self._next = 1 << 32  # above what 32 bits hold: a kernel that cuts an address misses every array

    def pointer(self, array: np.ndarray) -> Address:
        """The address of `array`'s first byte."""
        if not array.flags.c_contiguous:
            raise ValueError(f"an array with strides {array.strides} is not contiguous")
        return self._place(array.reshape(-1).view(np.uint8))

    def strided_pointer(self, array: np.ndarray) -> Address:
        """The address of element (0, ..., 0) of an array with any strides that are not negative, gaps included."""
        reach = sum((n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True))
        flat = np.lib.stride_tricks.as_strided(array.view(f"V{array.itemsize}"), (1,), (array.itemsize,)).view(np.uint8)
        return self._place(np.lib.stride_tricks.as_strided(flat, (reach + array.itemsize,), (1,)))

    def store(self, address: int, value: np.generic) -> None:
        """Write one scalar; EmulationError when it does not lie in an array or is misaligned."""
        size = value.dtype.itemsize
        data = self.span(address, size, "store")
        data.view(value.dtype)[0] = value

    def span(self, address: int, size: int, what: str) -> np.ndarray:
        """`size` bytes at an address, to read or write; EmulationError when they do not lie in an array."""
        for start, data in self._arrays:
            if start <= address and address + size <= start + data.size:
                if (address - start) % min(size, 16):
                    raise EmulationError(f"{what} of {size} bytes to {address:#x}, which is misaligned")
                return data[address - start : address - start + size]
        raise EmulationError(f"{what} of {size} bytes to {address:#x}, which is in no array")

    def _place(self, data: np.ndarray) -> Address:
        address = Address(self._next)
        address.memory = self
        self._arrays.append((self._next, data))
        self._next += -(-data.size // 256) * 256 + _GUARD
        return address


class FlatPointer:
    """A pointer to element (0, ..., 0) of `array` (any non-negative strides), indexed in elements.

    Only elements of the array may be touched: what lies in the gaps of its strides is an error too.
    """

    def __init__(self, array: np.ndarray, word: Any | None = None) -> None:
        words = array.view(word or array.dtype)
        steps = [stride // words.itemsize for stride in words.strides]
        if min(steps, default=0) < 0:
            raise ValueError(f"strides {array.strides} are negative")
        span = 1 + sum((n - 1) * step for n, step in zip(words.shape, steps, strict=True))
        self._data = np.lib.stride_tricks.as_strided(words, (span,), (words.itemsize,))
        owned = np.zeros(span, bool)
        np.lib.stride_tricks.as_strided(owned, words.shape, tuple(steps))[...] = True
        self._owned = owned.tolist()
        self._size = words.itemsize
        self.loads: Counter[int] = Counter()  # bytes by warp
        self.stores: Counter[int] = Counter()

    def __getitem__(self, index: int) -> np.generic:
        self.loads[_warp()] += self._size
        return self._data[self._checked(index)]

    def __setitem__(self, index: int, value: Any) -> None:
        self.stores[_warp()] += self._size
        self._data[self._checked(index)] = value

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self._owned) or not self._owned[index]:
            raise EmulationError(f"element {index} of a pointer to {len(self._owned)} is not of its array")
        return index


def _warp() -> int:
    """The running thread's warp; outside of kernels 0."""
    return getattr(current(), "index", 0) // WARP


@dataclass
class TensorMap:
    """A TMA descriptor of `array` (batch, seqlen, heads, head_dim), 16-bit words, moving boxes rows x columns.

    The boxes take the 128-byte swizzle; columns is therefore 64. Strides but the last must be multiples of 16 bytes.
    """

    array: np.ndarray
    rows: int
    columns: int

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or self.array.itemsize != 2 or not self.array.size:
            raise ValueError(f"no tensor map describes a {self.array.dtype} array of shape {self.array.shape}")
        if self.array.strides[3] != 2 and self.array.shape[3] > 1:
            raise ValueError(f"strides {self.array.strides}: the last axis must be contiguous")
        if any(n > 1 and stride % 16 for n, stride in zip(self.array.shape[:3], self.array.strides[:3], strict=True)):
            raise ValueError(f"strides {self.array.strides} are no multiples of 16 bytes")
        if self.columns != 64 or not 1 <= self.rows <= 256:
            raise ValueError(f"box of {self.rows} x {self.columns}; 1..256 rows x 64 columns are wanted")
        self.words = self.array.view(np.uint16)

    @property
    def box_bytes(self) -> int:
        """Bytes that a load counts, whether inside the tensor or not."""
        return self.rows * self.columns * 2

    def read(self, column: int, row: int, head: int, batch: int) -> np.ndarray:
        """The box from (column, row) on, (rows, columns) uint16, zeros outside the tensor."""
        box = np.zeros((self.rows, self.columns), np.uint16)
        source, inside = self._overlap(column, row, head, batch)
        if source is not None:
            box[inside] = source
        return box

    def write(self, box: np.ndarray, column: int, row: int, head: int, batch: int) -> None:
        """Write what of the box (rows, columns) uint16 lies inside the tensor."""
        target, inside = self._overlap(column, row, head, batch)
        if target is not None:
            target[...] = box[inside]

    def touched(self, column: int, row: int, head: int, batch: int) -> np.ndarray:
        """Which 16-byte chunks of the box, (rows, 8) bool, hold an element of the tensor."""
        mask = np.zeros((self.rows, self.columns), bool)
        source, inside = self._overlap(column, row, head, batch)
        if source is not None:
            mask[inside] = True
        return mask.reshape(self.rows, -1, 8).any(axis=-1)

    def _overlap(self, column: int, row: int, head: int, batch: int) -> tuple[Any, Any]:
        """(view of the tensor, index of the box) where they overlap; (None, None) when nowhere."""
        batches, seqlen, heads, head_dim = self.words.shape
        if not (0 <= head < heads and 0 <= batch < batches):
            return None, None
        top, bottom = max(row, 0), min(row + self.rows, seqlen)
        left, right = max(column, 0), min(column + self.columns, head_dim)
        if top >= bottom or left >= right:
            return None, None
        inside = (slice(top - row, bottom - row), slice(left - column, right - column))
        return self.words[batch, top:bottom, head, left:right], inside
