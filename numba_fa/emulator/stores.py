"""TMA stores under way: each reads its source at the last legal moment, and guards it until then."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from numba_fa.emulator.memory import TensorMap
from numba_fa.emulator.trace import Event


@dataclass
class _Store:
    tensor: TensorMap
    numbers: np.ndarray
    coordinates: tuple[int, int, int, int]
    event: Event


@dataclass
class _Queue:
    """One thread's stores: not yet committed, and committed but perhaps still reading."""

    open: list[_Store] = field(default_factory=list)
    committed: list[_Store] = field(default_factory=list)


class Stores:
    """All threads' stores of a block."""

    def __init__(self, block: Any) -> None:
        self._block = block
        self._queues: dict[int, _Queue] = {}

    def start(self, thread: int, tensor: TensorMap, numbers: np.ndarray, coordinates: tuple[int, ...]) -> None:
        """Store the chunks `numbers` (rows, 8) of shared memory as a box of `tensor`.

        What the tensor clips may hold anything.
        """
        shared = self._block.shared
        self._block.touch_global(thread)
        touched = numbers[tensor.touched(*coordinates)]
        if touched.size:
            shared.require(touched, "tma_store", [thread])
        shared.sources[numbers] += 1
        note = f"box at {coordinates}"
        event = self._block.record("tma_store", thread, tensor.box_bytes, int(numbers[0, 0]) << 4, note)
        self._queue(thread).open.append(_Store(tensor, numbers, coordinates, event))  # type: ignore[arg-type]

    def commit(self, thread: int) -> None:
        """Close the thread's group."""
        queue = self._queue(thread)
        queue.committed += queue.open
        queue.open = []

    def wait(self, thread: int) -> None:
        """The thread's committed groups have read their sources, and written."""
        queue = self._queue(thread)
        for store in queue.committed:
            self._perform(store, thread)
        queue.committed = []

    def finish(self) -> None:
        """The block ends: what nobody waited for happens now."""
        for thread, queue in self._queues.items():
            for store in queue.committed + queue.open:
                self._block.record("store_at_exit", thread, store.tensor.box_bytes, int(store.numbers[0, 0]) << 4)
                self._perform(store, thread)
        self._queues.clear()

    def _queue(self, thread: int) -> _Queue:
        return self._queues.setdefault(thread, _Queue())

    def _perform(self, store: _Store, thread: int) -> None:
        shared = self._block.shared
        box = shared.chunks[store.numbers].reshape(store.tensor.rows, -1).view(np.uint16)
        store.tensor.write(box, *store.coordinates)
        shared.finish_store(store.numbers, thread)
        self._block.end(store.event)
