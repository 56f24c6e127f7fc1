"""Twins of `ptx/fragment.py`: a fragment is one thread's registers, a float32 array (count,).

A pair of values belongs to the thread's two rows. Packed words are uint32 arrays, two 16-bit floats in each, the
lower column in the lower half.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np

from numba_fa.emulator.threads import current

_HALF = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
_NEG_INF = np.float32(-np.inf)
_NAN = 0x7FFF  # what conversions to either 16-bit type make of any NaN
_TINY = np.finfo(np.float32).tiny


@lru_cache
def registers_of(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Per register: whether it is of the thread's second row; its column, less what differs between threads."""
    register = np.arange(count)
    return register // 2 % 2 == 1, register // 4 * 8 + register % 2


@lru_cache
def _rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(register numbers of the first row, of the second)."""
    second, _ = registers_of(count)
    return np.flatnonzero(~second), np.flatnonzero(second)


def _each_row(count: int, value0: Any, value1: Any, dtype: Any = np.float32) -> np.ndarray:
    """Per register the value of its row."""
    return np.tile(np.array([value0, value0, value1, value1], dtype), count // 4)


def zeros(count: int) -> np.ndarray:
    """A fragment of zeros."""
    return np.zeros(count, np.float32)


def row_max(count: int, nan: bool, fragment: np.ndarray, start0: np.float32, start1: np.float32) -> tuple[Any, Any]:
    """Maximum of each row and its start; like max.f32, NaN only where all are NaN, or, if `nan`, where one is."""
    values, larger = np.asarray(fragment), np.maximum if nan else np.fmax
    row0, row1 = (larger.reduce(values[row]) for row in _rows(count))
    return larger(row0, np.float32(start0)), larger(row1, np.float32(start1))


def row_sum(count: int, fragment: np.ndarray) -> tuple[Any, Any]:
    """Sum of each row, in two chains as `ptx/fragment.py` forms it."""
    values = np.asarray(fragment)
    # accumulate adds one by one, where sum adds in pairs
    chains = [np.add.accumulate(values[row[start::2]])[-1] for row in _rows(count) for start in (0, 1)]
    return chains[0] + chains[1], chains[2] + chains[3]


def exponential(count: int, fragment: np.ndarray, scale: Any, shift0: Any, shift1: Any) -> np.ndarray:
    """2 ** (fragment * scale - shift), the product and difference rounded once, denormals flushed."""
    power = np.asarray(fragment).astype(np.float64) * np.float32(scale) - _each_row(count, shift0, shift1)
    result = np.exp2(power.astype(np.float32))
    result[result < _TINY] = 0
    return result


def scale_rows(count: int, fragment: np.ndarray, factor0: Any, factor1: Any) -> np.ndarray:
    """Each row times its factor."""
    return np.asarray(fragment) * _each_row(count, factor0, factor1)


def scale_and_lift(count: int, fragment: np.ndarray, scale: Any, lift: Any) -> np.ndarray:
    """fragment * scale + lift, rounded once."""
    return (np.asarray(fragment).astype(np.float64) * np.float32(scale) + np.float32(lift)).astype(np.float32)


def slope_columns(count: int, fragment: np.ndarray, step: Any) -> np.ndarray:
    """Each register plus `step` times its column, rounded once."""
    columns = registers_of(count)[1]
    return (np.asarray(fragment).astype(np.float64) + np.float64(np.float32(step)) * columns).astype(np.float32)


def pack(count: int, dtype: str, fragment: np.ndarray) -> np.ndarray:
    """Neighbours rounded to `dtype`, nearest even, together in one word; every NaN becomes the same one."""
    values = np.asarray(fragment)
    halves = values.astype(_HALF[dtype]).view(np.uint16)
    halves[np.isnan(values)] = _NAN
    return halves.view(np.uint32)


def pack_nothing(count: int, fragment: np.ndarray, zero: int) -> np.ndarray:
    """Words of 0."""
    return np.full(count // 2, zero, np.uint32)


def stmatrix(
    count: int, dtype: str, start: int, fragment: Any, row: int, atom: int, swizzle: int, half: int
) -> None:
    """The warp stores its 16 rows: lane l gives the address of row l % 8 of 8x8 matrix l // 8, four at a time."""
    thread = current()
    instructions = np.arange(count // 8)
    chunk = (half + 2 * instructions % 8) ^ swizzle
    addresses = row + (chunk << 4) + atom * (2 * instructions // 8)
    first = thread.index // 32 * 32

    def combine(values: dict[int, Any]) -> dict[int, None]:
        at = np.stack([value[0] for value in values.values()], axis=1)
        words = np.stack([value[1] for value in values.values()]).reshape(8, 4, -1, 4)  # row, quad, instruction, matrix
        rows = words.transpose(2, 3, 0, 1).reshape(-1, 32, 4)  # of each instruction: lane's row, its four words
        shared = thread.block.shared
        numbers = shared.numbers(at, "stmatrix")
        writers = np.broadcast_to(first + np.arange(32), numbers.shape)
        shared.write_generic(numbers, np.ascontiguousarray(rows).view(np.uint8), writers, "stmatrix")
        return dict.fromkeys(values)

    words = pack(count, dtype, np.asarray(fragment)[start : start + count])
    thread.block.threads.meet(("stmatrix", count, dtype, start), 32, (addresses, words), combine)


TWINS = (zeros, row_max, row_sum, exponential, scale_rows, scale_and_lift, slope_columns, pack, pack_nothing, stmatrix)
