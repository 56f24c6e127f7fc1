"""Twins of what backwards alone use: `ptx/` bulk, fragment_columns and _gradients, order and vector, and `gemm_tt`."""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_fa.emulator.errors import EmulationError, HazardError
from numba_fa.emulator.memory import GlobalMemory
from numba_fa.emulator.tensor_core import Group, InFlight, half_to_float32, mn_major, multiplied
from numba_fa.emulator.threads import current
from numba_fa.emulator.twins_fragment import _HALF, _NEG_INF, _TINY, _each_row, registers_of
from numba_fa.emulator.twins_wgmma import Step, _same, _start

QUAD_STEP = 2048


def keep_from(count: int, fragment: np.ndarray, start0: int, start1: int) -> np.ndarray:
    """-inf where a column lies before its row's start."""
    return np.where(registers_of(count)[1] >= _each_row(count, start0, start1, np.int64), np.asarray(fragment), _NEG_INF)


def column_values(count: int, address: int) -> np.ndarray:
    """The float32 of each of the thread's columns; HazardError where it has not come."""
    pairs = int(address) + 32 * np.arange(count // 4)[:, None] + 4 * np.arange(2)
    return _read_words(pairs.reshape(-1), "columns' values")


def _of_registers(count: int, values: np.ndarray) -> np.ndarray:
    """The columns' values, each register's."""
    return np.tile(np.asarray(values).reshape(-1, 2), 2).reshape(-1)


def column_exponential(count: int, fragment: np.ndarray, scale: Any, values: np.ndarray) -> np.ndarray:
    """2 ** (fragment * scale - the column's value), rounded once, denormals flushed."""
    power = np.asarray(fragment).astype(np.float64) * np.float32(scale) - _of_registers(count, values)
    result = np.exp2(power.astype(np.float32))
    result[result < _TINY] = 0
    return result


def column_gradient(count: int, weights: np.ndarray, products: np.ndarray, values: np.ndarray) -> np.ndarray:
    """weights * (products - the column's value)."""
    return np.asarray(weights) * (np.asarray(products) - _of_registers(count, values))


def add_gradient(
    count: int, totals: np.ndarray, weights: np.ndarray, products: np.ndarray, value0: Any, value1: Any
) -> np.ndarray:
    """totals + weights * (products - the row's value), rounded once; totals where a weight is 0."""
    totals, weights = np.asarray(totals, np.float32), np.asarray(weights, np.float32)
    with np.errstate(invalid="ignore"):
        inner = np.asarray(products, np.float32) - _each_row(count, value0, value1)
        more = (weights.astype(np.float64) * inner + totals).astype(np.float32)
    return np.where(weights == 0, totals, more)


def store_rows(count: int, row_bytes: int, fragment: np.ndarray, address: int) -> None:
    """float32 to shared memory, rows of row_bytes; HazardError as for single words."""
    second, columns = registers_of(count)
    block = current().block
    for value, place in zip(np.asarray(fragment, np.float32), second * 8 * row_bytes + 4 * columns, strict=True):
        block.shared_array(np.dtype(np.float32), int(address) + int(place))[0] = value


def stmatrix_words(count: int, words: np.ndarray, row: int, atom: int, swizzle: int, half: int) -> None:
    """As `stmatrix`, of words packed already."""
    thread = current()
    instructions = np.arange(count // 4)
    chunk = (int(half) + 2 * instructions % 8) ^ int(swizzle)
    addresses = int(row) + (chunk << 4) + int(atom) * (2 * instructions // 8)
    first = thread.index // 32 * 32

    def combine(values: dict[int, Any]) -> dict[int, None]:
        at = np.stack([value[0] for value in values.values()], axis=1)
        all_words = np.stack([value[1] for value in values.values()]).reshape(8, 4, -1, 4)
        rows = all_words.transpose(2, 3, 0, 1).reshape(-1, 32, 4)
        shared = thread.block.shared
        numbers = shared.numbers(at, "stmatrix")
        writers = np.broadcast_to(first + np.arange(32), numbers.shape)
        shared.write_generic(numbers, np.ascontiguousarray(rows).view(np.uint8), writers, "stmatrix")
        return dict.fromkeys(values)

    thread.block.threads.meet(("stmatrix_words", count), 32, (addresses, np.asarray(words)), combine)


def store_quads(count: int, fragment: np.ndarray, address: int) -> None:
    """16-byte pieces to shared memory, QUAD_STEP apart."""
    thread = current()
    shared = thread.block.shared
    numbers = shared.numbers(int(address) + QUAD_STEP * np.arange(count // 4), "store_quads")
    pieces = np.asarray(fragment, np.float32).reshape(-1, 4).view(np.uint8)
    shared.write_generic(numbers, pieces, np.full(numbers.shape, thread.index), "store_quads")


def share_words(count: int, words: np.ndarray, address: int) -> None:
    """Packed registers to shared memory, in 16-byte pieces."""
    store_quads(count, np.asarray(words, np.uint32).view(np.float32), address)


def shared_values(count: int, dtype: str, address: int) -> np.ndarray:
    """What `share_words` left, widened; HazardError where nobody wrote it, or no barrier came after."""
    places = int(address) + QUAD_STEP * np.arange(count // 8)[:, None] + 4 * np.arange(4)
    return _read_words(places.reshape(-1), "shared_values").view(_HALF[dtype]).astype(np.float32)


def gemm_tt(n: int, steps: int, dtype: str, a_step: Step, b_step: Step, a: int, b: int) -> InFlight:
    """Start A^T @ B, both MN-major in shared memory."""
    thread = current()
    shared = thread.block.shared

    def combine(values: dict[int, Any]) -> dict[int, InFlight]:
        a0, b0 = _same(values, "gemm_tt")
        operands = [
            mn_major(shared, [a0 + a_step(k) for k in range(steps)], 64),
            mn_major(shared, [b0 + b_step(k) for k in range(steps)], n),
        ]

        def multiply(left: np.ndarray, right: np.ndarray) -> np.ndarray:
            return multiplied("ki,kj->ij", half_to_float32(left, dtype), half_to_float32(right, dtype))

        return _start(thread, values, Group(operands, multiply), n, steps, f"{dtype}, A and B in shared memory, transposed")

    return thread.block.threads.meet(("gemm_tt", n, steps, dtype), 128, (int(a), int(b)), combine)


def bulk_load(destination: int, source: int, size: int, barrier: int) -> None:
    """Start a copy of global memory; it lands when that lets a waiter at the mbarrier pass."""
    block = current().block
    numbers = _chunks(block, int(destination), int(size), "bulk_load")
    data = _global(int(source), int(size), "bulk_load")
    mbarrier = block.mbarrier(int(barrier))
    if not mbarrier.fenced:
        raise HazardError(f"bulk_load completes on {mbarrier.name}, made without fence_mbarrier_init after")
    block.shared.begin_load(numbers, "bulk_load", current().index)

    def land(agent: int, time: int) -> None:
        block.shared.land(numbers, data.reshape(-1, 16).copy(), agent, time)
        block.end(event)

    mbarrier.loads.append((int(size), land))
    event = block.record("bulk_load", current().index, int(size), int(destination), f"for {mbarrier.name}")


class _Sum:
    """What a bulk reduction adds to, in the shape of a tensor map with one row of chunks."""

    def __init__(self, target: np.ndarray) -> None:
        self.target, self.rows, self.box_bytes = target, 1, target.nbytes

    def touched(self, *_: int) -> np.ndarray:
        return np.ones((1, self.box_bytes // 16), bool)

    def write(self, box: np.ndarray, *_: int) -> None:
        self.target += np.ascontiguousarray(box).view(np.float32).reshape(-1)


def bulk_reduce_add(destination: int, source: int, size: int) -> None:
    """Start a sum into global memory; it reads its source when waited for."""
    block = current().block
    numbers = _chunks(block, int(source), int(size), "bulk_reduce_add")[None]
    target = _Sum(_global(int(destination), int(size), "bulk_reduce_add").view(np.float32))
    block.stores.start(current().index, target, numbers, (0, 0, 0, 0))


def load_words(address: int) -> np.ndarray:
    """Four words of global memory."""
    return _global(int(address), 16, "load_words").view(np.uint32).copy()


def load_quads(count: int, address: int) -> np.ndarray:
    """16-byte pieces of global memory, QUAD_STEP apart."""
    pieces = [_global(int(address) + QUAD_STEP * j, 16, "load_quads").view(np.float32) for j in range(count // 4)]
    return np.concatenate(pieces)


def add_quads(count: int, fragment: np.ndarray, address: int) -> None:
    """16-byte pieces added to global memory, QUAD_STEP apart."""
    pieces = np.asarray(fragment, np.float32).reshape(-1, 4)
    for j, piece in enumerate(pieces):
        _global(int(address) + QUAD_STEP * j, 16, "add_quads").view(np.float32)[...] += piece


def store_zero(address: int) -> None:
    """16 bytes of zeros to global memory."""
    _global(int(address), 16, "store_zero")[...] = 0


def dot_words(dtype: str, a: np.ndarray, b: np.ndarray) -> np.float32:
    """The sum of products, one rounding each."""
    kind = np.dtype(np.float32) if dtype == "fp32" else _HALF[dtype]
    total = np.float32(0)
    for x, y in zip(np.asarray(a).view(kind).astype(np.float64), np.asarray(b).view(kind).astype(np.float64), strict=True):
        total = np.float32(x * y + total)
    return total


def ld_global_f32(address: int) -> np.float32:
    """One float32 of global memory."""
    return _global(int(address), 4, "ld_global_f32").view(np.float32)[0]


def ld_global_u16(address: int) -> int:
    """16 bits of global memory."""
    return int(_global(int(address), 2, "ld_global_u16").view(np.uint16)[0])


def ticket_wait(address: int, value: int) -> None:
    """Blocks run one after another here, so whom this one waits for is done, or it will never be."""
    ticket = int(_global(int(address), 4, "ticket_wait").view(np.int32)[0])
    if ticket != int(value):
        raise EmulationError(f"the ticket at {int(address):#x} is {ticket} and will not become {int(value)}")


def ticket_set(address: int, value: int) -> None:
    """The next one."""
    _global(int(address), 4, "ticket_set").view(np.int32)[0] = int(value)


def grid_wait() -> None:
    """The kernels before have ended here; but what an early one touches before it asks is an error."""
    current().block.wait_for_grids(current().index)


def grid_go_ahead() -> None:
    """Nothing: kernels run one after another here."""


def _read_words(places: np.ndarray, what: str) -> np.ndarray:
    """The float32 words at shared addresses, as this thread may read them."""
    thread, shared = current().index, current().block.shared
    if (places % 4).any() or places.min() < shared.base or places.max() + 4 > shared.limit:
        raise EmulationError(f"{what} at {int(places.min()):#x}: misaligned or outside shared memory")
    for place in places.tolist():
        shared.read_word(place, thread)
    return shared.bytes.view(np.float32)[places // 4]


def _chunks(block: Any, address: int, size: int, what: str) -> np.ndarray:
    if size % 16 or size <= 0:
        raise EmulationError(f"{what} of {size} bytes; a multiple of 16 is wanted")
    return block.shared.numbers(address + 16 * np.arange(size // 16), what)


def _global(address: int, size: int, what: str) -> np.ndarray:
    """The bytes of an array at a global address, as a view."""
    memory: GlobalMemory | None = current().block.memory
    if memory is None:
        raise EmulationError(f"{what} at {address:#x}, and the kernel was given no pointer")
    if address % min(size, 16):
        raise EmulationError(f"{what} of {size} bytes at {address:#x}, which is misaligned")
    current().block.touch_global(current().index)
    return memory.span(address, size, what)


TWINS = (
    keep_from, column_values, column_exponential, column_gradient, add_gradient, store_rows, stmatrix_words, store_quads,
    share_words, shared_values, gemm_tt, bulk_load, bulk_reduce_add,
    load_words, load_quads, add_quads, store_zero, dot_words, ld_global_f32, ld_global_u16, ticket_wait, ticket_set,
    grid_wait, grid_go_ahead,
)  # fmt: skip
