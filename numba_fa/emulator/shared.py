"""Shared memory of a block: its bytes, and of every byte whether it may be read, by whom.

Addresses are 32-bit shared-window addresses, as kernels compute them. Asynchronous copies and tensor cores move
16-byte chunks; the 128-byte swizzle is a function of the address: chunk bits 4-6 are xored with bits 7-9.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from numba_fa.emulator.errors import EmulationError, HazardError

UNWRITTEN, READY, UNFENCED, IN_FLIGHT, BARRIER = range(5)
CHUNK = 16


def swizzle_128(address: np.ndarray) -> np.ndarray:
    """Physical addresses of logical byte addresses (any shape, int) in a tile with the 128-byte swizzle."""
    return address ^ (((address >> 7) & 7) << 4)


class SharedMemory:
    """`size` bytes from address `base` on. `state` holds a code per byte, `sources` chunks that stores still read."""

    def __init__(self, base: int, size: int) -> None:
        self.base, self.limit = base, base + size
        rounded = -(-self.limit // CHUNK) * CHUNK
        self.bytes = np.full(rounded, 0xFF, np.uint8)
        self.state = np.full(rounded, UNWRITTEN, np.uint8)
        self.chunks, self.chunk_state = self.bytes.reshape(-1, CHUNK), self.state.reshape(-1, CHUNK)
        self.sources = np.zeros(rounded // CHUNK, np.int32)
        self.writer = np.full(rounded, -1, np.int32)
        self.chunk_writer = self.writer.reshape(-1, CHUNK)
        self.unfenced: defaultdict[int, set[int]] = defaultdict(set)  # chunks by the thread that wrote into them

    def numbers(self, address: np.ndarray, what: str) -> np.ndarray:
        """Chunk numbers of 16-byte aligned addresses; an error when they are not, or lie outside."""
        if (address & (CHUNK - 1)).any():
            raise EmulationError(f"{what}: an address is no multiple of {CHUNK}")
        if address.min() < self.base or address.max() + CHUNK > self.limit:
            raise EmulationError(
                f"{what}: {int(address.min()):#x}..{int(address.max()) + CHUNK:#x} is outside the block's "
                f"{self.base:#x}..{self.limit:#x}"
            )
        return address >> 4

    def require(self, numbers: np.ndarray, what: str) -> None:
        """HazardError unless the asynchronous proxy may read all these chunks."""
        state = self.chunk_state[numbers]
        for code, fault in (
            (UNWRITTEN, "nothing has written it"),
            (IN_FLIGHT, "it is the destination of a TMA load in flight"),
            (UNFENCED, "written by threads without fence_proxy_async after"),
            (BARRIER, "an mbarrier lies there"),
        ):
            if (state == code).any():
                at = int(np.asarray(numbers)[(state == code).any(axis=-1)].flat[0]) << 4
                raise HazardError(f"{what} reads shared memory at {at:#x}: {fault}")

    def refuse_writes(self, numbers: np.ndarray, what: str) -> None:
        """HazardError when chunks must not be written now."""
        if self.sources[numbers].any():
            raise HazardError(f"{what} overwrites shared memory that a TMA store may still be reading")
        state = self.chunk_state[numbers]
        if (state == IN_FLIGHT).any():
            raise HazardError(f"{what} overwrites the destination of a TMA load in flight")
        if (state == BARRIER).any():
            raise HazardError(f"{what} overwrites an mbarrier")

    def write_generic(self, numbers: np.ndarray, values: np.ndarray, writers: np.ndarray, what: str) -> None:
        """Threads `writers` (of each chunk) store `values` (..., 16) bytes."""
        self.refuse_writes(numbers, what)
        self.chunks[numbers] = values
        self.chunk_state[numbers] = UNFENCED
        self.chunk_writer[numbers] = writers[..., None]
        for number, writer in zip(numbers.flat, writers.flat, strict=True):
            self.unfenced[int(writer)].add(int(number))

    def note_write(self, address: int, size: int, thread: int) -> None:
        """`thread` has written `size` bytes that lie in one chunk."""
        self.state[address : address + size] = UNFENCED
        self.writer[address : address + size] = thread
        self.unfenced[thread].add(address >> 4)

    def fence(self, thread: int) -> None:
        """What `thread` wrote becomes readable by the asynchronous proxy."""
        numbers = sorted(self.unfenced.pop(thread, ()))
        state = self.chunk_state[numbers]
        state[(state == UNFENCED) & (self.chunk_writer[numbers] == thread)] = READY
        self.chunk_state[numbers] = state

    def begin_load(self, numbers: np.ndarray, what: str) -> None:
        """A copy into these chunks is under way."""
        self.refuse_writes(numbers, what)
        self.chunks[numbers] = 0xFF
        self.chunk_state[numbers] = IN_FLIGHT

    def land(self, numbers: np.ndarray, values: np.ndarray) -> None:
        """The copy has arrived."""
        self.chunks[numbers] = values
        self.chunk_state[numbers] = READY
        self.chunk_writer[numbers] = -1
