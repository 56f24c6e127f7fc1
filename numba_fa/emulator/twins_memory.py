"""Twins of `ptx/memory.py` and `ptx/tma.py`: addresses, bulk copies and their fences."""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_fa.emulator.arrays import SharedArray
from numba_fa.emulator.errors import EmulationError, HazardError
from numba_fa.emulator.memory import TensorMap
from numba_fa.emulator.namespace import Cast
from numba_fa.emulator.shared import swizzle_128
from numba_fa.emulator.threads import current

_TMA_ALIGNMENT = 128
_INT32 = Cast("int32")


def st_global_f32(address: int, value: np.float32) -> None:
    """Store a float32 to global memory."""
    memory = current().block.memory
    current().block.touch_global(current().index)
    if memory is None:
        raise EmulationError(f"store to {int(address):#x}, and the kernel was given no pointer")
    memory.store(int(address), np.float32(value))


def st_shared_u32(address: int, value: int) -> None:
    """Store a word; HazardError when another thread touches it with no barrier between."""
    _word(int(address))[0] = _INT32(value)


def ld_shared_u32(address: int) -> int:
    """Load a word, as int32; HazardError when nobody wrote it, or another thread did with no barrier between."""
    return int(_word(int(address))[0])


def shared_address(array: SharedArray) -> int:
    """The address of a shared array's first byte."""
    return array.address


def tensor_map(descriptor: TensorMap) -> TensorMap:
    """A descriptor stands for its own address."""
    return descriptor


def prefetch_tensormap(descriptor: TensorMap) -> None:
    """Nothing, to a descriptor."""
    _require_map(descriptor)


def tma_load(destination: int, descriptor: TensorMap, barrier: int, *coordinates: int) -> None:
    """Start a load; it lands when that lets a waiter at the mbarrier pass."""
    _require_map(descriptor)
    block = current().block
    numbers = _box(block, int(destination), descriptor, "tma_load")
    block.touch_global(current().index)
    mbarrier = block.mbarrier(int(barrier))
    if not mbarrier.fenced:
        raise HazardError(f"tma_load completes on {mbarrier.name}, made without fence_mbarrier_init after")
    block.shared.begin_load(numbers, "tma_load", current().index)
    place = [int(coordinate) for coordinate in coordinates]

    def land(agent: int, time: int) -> None:
        chunks = descriptor.read(*place).view(np.uint8).reshape(*numbers.shape, 16)
        block.shared.land(numbers, chunks, agent, time)
        block.end(event)

    mbarrier.loads.append((descriptor.box_bytes, land))
    note = f"box at {tuple(place)} for {mbarrier.name}"
    event = block.record("tma_load", current().index, descriptor.box_bytes, int(destination), note)


def tma_store(descriptor: TensorMap, source: int, *coordinates: int) -> None:
    """Start a store; it reads its source when waited for."""
    _require_map(descriptor)
    block = current().block
    numbers = _box(block, int(source), descriptor, "tma_store")
    block.stores.start(current().index, descriptor, numbers, tuple(int(coordinate) for coordinate in coordinates))


def bulk_commit_group() -> None:
    """Close this thread's group of stores."""
    current().block.stores.commit(current().index)


def bulk_wait_group_read() -> None:
    """Until this thread's groups have read their sources."""
    _wait_stores("bulk_wait_group_read")


def bulk_wait_group() -> None:
    """Until this thread's groups are complete."""
    _wait_stores("bulk_wait_group")


def fence_proxy_async() -> None:
    """This thread's writes to shared memory become visible to asynchronous reads."""
    current().block.shared.fence(current().index)


def _word(address: int) -> SharedArray:
    """The int32 at an address, as a shared array's first element."""
    block = current().block
    if address % 4 or not block.shared.base <= address <= block.shared.limit - 4:
        raise EmulationError(f"word at {address:#x}: misaligned or outside shared memory")
    return block.shared_array(_INT32.dtype, address)


def _wait_stores(name: str) -> None:
    block = current().block

    def combine(values: dict[int, None]) -> dict[int, None]:
        for index in values:
            block.stores.wait(index)
        return values

    block.threads.meet(name, 1, None, combine, late=True)


def _box(block: Any, address: int, descriptor: TensorMap, what: str) -> np.ndarray:
    """Chunk numbers (rows, 8) of a box in shared memory."""
    if address % _TMA_ALIGNMENT:
        raise EmulationError(f"{what}: shared address {address:#x} is no multiple of {_TMA_ALIGNMENT}")
    logical = address + 16 * np.arange(descriptor.rows * 8).reshape(-1, 8)
    return block.shared.numbers(swizzle_128(logical), what)


def _require_map(descriptor: Any) -> None:
    if not isinstance(descriptor, TensorMap):
        raise EmulationError(f"{descriptor!r} is no tensor map")


TWINS = (
    st_global_f32, st_shared_u32, ld_shared_u32, shared_address, tensor_map, prefetch_tensormap, tma_load, tma_store,
    bulk_commit_group, bulk_wait_group_read, bulk_wait_group, fence_proxy_async,
)  # fmt: skip
