"""Arrays that a kernel indexes: views of shared memory, and a thread's local arrays. Every access is checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_fa.emulator.errors import EmulationError, HazardError
from numba_fa.emulator.shared import BARRIER, IN_FLIGHT, UNWRITTEN
from numba_fa.emulator.threads import current


class SharedArray:
    """Shared memory from `address` to the block's end, as elements of `dtype`.

    Two threads that touch an element, one of them writing, with no barrier completed in between, race: HazardError.
    A warp's own lockstep counts for nothing, as on the hardware since Volta.
    """

    def __init__(self, block: Any, dtype: Any, address: int) -> None:
        self._block, self._dtype, self.address = block, np.dtype(dtype), address
        shared, size = block.shared, self._dtype.itemsize
        self._length = (shared.limit - address) // size
        span = slice(address, address + self._length * size)
        self._data = shared.bytes[span].view(self._dtype)
        self._state = shared.state[span]
        # Of the last write, and of reads since the last barrier: (epoch, thread); thread -1 stands for several.
        self._writes, self._reads = block.accesses

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            if index.stop is not None or index.step is not None:
                raise EmulationError(f"shared memory is sliced {index}; only [start:] is emulated")
            return self._block.shared_array(self._dtype, self.address + int(index.start) * self._dtype.itemsize)
        index = self._checked(index)
        state = self._state[index * self._dtype.itemsize]
        if state in (UNWRITTEN, IN_FLIGHT, BARRIER):
            raise HazardError(f"element {index} of shared memory is read, but it is unwritten or in flight")
        thread, epoch = current().index, self._block.epoch
        place = self.address + index * self._dtype.itemsize
        written = self._writes.get(place)
        if written and written[0] == epoch and written[1] != thread:
            raise HazardError(
                f"thread {thread} reads element {index} that thread {written[1]} writes: no barrier between"
            )
        read = self._reads.get(place)
        several = read and read[0] == epoch and read[1] != thread
        self._reads[place] = (epoch, -1 if several else thread)
        return self._data[index]

    def __setitem__(self, index: int, value: Any) -> None:
        index = self._checked(index)
        size = self._dtype.itemsize
        thread, epoch = current().index, self._block.epoch
        place = self.address + index * size
        for access, name in ((self._writes.get(place), "writes"), (self._reads.get(place), "reads")):
            if access and access[0] == epoch and access[1] != thread:
                other = "others" if access[1] < 0 else f"thread {access[1]}"
                raise HazardError(f"thread {thread} writes element {index} that {other} {name}: no barrier between")
        shared = self._block.shared
        if shared.sources[place >> 4] or self._state[index * size] in (IN_FLIGHT, BARRIER):
            raise HazardError(f"thread {thread} overwrites element {index}, which is in flight or an mbarrier")
        self._writes[place] = (epoch, thread)
        self._data[index] = value
        shared.note_write(place, size, thread)

    def _checked(self, index: int) -> int:
        if not 0 <= index < self._length:
            raise EmulationError(f"element {index} of {self._length} in shared memory")
        return int(index)


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
        self._check(index)
        self._data[index] = self._dtype(value)

    def _check(self, index: Any) -> None:
        place = index if isinstance(index, tuple) else (index,)
        if len(place) != len(self._shape) or not all(0 <= i < n for i, n in zip(place, self._shape, strict=True)):
            raise EmulationError(f"element {index} of a local array of shape {self._shape}")
