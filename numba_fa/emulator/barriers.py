"""mbarriers, with phases, arrivals and byte counts, and numbered barriers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from numba_fa.emulator.errors import EmulationError
from numba_fa.emulator.threads import current


@dataclass
class Mbarrier:
    """PTX ISA, "mbarrier": a phase ends when no arrival and no byte is outstanding.

    count: arrivals of each phase. pending: arrivals still missing. expected: bytes announced and not landed. loads:
    (bytes, land) of copies in flight, which land only when that lets a waiter pass.
    """

    address: int
    count: int
    name: str
    block: Any
    on_phase: Callable[[int], None]
    pending: int = 0
    expected: int = 0
    phase: int = 0
    turns: int = 0
    fenced: bool = False
    loads: list[tuple[int, Callable[[int, int], None]]] = field(default_factory=list)
    waiters: list = field(default_factory=list)

    def __post_init__(self) -> None:
        order, maker = self.block.order, current().index
        self.agent, self.maker = order.agent(), (maker, int(order.now(maker)))
        # What the arrivals knew: of all so far, and as of the last phase that ended.
        self.gathered, self.over = order.nothing(), order.nothing()
        if self.count < 1:
            raise EmulationError(f"{self.name} counts {self.count} arrivals; at least 1 is wanted")
        self.pending = self.count

    def arrive(self, expected: int = 0) -> None:
        """One arrival, announcing `expected` bytes before it."""
        if self.pending == 0:
            raise EmulationError(f"{self.name} gets more than its {self.count} arrivals in one phase")
        self.block.order.release(current().index, self.gathered)
        self.expected += expected
        self.pending -= 1
        self._complete()

    def wait(self, parity: int) -> None:
        """Until the phase of `parity` has ended, seen by a thread that polls: it may miss phases that pass by."""
        thread, turn = current(), (self.address, self.turns)
        if self.phase == parity & 1:
            self.block.begin_wait("mbarrier_wait", thread.index, turn, self.name)
            while self.phase == parity & 1:
                self.waiters.append(thread)
                self.block.threads.pause(lambda: self._describe(parity & 1))
            self.block.end_wait("mbarrier_wait", thread.index, turn)
        self.block.order.acquire(thread.index, self.over)

    @property
    def can_land(self) -> bool:
        """Whether the loads in flight are all that a waiter still waits for."""
        bytes_in_flight = sum(size for size, _ in self.loads)
        return bool(self.waiters and self.loads and self.pending == 0 and bytes_in_flight == self.expected)

    def land(self) -> None:
        """All loads in flight arrive, at a time that those know who wait for this phase."""
        self.gathered[self.agent] = self.turns + 1
        for size, arrive in self.loads:
            arrive(self.agent, self.turns + 1)
            self.expected -= size
        self.loads.clear()
        self._complete()

    def _describe(self, parity: int) -> str:
        return (
            f"{self.name} parity {parity} ({self.pending} of {self.count} arrivals missing, {self.expected} bytes "
            f"expected, {sum(size for size, _ in self.loads)} in flight)"
        )

    def _complete(self) -> None:
        if self.pending or self.expected or self.loads:
            return
        self.phase ^= 1
        self.over = self.gathered.copy()
        self.turns += 1
        self.pending = self.count
        waiters, self.waiters = self.waiters, []
        self.block.threads.wake(waiters)
        self.on_phase(self.address)


@dataclass
class NamedBarrier:
    """bar.sync and bar.arrive of one number: completes when `size` threads have come."""

    number: int
    block: Any
    on_complete: Callable[[int, int], None]
    size: int = 0
    arrived: int = 0
    turns: int = 0
    waiters: list = field(default_factory=list)

    def __post_init__(self) -> None:
        self._gathered = self.block.order.nothing()

    def come(self, size: int, wait: bool) -> None:
        """This thread arrives and, with `wait`, stays until all have."""
        if size % 32 or size < 32:
            raise EmulationError(f"barrier {self.number} of {size} threads; a multiple of 32 is wanted")
        if self.arrived and size != self.size:
            raise EmulationError(f"barrier {self.number} is met with {size} threads and with {self.size}")
        self.size = size
        self.arrived += 1
        order, thread = self.block.order, current()
        order.release(thread.index, self._gathered)
        if self.arrived == size:
            self.arrived = 0
            self.turns += 1
            waiters, self.waiters = self.waiters, []
            leaving = [waiter.index for waiter in waiters] + ([thread.index] if wait else [])
            order.acquire(leaving, self._gathered)
            self._gathered = order.nothing()
            self.block.threads.wake(waiters)
            self.on_complete(self.number, size)
        elif wait:
            turn = (self.number, self.turns)
            self.block.begin_wait("barrier_wait", thread.index, turn, f"barrier {self.number}")
            self.waiters.append(thread)
            self.block.threads.pause(lambda: f"barrier {self.number} ({self.arrived} of {self.size} threads there)")
            self.block.end_wait("barrier_wait", thread.index, turn)
