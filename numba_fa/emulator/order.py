"""What each thread of a block can know to have happened: vector clocks (Mattern 1989; FastTrack, Flanagan and Freund 2009).

Every thread has a time of its own, which goes on when it arrives at a barrier. Who leaves the barrier knows the times at
which the others arrived, and of all that these knew. An access at a time that another thread does not know races with
that thread's, whatever the order in which they happened to run: a missing wait is found under every seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_fa.emulator.errors import EmulationError

_AGENTS = 64  # mbarriers whose landings have a time as threads have


class Order:
    """known[t, u]: the time of thread u up to which thread t knows what happened; known[t, t] is t's own time.

    Columns behind the threads' are those of agents: the copies that complete on one mbarrier.
    """

    def __init__(self, threads: int) -> None:
        self.known = np.zeros((threads, threads + _AGENTS), np.int32)
        self.known[np.arange(threads), np.arange(threads)] = 1
        self.one = memoryview(self.known)  # single elements come faster from it
        self._agents = 0

    def agent(self) -> int:
        """A column for another mbarrier's landings."""
        if self._agents == _AGENTS:
            raise EmulationError(f"more than {_AGENTS} mbarriers in one block")
        self._agents += 1
        return self.known.shape[0] + self._agents - 1

    def nothing(self) -> np.ndarray:
        """What one knows who knows nothing."""
        return np.zeros(self.known.shape[1], np.int32)

    def release(self, thread: int, knowledge: np.ndarray) -> None:
        """`knowledge` comes to hold what the thread knows; the thread's time goes on."""
        np.maximum(knowledge, self.known[thread], out=knowledge)
        self.known[thread, thread] += 1

    def acquire(self, threads: Any, knowledge: np.ndarray) -> None:
        """A thread, or a list of threads, learns."""
        self.known[threads] = np.maximum(self.known[threads], knowledge)

    def join(self, threads: list[int]) -> None:
        """Threads tell each other all they know."""
        self.acquire(threads, self.known[threads].max(axis=0))
        self.known[threads, threads] += 1

    def now(self, threads: Any) -> Any:
        """The own time of a thread, or of each of an array of threads."""
        return self.known[threads, threads]

    def knows(self, thread: int, other: int, time: int) -> bool:
        """Whether a thread knows of what another did at its `time`; other is -1 for nobody."""
        return other < 0 or self.one[thread, other] >= time

    def all_know(self, threads: Any, others: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Of arrays alike (others -1 for nobody): whether each of `threads`, an array alike or one, knows."""
        return (others < 0) | (self.known[threads, others] >= times)
