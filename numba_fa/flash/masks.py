"""Masks on the device. Each has a namesake in `problem/masks.py` (declaration) and `reference/masks.py` (truth)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceMask:
    """A mask under which query i sees the keys 0 ... row_end(i) - 1, and later queries see no fewer.

    row_end(q_idx, seqlen_q, seqlen_k) gives every verdict: where a tile's keys end (at its last query's end), whether
    a tile of keys is seen whole (when it ends by the first query's end) and which elements of others are seen.
    ragged: whether ends differ between queries, so that tiles before the last can be partial.
    """

    row_end: Callable[[int, int, int], int]
    ragged: bool


def full(q_idx, seqlen_q, seqlen_k):
    """Every key."""
    return seqlen_k


def causal(q_idx, seqlen_q, seqlen_k):
    """Keys up to q_idx + seqlen_k - seqlen_q: the last query sees the last key. May be 0 or less: none."""
    return min(seqlen_k, q_idx + 1 + seqlen_k - seqlen_q)


DEVICE_MASKS = {"full": DeviceMask(full, ragged=False), "causal": DeviceMask(causal, ragged=True)}
