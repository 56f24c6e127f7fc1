"""Where a bias reads its parameter, and by how much its result grows with what it reads: for the parameters' gradients.

Functions of a position, beside those of `biases.py` and with the same launch arguments. Their truth is in
`reference/bias_gradients.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numba_fa.flash.biases import t5_bucket, t5_facts


@dataclass(frozen=True)
class ParameterRule:
    """The parameter of a kind of bias, an array that gradients are wanted of.

    factor(b, h, q_idx, kv_idx, *arguments) -> number: the derivative of the bias's result by the element that it reads.
    place(b, h, q_idx, kv_idx, *arguments) -> tuple of integers: that element's index in the array. argument: which of
    the bias's launch arguments the array is. axes: what each of the array's axes is indexed with, "b", "h", "q", "k" or
    "-" for something else.
    """

    factor: Callable[..., Any]
    place: Callable[..., Any]
    argument: int
    axes: str


def alibi_factor(b, h, q_idx, kv_idx, offset, slopes):
    """score - slopes[b, h] * |distance|."""
    return -abs(q_idx + offset - kv_idx)


def alibi_place(b, h, q_idx, kv_idx, offset, slopes):
    """A slope a head."""
    return b, h


def dense_factor(b, h, q_idx, kv_idx, bias):
    """score + bias[b, h, q_idx, kv_idx]."""
    return 1


def dense_place(b, h, q_idx, kv_idx, bias):
    """An element a score, broadcast by strides of 0."""
    return b, h, q_idx, kv_idx


def t5_factor(b, h, q_idx, kv_idx, offset, table):
    """score + table[bucket, h]."""
    return 1


def make_t5_place(buckets: int, max_distance: int, bidirectional: bool) -> Callable[..., Any]:
    """The place in a table of one size: (bucket of the key's relative position, h)."""
    code = (
        "def t5_place(b, h, q_idx, kv_idx, offset, table):\n"
        f"{t5_bucket(buckets, max_distance, bidirectional)}"
        "    return bucket, h\n"
    )
    scope: dict[str, Callable[..., Any]] = {}
    exec(code, scope)
    return scope["t5_place"]


def parameter_rule(name: str) -> ParameterRule | None:
    """The rule of a bias by its name in a slug; None for a bias without a parameter to learn."""
    kind = name.partition("_")[0]
    if kind == "alibi":
        return ParameterRule(alibi_factor, alibi_place, 1, "bh")
    if kind == "dense":
        return ParameterRule(dense_factor, dense_place, 0, "bhqk")
    return ParameterRule(t5_factor, make_t5_place(*t5_facts(name)), 1, "-h") if kind == "t5" else None
