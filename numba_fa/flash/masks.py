"""Masks on the device. Each has a namesake in `problem/masks.py` (declaration) and `reference/masks.py` (truth).

These are plain Python functions: kernels of every family compile them, the emulator calls them. A tile of queries
q_first..q_last never meets a tile of keys beyond `reach`, and a tile that is seen `whole` pays for no mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceMask:
    """A mask's verdicts on an element and on tiles; `aux` are the launch arguments that its declaration names.

    visible(b, h, q_idx, kv_idx, *aux): whether the query sees the key.
    reach(b, h, q_first, q_last, kv_idx, *aux): the last key up to kv_idx that one of these queries may see, negative
    when there is none. It may be too late, never too early.
    whole(b, h, q_first, q_last, kv_first, kv_last, *aux): whether each of these queries sees each of these keys.
    False is always right.
    """

    visible: Callable[..., bool]
    reach: Callable[..., int]
    whole: Callable[..., bool]

    @property
    def arity(self) -> int:
        """How many launch arguments it takes."""
        return self.visible.__code__.co_argcount - 4


def full(b, h, q_idx, kv_idx):
    """Every key."""
    return True


def _full_reach(b, h, q_first, q_last, kv_idx):
    return kv_idx


def _full_whole(b, h, q_first, q_last, kv_first, kv_last):
    return True


def causal(b, h, q_idx, kv_idx, offset):
    """Keys up to q_idx + offset; offset = seqlen_k - seqlen_q: the last query sees the last key."""
    return kv_idx <= q_idx + offset


def _causal_reach(b, h, q_first, q_last, kv_idx, offset):
    return min(kv_idx, q_last + offset)


def _causal_whole(b, h, q_first, q_last, kv_first, kv_last, offset):
    return kv_last <= q_first + offset


def window(b, h, q_idx, kv_idx, low, high, sinks):
    """Keys from q_idx + low to q_idx + high, and of the first `sinks` keys those up to q_idx + high."""
    return (kv_idx <= q_idx + high) & ((kv_idx >= q_idx + low) | (kv_idx < sinks))


def _window_reach(b, h, q_first, q_last, kv_idx, low, high, sinks):
    top = min(kv_idx, q_last + high)
    return top if top >= q_first + low else min(top, sinks - 1)


def _window_whole(b, h, q_first, q_last, kv_first, kv_last, low, high, sinks):
    return kv_last <= q_first + high and (kv_first >= q_last + low or kv_last < sinks)


def padding(b, h, q_idx, kv_idx, lengths):
    """The first lengths[b] keys."""
    return kv_idx < lengths[b]


def _padding_reach(b, h, q_first, q_last, kv_idx, lengths):
    return min(kv_idx, lengths[b] - 1)


def _padding_whole(b, h, q_first, q_last, kv_first, kv_last, lengths):
    return kv_last < lengths[b]


def document(b, h, q_idx, kv_idx, q_ids, k_ids):
    """Keys with the query's segment id."""
    return q_ids[b, q_idx] == k_ids[b, kv_idx]


def _document_reach(b, h, q_first, q_last, kv_idx, q_ids, k_ids):
    return kv_idx


def _document_whole(b, h, q_first, q_last, kv_first, kv_last, q_ids, k_ids):
    return False


def prefix(b, h, q_idx, kv_idx, offset, lengths):
    """Causal, and the first lengths[b] keys for every query."""
    return (kv_idx <= q_idx + offset) | (kv_idx < lengths[b])


def _prefix_reach(b, h, q_first, q_last, kv_idx, offset, lengths):
    return min(kv_idx, max(q_last + offset, lengths[b] - 1))


def _prefix_whole(b, h, q_first, q_last, kv_first, kv_last, offset, lengths):
    return kv_last <= q_first + offset or kv_last < lengths[b]


def prefix_int(b, h, q_idx, kv_idx, offset, length):
    """Causal, and the first `length` keys for every query."""
    return (kv_idx <= q_idx + offset) | (kv_idx < length)


def _prefix_int_reach(b, h, q_first, q_last, kv_idx, offset, length):
    return min(kv_idx, max(q_last + offset, length - 1))


def _prefix_int_whole(b, h, q_first, q_last, kv_first, kv_last, offset, length):
    return kv_last <= q_first + offset or kv_last < length


def block_reach(b, h, q_first, q_last, kv_idx, table, batch_rows, head_rows, bits_m, bits_n):
    """`reach` of a block mask of 2**bits_m queries by 2**bits_n keys.

    table[b * batch_rows + h * head_rows + m, n] is 2 * t + whole for the last block t <= n that has a key visible to
    block m of queries, -1 when there is none.
    """
    n = max(kv_idx, 0) >> bits_n
    row = b * batch_rows + h * head_rows
    m, last = row + (q_first >> bits_m), row + (q_last >> bits_m)
    best = table[m, n] >> 1
    while m < last and best < n:  # no entry is above n
        m += 1
        best = max(best, table[m, n] >> 1)
    return min(kv_idx, ((best + 1) << bits_n) - 1)


def block_whole(b, h, q_first, q_last, kv_first, kv_last, table, batch_rows, head_rows, bits_m, bits_n):
    """`whole` of a block mask."""
    row = b * batch_rows + h * head_rows
    m, last = row + (q_first >> bits_m), row + (q_last >> bits_m)
    first, end = kv_first >> bits_n, kv_last >> bits_n
    n = first
    while table[m, n] == 2 * n + 1:
        if n < end:
            n += 1
        elif m < last:
            m, n = m + 1, first
        else:
            return True
    return False


def unknown_reach(b, h, q_first, q_last, kv_idx):
    """Of a user's function nothing is known before a block mask is made: every tile is visited."""
    return kv_idx


def unknown_whole(b, h, q_first, q_last, kv_first, kv_last):
    """Of a user's function nothing is known: every tile is masked."""
    return False


DEVICE_MASKS = {
    "full": DeviceMask(full, _full_reach, _full_whole),
    "causal": DeviceMask(causal, _causal_reach, _causal_whole),
    "window": DeviceMask(window, _window_reach, _window_whole),
    "padding": DeviceMask(padding, _padding_reach, _padding_whole),
    "document": DeviceMask(document, _document_reach, _document_whole),
    "prefix": DeviceMask(prefix, _prefix_reach, _prefix_whole),
    "prefix_int": DeviceMask(prefix_int, _prefix_int_reach, _prefix_int_whole),
}
