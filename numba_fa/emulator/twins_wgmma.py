"""Twins of `ptx/wgmma.py`: products start when the warpgroup has met, and are computed at their wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numba_fa.emulator.errors import EmulationError
from numba_fa.emulator.tensor_core import (
    Group,
    InFlight,
    half_to_float32,
    k_major,
    mn_major,
    tile_of,
)
from numba_fa.emulator.threads import current

Step = Callable[[int], int]


def gemm_ss(n: int, steps: int, dtype: str, a_step: Step, b_step: Step, a: int, b: int) -> InFlight:
    """Start A @ B^T, both K-major in shared memory."""
    thread = current()
    shared = thread.block.shared

    def combine(values: dict[int, Any]) -> dict[int, InFlight]:
        a0, b0 = _same(values, "gemm_ss")
        operands = [
            k_major(shared, [a0 + a_step(k) for k in range(steps)], 64),
            k_major(shared, [b0 + b_step(k) for k in range(steps)], n),
        ]

        def multiply(left: np.ndarray, right: np.ndarray) -> np.ndarray:
            return half_to_float32(left, dtype) @ half_to_float32(right, dtype).T

        return _start(thread, values, Group(operands, multiply), n, steps, f"{dtype}, A and B in shared memory")

    key = ("gemm_ss", n, steps, dtype)
    return thread.block.threads.meet(key, 128, (int(a), int(b)), combine)


def gemm_rs(n: int, steps: int, dtype: str, b_step: Step, fragment: Any, words: np.ndarray, b: int) -> InFlight:
    """Start fragment + A @ B, A in registers, B MN-major in shared memory."""
    thread = current()
    shared = thread.block.shared

    def combine(values: dict[int, Any]) -> dict[int, InFlight]:
        (b0,) = _same({index: value[2:] for index, value in values.items()}, "gemm_rs")
        accumulator = [value[0] for value in values.values()]
        left = half_to_float32(tile_of(np.stack([value[1].view(np.uint16) for value in values.values()])), dtype)
        operands = [mn_major(shared, [b0 + b_step(k) for k in range(steps)], n)]

        def multiply(right: np.ndarray) -> np.ndarray:
            # Read here: an accumulator may itself be of an older group, finished by now.
            return tile_of(np.stack([_registers(f) for f in accumulator])) + left @ half_to_float32(right, dtype)

        return _start(thread, values, Group(operands, multiply), n, steps, f"{dtype}, A in registers")

    key = ("gemm_rs", n, steps, dtype)
    return thread.block.threads.meet(key, 128, (fragment, words, int(b)), combine)


def wgmma_wait(count: int, pending: int, fragment: Any) -> Any:
    """Finish all but `pending` groups. A fragment whose group is among those stays in flight.

    Once a product is over, each of its threads knows what the others did before: all four warps took part in it. That is
    more than the PTX manual says of memory, and what CUTLASS's pipelines rest on, where one thread hands a stage back.
    """
    thread = current()

    def combine(values: dict[int, Any]) -> dict[int, Any]:
        thread.block.warpgroup(thread.index).wait(pending)
        thread.block.order.join(list(values))
        return {index: _arrived(value) for index, value in values.items()}

    return thread.block.threads.meet(("wgmma_wait", count, pending), 128, fragment, combine, late=True)


def _start(thread: Any, values: dict[int, Any], group: Group, n: int, steps: int, note: str) -> dict[int, InFlight]:
    shape = f"m64n{n}k{16 * steps} {note}"
    thread.block.warpgroup(thread.index).start(group, 2 * 64 * n * 16 * steps, shape)
    return {index: InFlight(group, index % 128) for index in values}


def _same(values: dict[int, Any], name: str) -> Any:
    """The operands' descriptors, which must be the same in all threads."""
    distinct = set(values.values())
    if len(distinct) > 1:
        raise EmulationError(f"{name}: descriptors differ between the threads of a warpgroup: {sorted(distinct)[:4]}")
    return distinct.pop()


def _arrived(fragment: Any) -> Any:
    in_flight = isinstance(fragment, InFlight) and fragment.group.values is None
    return fragment if in_flight else _registers(fragment)


def _registers(fragment: Any) -> np.ndarray:
    if isinstance(fragment, InFlight) and fragment.group.values is not None:
        return fragment.group.values[fragment.lane]
    return np.asarray(fragment)


TWINS = (gemm_ss, gemm_rs, wgmma_wait)
