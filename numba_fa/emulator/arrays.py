"""Arrays that a kernel indexes: views of shared memory, and a thread's local arrays. Every access is checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_fa.emulator.errors import EmulationError, HazardError
from numba_fa.emulator.threads import current


class SharedArray:
    """Shared memory from `address` to the block's end, as elements of `dtype`.

    Two threads that touch an element, one of them writing, with no barrier between, race: HazardError. A warp's own
    lockstep counts for nothing, as on the hardware since Volta.
    """

    def __init__(self, block: Any, dtype: Any, address: int) -> None:
        self._block, self._dtype, self.address = block, np.dtype(dtype), address
        self._shared, self._size = block.shared, self._dtype.itemsize
        self._length = (self._shared.limit - address) // self._size
        self._data = self._shared.bytes[address : address + self._length * self._size].view(self._dtype)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._from(index)
        self._require(index)
        self._shared.read_word(int(self.address + index * self._size), current().index)
        return self._data[index]

    def __setitem__(self, index: int, value: Any) -> None:
        self._require(index)
        self._shared.write_word(int(self.address + index * self._size), self._size, current().index)
        self._data[index] = value

    def _from(self, part: slice) -> SharedArray:
        if part.stop is not None or part.step is not None:
            raise EmulationError(f"shared memory is sliced {part}; only [start:] is emulated")
        return self._block.shared_array(self._dtype, self.address + int(part.start) * self._size)

    def _require(self, index: int) -> None:
        if not 0 <= index < self._length:
            raise EmulationError(f"element {index} of {self._length} in shared memory")


class LocalArray:
    """A thread's own array of `shape`; reading what nothing wrote is an error."""

    def __init__(self, shape: int | tuple[int, ...], dtype: Any) -> None:
        self._shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self._dtype = np.dtype(dtype).type
        self._data: dict[Any, Any] = {}

    def __getitem__(self, index: Any) -> Any:
        try:
            return self._data[index]
        except KeyError:
            self._check(index)
            raise HazardError(f"element {index} of a local array is read, but nothing wrote it") from None

    def __setitem__(self, index: Any, value: Any) -> None:
        if index not in self._data:
            self._check(index)
        self._data[index] = self._dtype(value)

    def _check(self, index: Any) -> None:
        place = index if isinstance(index, tuple) else (index,)
        if len(place) != len(self._shape) or not all(0 <= i < n for i, n in zip(place, self._shape, strict=True)):
            raise EmulationError(f"element {index} of a local array of shape {self._shape}")
