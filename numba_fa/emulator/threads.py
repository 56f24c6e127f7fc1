"""Threads of a block as greenlets: whose turn it is, who waits for what, and meetings of a warp or warpgroup."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any

import numpy as np
from greenlet import getcurrent, greenlet

from numba_fa.emulator.errors import Deadlock

WARP = 32
_REDRAW = 1 / 16  # how often a warp's turn changes its priority
Combine = Callable[[dict[int, Any]], dict[int, Any]]


class Thread(greenlet):
    """One CUDA thread. `waits_for()` is what a deadlock's report says of it."""

    def __init__(self, body: Callable[[], None], index: int, block: Any) -> None:
        super().__init__(body)
        # A greenlet starts in an empty context; NumPy's error state lives in the context.
        self.gr_context = contextvars.copy_context()
        self.index, self.block = index, block
        self.waits_for: Callable[[], str] = lambda: "its first turn"
        self.meeting_result: Any = None


# current(): the Thread that runs now.
current: Callable[[], Any] = getcurrent


class Threads:
    """Runs threads until all have ended.

    Warps have random priorities, redrawn now and then: the first that can go on does, as far as it can, so that a
    warp nobody holds back runs far ahead (after Burckhardt et al. 2010, "A randomized scheduler with probabilistic
    guarantees of finding bugs"). Lanes of a warp take turns in random order.
    """

    def __init__(self, body: Callable[[], None], count: int, block: Any, rng: np.random.Generator) -> None:
        self.all = [Thread(body, index, block) for index in range(count)]
        self.late: list[Callable[[], None]] = []  # what hardware may put off: done when no thread can go on
        self._rng = rng
        self._ready: dict[int, list[Thread]] = {}
        self._priority = rng.permutation(-(-count // WARP)).tolist()
        self._meetings: dict[Hashable, dict[int, Any]] = {}
        self.wake(self.all)

    def run(self, landings: Callable[[], list[Callable[[], None]]]) -> None:
        """To the end, or Deadlock. landings(): further late events that are due now."""
        while True:
            self._run_ready()
            events = self.late + landings()
            if events:
                event = events[self._rng.integers(len(events))]
                if event in self.late:
                    self.late.remove(event)
                event()
                continue
            waiting = [thread for thread in self.all if not thread.dead]
            if not waiting:
                return
            raise Deadlock("; ".join(_report(waiting)))

    def _run_ready(self) -> None:
        """Turns until no thread can go on."""
        while self._ready:
            warp = max(self._ready, key=self._priority.__getitem__)
            lanes = self._ready.pop(warp)
            for i in self._rng.permutation(len(lanes)):
                lanes[i].switch()
            if self._rng.random() < _REDRAW:
                self._priority[warp] = self._rng.random() * len(self._priority)

    def pause(self, reason: Callable[[], str]) -> None:
        """Give up the turn until somebody wakes this thread. reason: worded only when a report asks."""
        thread = current()
        thread.waits_for = reason
        thread.parent.switch()

    def wake(self, threads: Iterable[Thread]) -> None:
        """Let paused threads have a turn."""
        for thread in threads:
            self._ready.setdefault(thread.index // WARP, []).append(thread)

    def meet(self, name: Hashable, size: int, value: Any, combine: Combine, *, late: bool = False) -> Any:
        """Wait for the `size` neighbours (a warp, a warpgroup); once all are there, combine the values of all.

        combine({thread index: value}, in order) -> {thread index: result}. late: at the last legal moment, when no
        thread of the block can go on; otherwise at once.
        """
        thread = current()
        first = thread.index // size * size
        values = self._meetings.setdefault((name, first), {})
        values[thread.index] = value
        if len(values) == size:
            del self._meetings[name, first]
            if not late:
                return self._leave(values, combine, stays=thread)
            self.late.append(partial(self._leave, values, combine))
        label = name[0] if isinstance(name, tuple) else name
        self.pause(lambda: f"threads {first}..{first + size - 1} to meet at {label}")
        return thread.meeting_result

    def _leave(self, values: dict[int, Any], combine: Combine, stays: Thread | None = None) -> Any:
        """Combine and wake all who met but `stays`, whose result is returned."""
        results = combine(dict(sorted(values.items())))
        others = [self.all[index] for index in values if stays is None or index != stays.index]
        for other in others:
            other.meeting_result = results[other.index]
        self.wake(others)
        return results[stays.index] if stays else None


def _report(waiting: list[Thread]) -> list[str]:
    """A phrase for each thing waited for."""
    groups: dict[str, list[int]] = {}
    for thread in waiting:
        groups.setdefault(thread.waits_for(), []).append(thread.index)
    return [f"{_ranges(indices)} wait{'s' * (len(indices) == 1)} for {why}" for why, indices in groups.items()]


def _ranges(indices: list[int]) -> str:
    """Sorted indices as "threads 0..3, 7"."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    text = ", ".join(str(a) if a == b else f"{a}..{b}" for a, b in runs)
    return f"thread{'s' * (len(indices) > 1)} {text}"
