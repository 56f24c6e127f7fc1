"""Twins of `ptx/elementwise.py`: the user's Python function on every element of one thread's fragment."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from numba_fa.emulator.dual import Dual, differentiated, slope_of
from numba_fa.ptx.fragment import column_of, row_of

_NEG_INF = np.float32(-np.inf)
_of_duals = lru_cache(maxsize=16)(differentiated)  # asked of every score anew


@lru_cache
def _registers(count: int) -> list[tuple[int, int, int]]:
    """(register, its row of the thread's two, its column less the thread's)."""
    return [(i, row_of(i), column_of(i)) for i in range(count)]


def _each(count: int, arguments: tuple[Any, ...], clamp: bool) -> Any:
    """(register, b, h, q, kv as Python ints) of each element."""
    b, h, q0, q1, kv0, limit = [int(value) for value in arguments]
    rows = (q0, q1)
    for i, row, column in _registers(count):
        kv = kv0 + column
        yield i, b, h, rows[row], limit if clamp and kv > limit else kv


def map_scores(count: int, function: Callable[..., Any], clamp: bool, fragment: np.ndarray, *arguments: Any) -> np.ndarray:
    """function(score, b, h, q, kv, aux) of each element, rounded to float32."""
    *places, aux = arguments
    values = np.asarray(fragment, np.float32)
    result = np.empty(count, np.float32)
    with np.errstate(all="ignore"):
        for i, b, h, q, kv in _each(count, tuple(places), clamp):
            result[i] = function(values[i], b, h, q, kv, aux)
    return result


def map_both(
    count: int, function: Callable[..., Any], clamp: bool, fragment: np.ndarray, *arguments: Any
) -> tuple[np.ndarray, np.ndarray]:
    """function of each element, and its derivative."""
    *places, aux = arguments
    values, slopes = np.asarray(fragment, np.float32), np.empty(count, np.float32)
    function_of_duals = differentiated(function)
    with np.errstate(all="ignore"):
        for i, b, h, q, kv in _each(count, tuple(places), clamp):
            slopes[i] = slope_of(function_of_duals(Dual(values[i], 1), b, h, q, kv, aux))
    return map_scores(count, function, clamp, fragment, *arguments), slopes


def value_and_slope(
    function: Callable[..., Any], score: np.float32, b: int, h: int, q: int, kv: int, aux: Any
) -> tuple[np.float32, np.float32]:
    """The function of one score, and its derivative."""
    places = (int(b), int(h), int(q), int(kv), aux)
    value = function(np.float32(score), *places)
    return np.float32(value), np.float32(slope_of(_of_duals(function)(Dual(score, 1), *places)))


def map_gradient(
    count: int, function: Callable[..., Any], clamp: bool, fragment: np.ndarray, outer: np.ndarray, *arguments: Any
) -> np.ndarray:
    """`outer` times the derivative."""
    return chain(count, outer, map_both(count, function, clamp, fragment, *arguments)[1])


def chain(count: int, outer: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """The product, 0 where `outer` is."""
    outer = np.asarray(outer, np.float32)
    with np.errstate(invalid="ignore"):
        return np.where(outer == 0, outer, outer * np.asarray(slopes, np.float32))


def keep_visible(
    count: int, function: Callable[..., Any], clamp: bool, bounded: bool, fragment: np.ndarray, *arguments: Any
) -> np.ndarray:
    """-inf where function(b, h, q, kv, aux) is false or, if bounded, where a key is above the limit."""
    *places, aux = arguments
    result = np.array(fragment, np.float32)
    first, limit = int(places[4]), int(places[5])
    for i, b, h, q, kv in _each(count, tuple(places), clamp):
        if (bounded and first + column_of(i) > limit) or not function(b, h, q, kv, aux):
            result[i] = _NEG_INF
    return result


TWINS = (map_scores, map_both, value_and_slope, map_gradient, chain, keep_visible)
