"""Shared memory of a block: its bytes, and of every byte whether it may be read, by whom it was written, who read it.

Addresses are 32-bit shared-window addresses, as kernels compute them. Asynchronous copies and tensor cores move
16-byte chunks; the 128-byte swizzle is a function of the address: chunk bits 4-6 are xored with bits 7-9.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from numba_fa.emulator.errors import EmulationError, HazardError
from numba_fa.emulator.order import Order

UNWRITTEN, READY, UNFENCED, IN_FLIGHT, BARRIER = range(5)
CHUNK = 16
NOBODY, MIXED = -1, -2  # in place of a chunk's writer; MIXED: its bytes tell
_WARPGROUP = 128


def swizzle_128(address: np.ndarray) -> np.ndarray:
    """Physical addresses of logical byte addresses (any shape, int) in a tile with the 128-byte swizzle."""
    return address ^ (((address >> 7) & 7) << 4)


class SharedMemory:
    """`size` bytes from address `base` on. `state` holds a code per byte, `sources` chunks that stores still read.

    A writer or reader is a thread or an agent of `order`, at its time then.
    """

    def __init__(self, base: int, size: int, order: Order) -> None:
        self.base, self.limit, self.order = base, base + size, order
        rounded = -(-self.limit // CHUNK) * CHUNK
        chunks = rounded // CHUNK
        self.bytes = np.full(rounded, 0xFF, np.uint8)
        self.state = np.full(rounded, UNWRITTEN, np.uint8)
        self.chunks, self.chunk_state = self.bytes.reshape(-1, CHUNK), self.state.reshape(-1, CHUNK)
        self.sources = np.zeros(chunks, np.int32)
        self.products = np.zeros(chunks, np.int32)  # wgmma groups in flight that read a chunk
        # Who wrote a chunk, and when; of MIXED ones, who wrote a byte.
        self.chunk_writer, self.chunk_time = np.full(chunks, NOBODY, np.int32), np.zeros(chunks, np.int32)
        self.writer, self.time = np.full(rounded, NOBODY, np.int32), np.zeros(rounded, np.int32)
        # When it was last read: by each warpgroup's tensor core, by a TMA store that its thread waited for.
        warpgroups = -(-order.known.shape[0] // _WARPGROUP)
        self.product_reads = np.zeros((warpgroups, chunks), np.int32)
        self.store_reader, self.store_time = np.full(chunks, NOBODY, np.int32), np.zeros(chunks, np.int32)
        self.word_reads: dict[int, dict[int, int]] = {}  # by address: thread -> time
        self.has_word_reads, self.has_whole_reads = np.zeros(chunks, bool), np.zeros(chunks, bool)
        self.unfenced: defaultdict[int, set[int]] = defaultdict(set)  # chunks by the thread that wrote into them
        # Single elements come faster from these.
        self.one_state, self.one_source = memoryview(self.state), memoryview(self.sources)
        self._one_chunk_writer, self._one_chunk_time = memoryview(self.chunk_writer), memoryview(self.chunk_time)
        self._one_products, self._one_whole_read = memoryview(self.products), memoryview(self.has_whole_reads)
        self._one_writer, self._one_time = memoryview(self.writer), memoryview(self.time)

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

    def require(self, numbers: np.ndarray, what: str, threads: list[int]) -> None:
        """HazardError unless the asynchronous proxy may read all these chunks, for `threads` that know of all writes."""
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
        known = self.order.known[threads].min(axis=0)
        for writer, time, number in self._writes(numbers):
            if known[writer] < time:
                raise HazardError(f"{what} reads shared memory at {number << 4:#x}: no barrier after {self._who(writer)}")

    def start_product(self, numbers: np.ndarray) -> None:
        """A wgmma that reads these chunks is in flight."""
        self.products[numbers] += 1

    def finish_product(self, numbers: np.ndarray, warpgroup: int) -> None:
        """It has read them."""
        self.products[numbers] -= 1
        self.product_reads[warpgroup, numbers] = self.order.now(_WARPGROUP * warpgroup)
        self.has_whole_reads[numbers] = True

    def finish_store(self, numbers: np.ndarray, thread: int) -> None:
        """A TMA store has read these chunks, as `thread` knows that waited for it."""
        self.sources[numbers] -= 1
        self.store_reader[numbers], self.store_time[numbers] = thread, self.order.now(thread)
        self.has_whole_reads[numbers] = True

    def refuse_writes(self, numbers: np.ndarray, what: str, threads: Any) -> None:
        """HazardError when chunks must not be written now, by one thread or, of each chunk, by its own."""
        if self.sources[numbers].any():
            raise HazardError(f"{what} overwrites shared memory that a TMA store may still be reading")
        state = self.chunk_state[numbers]
        if (state == IN_FLIGHT).any():
            raise HazardError(f"{what} overwrites the destination of a TMA load in flight")
        if (state == BARRIER).any():
            raise HazardError(f"{what} overwrites an mbarrier")
        threads = np.broadcast_to(threads, numbers.shape)
        self._refuse_before_reads(numbers, what, threads)
        self._refuse_before_writes(numbers, what, threads)
        self.product_reads[:, numbers] = 0
        self.store_reader[numbers] = NOBODY
        self.has_whole_reads[numbers] = False

    def _refuse_before_reads(self, numbers: np.ndarray, what: str, threads: np.ndarray) -> None:
        """HazardError when a thread that writes a chunk cannot know that all reads of it whole are over."""
        order = self.order
        if self.products[numbers].any():
            raise HazardError(f"{what} overwrites shared memory that a wgmma in flight may still be reading")
        for group, times in enumerate(self.product_reads[:, numbers]):
            if not (order.known[threads, _WARPGROUP * group] >= times).all():
                raise HazardError(f"{what} overwrites shared memory: no barrier after warpgroup {group}'s wgmma read it")
        if not order.all_know(threads, self.store_reader[numbers], self.store_time[numbers]).all():
            raise HazardError(f"{what} overwrites shared memory: no barrier after a TMA store has read it")

    def _refuse_before_writes(self, numbers: np.ndarray, what: str, threads: np.ndarray) -> None:
        """HazardError when it cannot know that all writes, and reads of words, are over."""
        order = self.order
        for number, thread in self._with_word_reads(numbers, threads):
            for place in range(number << 4, (number << 4) + CHUNK):
                self._refuse_word_race(place, thread, what)
            self.has_word_reads[number] = False
        writers = self.chunk_writer[numbers]
        if not (order.all_know(threads, writers, self.chunk_time[numbers]) | (writers == MIXED)).all():
            raise HazardError(f"{what} overwrites shared memory that another writes: no barrier between")
        for number, thread in zip(numbers[writers == MIXED].tolist(), threads[writers == MIXED].tolist()):
            for writer, time, _ in self._writes(np.array([number])):
                if not order.knows(thread, writer, time):
                    raise HazardError(f"{what} overwrites shared memory: no barrier after {self._who(writer)}")

    def _with_word_reads(self, numbers: np.ndarray, threads: np.ndarray) -> list[tuple[int, int]]:
        """(chunk, the thread that writes it) of the chunks of which words have been read."""
        found = self.has_word_reads[numbers]
        return list(zip(numbers[found].tolist(), threads[found].tolist())) if found.any() else []

    def _refuse_word_race(self, place: int, thread: int, what: str) -> None:
        for reader, time in self.word_reads.pop(place, {}).items():
            if not self.order.knows(thread, reader, time):
                raise HazardError(f"{what} by thread {thread} overwrites what thread {reader} reads: no barrier between")

    def _writes(self, numbers: np.ndarray) -> list[tuple[int, int, int]]:
        """(writer, latest time, one chunk) of each who wrote these chunks."""
        writers, times, chunks = (x.reshape(-1) for x in (self.chunk_writer[numbers], self.chunk_time[numbers], numbers))
        if writers.min() == writers.max() >= 0:
            return [(int(writers[0]), int(times.max()), int(chunks[times.argmax()]))]
        mixed = np.unique(chunks[writers == MIXED])
        if mixed.size:
            places = (mixed[:, None] << 4) + np.arange(CHUNK)
            writers = np.concatenate([writers, self.writer[places].reshape(-1)])
            times = np.concatenate([times, self.time[places].reshape(-1)])
            chunks = np.concatenate([chunks, (places >> 4).reshape(-1)])
        found = []
        for writer in np.unique(writers[writers >= 0]).tolist():
            latest = np.flatnonzero(writers == writer)[times[writers == writer].argmax()]
            found.append((writer, int(times[latest]), int(chunks[latest])))
        return found

    def _who(self, writer: int) -> str:
        return f"thread {writer} writes it" if writer < self.order.known.shape[0] else "a TMA load lands there"

    def write_generic(self, numbers: np.ndarray, values: np.ndarray, writers: np.ndarray, what: str) -> None:
        """Threads `writers` (of each chunk) store `values` (..., 16) bytes."""
        self.refuse_writes(numbers, what, writers)
        self.chunks[numbers] = values
        self.chunk_state[numbers] = UNFENCED
        self.chunk_writer[numbers], self.chunk_time[numbers] = writers, self.order.now(writers)
        for number, writer in zip(numbers.flat, writers.flat, strict=True):
            self.unfenced[int(writer)].add(int(number))

    def read_word(self, address: int, thread: int) -> None:
        """HazardError unless a thread may read what lies at `address` (an element's first byte)."""
        state = self.one_state[address]
        if state in (UNWRITTEN, IN_FLIGHT, BARRIER):
            raise HazardError(f"shared memory at {address:#x} is read, but it is unwritten or in flight")
        writer, time = self._write_of(address)
        if writer != thread and not self.order.knows(thread, writer, time):
            raise HazardError(f"thread {thread} reads shared memory at {address:#x}: no barrier after {self._who(writer)}")
        readers = self.word_reads.get(address)
        if readers is None:
            readers = self.word_reads[address] = {}
            self.has_word_reads[address >> 4] = True
        readers[thread] = self.order.one[thread, thread]

    def write_word(self, address: int, size: int, thread: int) -> None:
        """A thread writes `size` bytes that lie in one chunk; HazardError when it must not."""
        number = address >> 4
        if self.one_source[number] or self.one_state[address] in (IN_FLIGHT, BARRIER):
            raise HazardError(f"thread {thread} overwrites {address:#x}, which is in flight or an mbarrier")
        writer, time = self._write_of(address)
        if writer != thread and not self.order.knows(thread, writer, time):
            raise HazardError(f"thread {thread} writes {address:#x}: no barrier after {self._who(writer)}")
        if address in self.word_reads:
            self._refuse_word_race(address, thread, f"a store to {address:#x}")
        if self._one_products[number] or self._one_whole_read[number]:
            self._refuse_before_reads(np.array([number]), f"thread {thread}", np.array([thread]))
        if self._one_chunk_writer[number] != MIXED:  # its bytes come to have writers of their own
            span = slice(number << 4, (number << 4) + CHUNK)
            self.writer[span], self.time[span] = self.chunk_writer[number], self.chunk_time[number]
            self.chunk_writer[number] = MIXED
        self.state[address : address + size] = UNFENCED
        self.writer[address : address + size] = thread
        self.time[address : address + size] = self.order.one[thread, thread]
        self.unfenced[thread].add(number)

    def _write_of(self, address: int) -> tuple[int, int]:
        """(writer, time) of the byte at an address."""
        writer = self._one_chunk_writer[address >> 4]
        if writer == MIXED:
            return self._one_writer[address], self._one_time[address]
        return writer, self._one_chunk_time[address >> 4]

    def fence(self, thread: int) -> None:
        """What `thread` wrote becomes readable by the asynchronous proxy."""
        numbers = np.array(sorted(self.unfenced.pop(thread, ())), np.int64)
        if not numbers.size:
            return
        state, writers = self.chunk_state[numbers], self.chunk_writer[numbers][:, None]
        bytes_of = np.where(writers == MIXED, self.writer.reshape(-1, CHUNK)[numbers], writers)
        state[(state == UNFENCED) & (bytes_of == thread)] = READY
        self.chunk_state[numbers] = state

    def begin_load(self, numbers: np.ndarray, what: str, thread: int) -> None:
        """A copy into these chunks, issued by a thread, is under way."""
        self.refuse_writes(numbers, what, thread)
        self.chunks[numbers] = 0xFF
        self.chunk_state[numbers] = IN_FLIGHT
        self.chunk_writer[numbers] = NOBODY

    def land(self, numbers: np.ndarray, values: np.ndarray, agent: int, time: int) -> None:
        """The copy has arrived, by an agent at its time."""
        self.chunks[numbers] = values
        self.chunk_state[numbers] = READY
        self.chunk_writer[numbers], self.chunk_time[numbers] = agent, time
