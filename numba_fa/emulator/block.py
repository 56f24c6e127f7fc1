"""One thread block: its threads, shared memory, barriers and what is in flight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numba_fa.emulator.arrays import SharedArray
from numba_fa.emulator.barriers import Mbarrier, NamedBarrier
from numba_fa.emulator.errors import EmulationError, HazardError
from numba_fa.emulator.memory import FlatPointer, GlobalMemory
from numba_fa.emulator.order import Order
from numba_fa.emulator.shared import BARRIER, SharedMemory
from numba_fa.emulator.stores import Stores
from numba_fa.emulator.tensor_core import Warpgroup
from numba_fa.emulator.threads import WARP, Threads, current
from numba_fa.emulator.trace import Event, Trace

NAMED_BARRIERS = 16
# The hardware's own share of shared memory, before a block's.
_SHARED_START = 0x400


class Block:
    """State of one block. The start of its shared memory is 16-byte aligned and no more; it varies with the seed."""

    def __init__(
        self,
        index: tuple[int, int, int],
        grid: tuple[int, int, int],
        size: int,
        shared_bytes: int,
        *,
        seed: int,
        memory: GlobalMemory | None,
        trace: Trace,
        early: bool = False,
    ) -> None:
        self.index, self.grid, self.size = index, grid, size
        self.rng = np.random.default_rng([seed, *index])
        self.order = Order(size)
        self.shared = SharedMemory(_SHARED_START + 16 * int(self.rng.integers(64)), shared_bytes, self.order)
        self.memory, self.trace = memory, trace
        self.mbarriers: dict[int, Mbarrier] = {}
        self.named: dict[int, NamedBarrier] = {}
        self.stores = Stores(self)
        self.warpgroups: dict[int, Warpgroup] = {}
        self.registers: dict[int, int] = {}  # a thread, by warpgroup, since setmaxnreg
        self._early, self._waited = early, set[int]()  # threads that know the kernels before to have ended
        self._arrays: dict[tuple[Any, int], SharedArray] = {}
        self._step = 0
        self._waits: dict[tuple[str, int, tuple[int, int]], Event] = {}
        self.threads: Threads

    def run(self, kernel: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Every thread to its end; then nothing may be in flight."""
        self.threads = Threads(lambda: kernel(*arguments), self.size, self, self.rng)
        try:
            self._run(arguments)
        except EmulationError as error:
            spoilt = [group.fault for warpgroup in self.warpgroups.values() for group in warpgroup.spoilt]
            if spoilt and spoilt[0] not in str(error):
                raise type(error)(f"{error}; before, {spoilt[0]}") from error
            raise

    def _run(self, arguments: tuple[Any, ...]) -> None:
        self.threads.run(self._landings)
        if any(barrier.loads for barrier in self.mbarriers.values()):
            raise HazardError("the block ends with TMA loads in flight that nobody waited for")
        for warpgroup in self.warpgroups.values():
            warpgroup.require_idle()
        self.stores.finish()
        for pointer in arguments:
            if isinstance(pointer, FlatPointer):
                self._record_accesses(pointer)

    def _record_accesses(self, pointer: FlatPointer) -> None:
        """Add the plain loads and stores of each warp through one pointer."""
        for kind, counts in (("global_load", pointer.loads), ("global_store", pointer.stores)):
            for warp, size in sorted(counts.items()):
                self.record(kind, warp * WARP, size)
            counts.clear()

    def touch_global(self, thread: int) -> None:
        """A thread reads or writes global memory; HazardError where the kernels before may not have ended."""
        if self._early and thread not in self._waited:
            raise HazardError(f"thread {thread} touches global memory before it has waited for the kernels before")

    def wait_for_grids(self, thread: int) -> None:
        """A thread waits for the kernels before."""
        self._waited.add(thread)

    def record(self, kind: str, thread: int, amount: int = 0, address: int = 0, note: str = "") -> Event:
        """Add an event to the trace, at the next step."""
        self._step += 1
        event = Event(kind, self.index, thread, amount, address, self._step, self._step, note)
        self.trace.events.append(event)
        return event

    def end(self, event: Event) -> None:
        """The event ends, at the next step."""
        self._step += 1
        event.end = self._step

    def end_wait(self, kind: str, thread: int, turn: tuple[int, int]) -> None:
        """A thread goes on after a wait at turn (address, how often it had turned); a warp's waits are one event."""
        event = self._waits[kind, thread // WARP, turn]
        self._step = event.end = max(self._step, event.step + 1)

    def begin_wait(self, kind: str, thread: int, turn: tuple[int, int], note: str) -> None:
        """A thread comes to stand at a barrier."""
        key = (kind, thread // WARP, turn)
        if key not in self._waits:
            self._waits[key] = self.record(kind, thread // WARP * WARP, 0, turn[0], note)

    def init_mbarrier(self, address: int, count: int) -> None:
        """Make an mbarrier in the 8 bytes at `address`."""
        if address % 8 or not self.shared.base <= address <= self.shared.limit - 8:
            raise EmulationError(f"mbarrier at {address:#x}: misaligned or outside shared memory")
        name = f"mbarrier {len(self.mbarriers)} at {address:#x}"
        self.mbarriers[address] = Mbarrier(address, count, name, self, self._phase_over)
        self.shared.state[address : address + 8] = BARRIER

    def mbarrier(self, address: int) -> Mbarrier:
        """The mbarrier at an address; EmulationError when none was made there."""
        if address not in self.mbarriers:
            raise EmulationError(f"no mbarrier was initialised at {address:#x}")
        barrier, thread = self.mbarriers[address], current().index
        if not self.order.knows(thread, *barrier.maker):
            raise HazardError(f"thread {thread} uses {barrier.name}: no barrier after thread {barrier.maker[0]} makes it")
        return barrier

    def named_barrier(self, number: int) -> NamedBarrier:
        """The numbered barrier; 0 is syncthreads'."""
        if not 0 <= number < NAMED_BARRIERS:
            raise EmulationError(f"barrier {number}; there are 0..{NAMED_BARRIERS - 1}")
        if number not in self.named:
            self.named[number] = NamedBarrier(number, self, self._barrier_over)
        return self.named[number]

    def warpgroup(self, thread: int) -> Warpgroup:
        """The tensor-core state of a thread's warpgroup."""
        number = thread // 128
        return self.warpgroups.setdefault(number, Warpgroup(number, self))

    def shared_array(self, dtype: Any, address: int) -> SharedArray:
        """Shared memory from an address on, as elements."""
        if (dtype, address) not in self._arrays:
            self._arrays[dtype, address] = SharedArray(self, dtype, address)
        return self._arrays[dtype, address]

    def _phase_over(self, address: int) -> None:
        self.record("mbarrier_phase", -1, 0, address)

    def _barrier_over(self, number: int, size: int) -> None:
        self.record("barrier", -1, size, number)

    def _landings(self) -> list[Callable[[], None]]:
        """Of each mbarrier whose loads in flight are all that its waiters wait for, what lets them land."""
        return [barrier.land for barrier in self.mbarriers.values() if barrier.can_land]
