"""A warpgroup's matrix products: started, in flight, finished by a wait, when they read shared memory.

Layouts are those of the PTX ISA, "wgmma": accumulator fragments, and K-major and MN-major operands in shared memory
with the 128-byte swizzle, described by 64-bit descriptors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from numba_fa.emulator.errors import EmulationError, HazardError
from numba_fa.emulator.shared import swizzle_128

Descriptor = tuple[int, int, int]


@lru_cache
def fragment_places(columns: int) -> tuple[np.ndarray, np.ndarray]:
    """(row, column) in a 64 x columns tile of register i of thread t: two arrays (128, columns // 2)."""
    thread, register = np.arange(128)[:, None], np.arange(columns // 2)[None, :]
    row = thread // 32 * 16 + thread % 32 // 4 + 8 * (register // 2 % 2)
    column = register // 4 * 8 + thread % 4 * 2 + register % 2
    return row, column


def tile_of(fragments: np.ndarray) -> np.ndarray:
    """The 64 x columns tile whose fragments (128, columns // 2) the threads of a warpgroup hold."""
    columns = 2 * fragments.shape[1]
    tile = np.empty((64, columns), fragments.dtype)
    tile[fragment_places(columns)] = fragments
    return tile


def fragments_of(tile: np.ndarray) -> np.ndarray:
    """The fragments (128, columns // 2) of a 64 x columns tile."""
    return tile[fragment_places(tile.shape[1])]


def half_to_float32(words: np.ndarray, dtype: str) -> np.ndarray:
    """uint16 patterns of "f16" or "bf16" as float32."""
    if dtype == "f16":
        return words.view(np.float16).astype(np.float32)
    return (words.astype(np.uint32) << 16).view(np.float32)


def decode(descriptor: int) -> Descriptor:
    """(start address, leading byte offset, stride byte offset) of a shared-memory matrix descriptor."""
    if (descriptor >> 62) & 3 != 1:
        raise EmulationError(f"matrix descriptor {descriptor:#x} has no 128-byte swizzle")
    return (descriptor & 0x3FFF) << 4, ((descriptor >> 16) & 0x3FFF) << 4, ((descriptor >> 32) & 0x3FFF) << 4


def k_major(shared: Any, descriptors: list[int], rows: int) -> np.ndarray:
    """Chunks (rows, 2 * steps) of an operand whose rows run along the summed axis, one descriptor a step."""
    row, chunk = np.arange(rows)[:, None], np.arange(2)[None, :]
    addresses = []
    for start, _, stride in map(decode, descriptors):
        addresses.append(start + row // 8 * stride + row % 8 * 128 + chunk * 16)
    return shared.numbers(swizzle_128(np.concatenate(addresses, axis=1)), "wgmma")


def mn_major(shared: Any, descriptors: list[int], columns: int) -> np.ndarray:
    """Chunks (16 * steps, columns // 8) of an operand whose rows run across the summed axis, one descriptor a step."""
    k, chunk = np.arange(16)[:, None], np.arange(columns // 8)[None, :]
    addresses = []
    for start, leading, stride in map(decode, descriptors):
        addresses.append(start + chunk // 8 * leading + k // 8 * stride + k % 8 * 128 + chunk % 8 * 16)
    return shared.numbers(swizzle_128(np.concatenate(addresses, axis=0)), "wgmma")


def words_of(shared: Any, numbers: np.ndarray) -> np.ndarray:
    """An operand as uint16: its chunks (rows, n), 8 words each."""
    return shared.chunks[numbers].reshape(numbers.shape[0], -1).view(np.uint16)


class Group:
    """One committed group: a product that is finished by a wait. values, once finished: (128, registers) float32.

    operands: chunks of those that lie in shared memory, which nobody may overwrite from start to wait, since the
    hardware reads them at any moment between; multiply(their words) makes the 64 x columns tile. fault: what was wrong
    with an operand; the product is then poison, an error only to who uses it.
    """

    def __init__(self, operands: list[np.ndarray], multiply: Callable[..., np.ndarray]) -> None:
        self._operands, self._multiply = operands, multiply
        self.fault: str | None = None
        self.finished = False
        self.values: np.ndarray | None = None

    def start(self, shared: Any, warpgroup: int) -> None:
        """Look at the operands and guard them."""
        threads = list(range(128 * warpgroup, 128 * warpgroup + 128))
        try:
            for numbers in self._operands:
                shared.require(numbers, "wgmma", threads)
        except HazardError as error:
            self.fault = str(error)
            return
        for numbers in self._operands:
            shared.start_product(numbers)

    def finish(self, shared: Any, warpgroup: int) -> None:
        """Compute, and let go of the operands."""
        self.finished = True
        if self.fault is None:
            self.values = fragments_of(self._multiply(*[words_of(shared, numbers) for numbers in self._operands]))
            for numbers in self._operands:
                shared.finish_product(numbers, warpgroup)


class InFlight:
    """A thread's registers of a product not waited for, or spoilt. Whoever uses them gets a HazardError."""

    def __init__(self, group: Group, lane: int) -> None:
        self.group, self.lane = group, lane

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise HazardError(
            self.group.fault if self.group.finished and self.group.fault else "registers of a wgmma are read before its wait"
        )

    __getitem__ = __array__ = __iter__ = __len__ = _refuse


class Warpgroup:
    """Groups under way, oldest first; those whose operands were at fault."""

    def __init__(self, number: int, block: Any) -> None:
        self.number, self._block = number, block
        self._pending: list[tuple[Group, Any]] = []
        self.spoilt: list[Group] = []

    def start(self, group: Group, operations: int, note: str) -> Group:
        """Commit a product as a group of its own."""
        group.start(self._block.shared, self.number)
        if group.fault:
            self.spoilt.append(group)
        event = self._block.record("wgmma", 128 * self.number, operations, 0, note)
        self._pending.append((group, event))
        return group

    def wait(self, pending: int) -> None:
        """Until at most `pending` younger groups are under way."""
        while len(self._pending) > pending:
            group, event = self._pending.pop(0)
            group.finish(self._block.shared, self.number)
            self._block.end(event)

    def require_idle(self) -> None:
        """HazardError when a product was never waited for."""
        if self._pending:
            raise HazardError(f"warpgroup {self.number} ends with {len(self._pending)} wgmma groups never waited for")
