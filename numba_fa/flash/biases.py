"""Biases on the device: functions of one score. Each has a namesake in `problem/biases.py` (declaration) and
`reference/biases.py` (truth).

`score` is scale * q.k, or what an earlier bias made of it. Numbers follow the types of `scalar/`: float32 and int32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any


def alibi(score, b, h, q_idx, kv_idx, offset, slopes):
    """score - slopes[b, h] * |distance of the key from the query's place among the keys| (Press et al. 2022)."""
    return score - slopes[b, h] * abs(q_idx + offset - kv_idx)


def dense(score, b, h, q_idx, kv_idx, bias):
    """score + bias[b, h, q_idx, kv_idx]."""
    return score + bias[b, h, q_idx, kv_idx]


def softcap(score, b, h, q_idx, kv_idx, cap):
    """cap * tanh(score / cap), between -cap and cap (Gemma 2, 2024)."""
    return cap * math.tanh(score / cap)


def t5_thresholds(buckets: int, max_distance: int) -> tuple[int, list[int]]:
    """(how many distances have a bucket of their own, the least distances of the buckets after).

    Bucket exact + k begins where log(n / exact) / log(max_distance / exact) * rest reaches k (Raffel et al. 2020); here
    in integers, n ** rest >= exact ** (rest - k) * max_distance ** k, so that no rounding moves a border.
    """
    exact = buckets // 2
    rest = buckets - exact
    borders, n = [], exact
    for k in range(1, rest):
        while n**rest < exact ** (rest - k) * max_distance**k:
            n += 1
        borders.append(n)
    return exact, borders


def t5_bucket(buckets: int, max_distance: int, bidirectional: bool) -> str:
    """Statements that set `bucket` to that of a key's position relative to the query's."""
    side = buckets // 2 if bidirectional else buckets
    exact, borders = t5_thresholds(side, max_distance)
    # One expression: a loop over borders would mix integer types.
    steps = "".join(f" + (distance >= {border})" for border in borders)
    ahead = f"{side} * (kv_idx > q_idx + offset)" if bidirectional else "0"
    distance = "abs(q_idx + offset - kv_idx)" if bidirectional else "max(q_idx + offset - kv_idx, 0)"
    return f"    distance = {distance}\n    bucket = min(distance, {exact}){steps} + {ahead}\n"


@lru_cache
def make_t5(buckets: int, max_distance: int, bidirectional: bool) -> Callable[..., float]:
    """The T5 bias for one table size: score + table[bucket of the key's relative position, h].

    Its attribute `far` is the same function of positions beyond the last border, for `flash/line.py`.
    """
    code = (
        "def t5(score, b, h, q_idx, kv_idx, offset, table):\n"
        f"{t5_bucket(buckets, max_distance, bidirectional)}"
        "    return score + table[bucket, h]\n"
    )
    scope: dict[str, Any] = {}
    exec(code, scope)
    side = buckets // 2 if bidirectional else buckets
    exact, borders = t5_thresholds(side, max_distance)
    border = max(borders, default=exact)
    before, after = (-border, 2 * side - 1) if bidirectional else (0, 0)

    def far(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, offset: Any, table: Any) -> Any:
        return score + table[(q_idx + offset - kv_idx).outside(before, border, after, side - 1), h]

    scope["t5"].far = far
    return scope["t5"]


def t5_facts(name: str) -> tuple[int, int, bool]:
    """(buckets, max_distance, bidirectional) of a T5 bias's name."""
    _, buckets, max_distance, way = name.split("_")
    return int(buckets), int(max_distance), way == "b"


DEVICE_BIASES = {"alibi": alibi, "dense": dense, "softcap": softcap}


def bias_named(name: str) -> Callable[..., float]:
    """The function of a built-in bias by its name in a slug: "alibi", "dense_bf16", "t5_32_128_b", "softcap"."""
    kind = name.partition("_")[0]
    return make_t5(*t5_facts(name)) if kind == "t5" else DEVICE_BIASES[kind]
