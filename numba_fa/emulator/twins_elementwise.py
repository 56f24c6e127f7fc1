"""Twins of `ptx/elementwise.py`: a function of one score at each register of a fragment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from numba_fa.emulator.twins_fragment import registers_of

_NEG_INF = np.float32(-np.inf)


def map_scores(
    count: int, function: Callable[..., Any], clamp: bool, fragment: Any, b: int, h: int, q0: int, q1: int, kv0: int,
    limit: int, aux: tuple[Any, ...],
) -> np.ndarray:  # fmt: skip
    """function(score, b, h, q_idx, kv_idx, aux) in each score's place; with `clamp`, keys past `limit` pass as `limit`."""
    places = _places(count, q0, q1, kv0, limit if clamp else None)
    scores = np.asarray(fragment)
    return np.array([function(score, b, h, *place, aux) for score, place in zip(scores, places)], np.float32)


def keep_visible(
    count: int, function: Callable[..., Any], bounded: bool, fragment: Any, b: int, h: int, q0: int, q1: int, kv0: int,
    limit: int, aux: tuple[Any, ...],
) -> np.ndarray:  # fmt: skip
    """-inf where function(b, h, q_idx, kv_idx, aux) is false and, if `bounded`, where a key is past `limit`."""
    seen = [function(b, h, *place, aux) for place in _places(count, q0, q1, kv0, limit if bounded else None)]
    if bounded:
        seen &= kv0 + registers_of(count)[1] <= limit
    return np.where(seen, np.asarray(fragment), _NEG_INF)


def _places(count: int, q0: int, q1: int, kv0: int, limit: int | None) -> Iterator[tuple[int, int]]:
    """(query, key) of each register; keys are `limit` at most."""
    second, columns = registers_of(count)
    for row, column in zip(second.tolist(), columns.tolist()):
        kv_idx = kv0 + column
        yield (q1 if row else q0), kv_idx if limit is None else min(kv_idx, limit)


TWINS = (map_scores, keep_visible)
