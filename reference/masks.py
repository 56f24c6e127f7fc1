"""Which keys a query sees. One function a mask, the tables of their names, and how masks combine.

Every mask is `(b, h, q_idx, kv_idx, seqlen_q, seqlen_k, *, parameters) -> bool array`: the indices are integer
arrays (or ints) that broadcast against each other, h that of the query head, the lengths are ints, and True means
that the query sees the key. The result has the broadcast shape of the four indices. Positions are aligned at the
bottom right: the last query stands at the last key, so query i stands at key position `i + seqlen_k - seqlen_q`.
"""
import functools

import numpy as np

from .parameters import bind, lookup


def cellwise(mask):
    """The mask with its result broadcast to the shape of the four indices: it may leave out those it ignores."""

    @functools.wraps(mask)
    def broadcast(b, h, q_idx, kv_idx, seqlen_q, seqlen_k, **params):
        indices = [np.asarray(index) for index in (b, h, q_idx, kv_idx)]
        visible = mask(*indices, seqlen_q, seqlen_k, **params)
        return np.broadcast_to(visible, np.broadcast_shapes(*(index.shape for index in indices)))

    return broadcast


@cellwise
def full(b, h, q_idx, kv_idx, seqlen_q, seqlen_k):
    """Every query sees every key."""
    return True


@cellwise
def causal(b, h, q_idx, kv_idx, seqlen_q, seqlen_k):
    """Query i sees key j iff `j <= i + seqlen_k - seqlen_q`.

    The bottom-right alignment is that of FlashAttention since 2.1. With seqlen_q > seqlen_k the first
    `seqlen_q - seqlen_k` queries see nothing.
    """
    return kv_idx <= q_idx + (seqlen_k - seqlen_q)


@cellwise
def window(b, h, q_idx, kv_idx, seqlen_q, seqlen_k, *, left=-1, right=-1, sinks=0):
    """Query i sees key j iff `-left <= j - i - (seqlen_k - seqlen_q) <= right`, or `j < sinks` and only the right bound.

    left and right are counts of keys beside the query's own, -1 or None for no bound. The first `sinks` keys escape
    the left bound, never the right one (Xiao et al. 2023, "Efficient Streaming Language Models with Attention
    Sinks"). ValueError for a bound below -1 or a negative count of sinks.
    """
    left, right = (-1 if bound is None else bound for bound in (left, right))
    if left < -1 or right < -1 or sinks < 0:
        raise ValueError(f"left {left} and right {right} must be -1 or more, sinks {sinks} 0 or more")
    ahead = kv_idx - (q_idx + (seqlen_k - seqlen_q))
    near = np.True_ if left == -1 else (ahead >= -left) | (kv_idx < sinks)
    return near if right == -1 else near & (ahead <= right)


@cellwise
def padding(b, h, q_idx, kv_idx, seqlen_q, seqlen_k, *, lengths):
    """Batch b sees its first `lengths[b]` keys. lengths (batch,) integers."""
    return kv_idx < lookup(lengths, b)


@cellwise
def document(b, h, q_idx, kv_idx, seqlen_q, seqlen_k, *, q_ids, k_ids=None):
    """Query i sees key j iff `q_ids[b, i] == k_ids[b, j]`: documents packed in one sequence do not see each other.

    q_ids (batch, seqlen_q), k_ids (batch, seqlen_k) integers, q_ids where None; a batch of 1 serves all.
    """
    k_ids = q_ids if k_ids is None else k_ids
    return lookup(q_ids, b, q_idx) == lookup(k_ids, b, kv_idx)


@cellwise
def prefix(b, h, q_idx, kv_idx, seqlen_q, seqlen_k, *, prefix):
    """Every query sees the first `prefix[b]` keys, and its own and earlier ones as under `causal`.

    prefix is an int or (batch,) integers. Raffel et al. 2020 (T5), section 3.2.1, "causal with prefix".
    """
    return causal(b, h, q_idx, kv_idx, seqlen_q, seqlen_k) | (kv_idx < lookup(np.atleast_1d(prefix), b))


MASK_KINDS = {mask.__name__: mask for mask in (full, causal, window, padding, document, prefix)}

# Those that need no parameters: the names that `attention` takes.
MASKS = {"full": full, "causal": causal}


def intersection(*masks):
    """The mask that sees what all of these see: a callable of their common arguments; all keys for no mask."""
    return lambda *cell: functools.reduce(np.logical_and, (mask(*cell) for mask in masks), np.True_)


def union(*masks):
    """The mask that sees what any of these sees: a callable of their common arguments; no key for no mask."""
    return lambda *cell: functools.reduce(np.logical_or, (mask(*cell) for mask in masks), np.False_)


def as_function(mask, batch, heads, seqlen_q, seqlen_k):
    """A mask in any form that `attention` takes as a callable `(b, h, q_idx, kv_idx) -> bool array`.

    A name in `MASKS`, a bool array that broadcasts to (batch, heads, seqlen_q, seqlen_k), or such a callable, which
    comes back as it is. ValueError for an unknown name, another dtype or a shape that does not broadcast.
    """
    if callable(mask):
        return mask
    if isinstance(mask, str):
        if mask not in MASKS:
            raise ValueError(f"unknown mask {mask!r}; known: {sorted(MASKS)}")
        return bind(MASKS[mask], seqlen_q, seqlen_k)
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise ValueError(f"a mask array is bool, not {mask.dtype}: a float array is a bias")
    visible = np.broadcast_to(mask, (batch, heads, seqlen_q, seqlen_k))
    return lambda b, h, q_idx, kv_idx: visible[b, h, q_idx, kv_idx]


def visible_keys(mask, seqlen_q, seqlen_k, b=0, h=0, *, batch=1, heads=1):
    """What `mask`, in any form that `attention` takes, shows to head h of batch b: (seqlen_q, seqlen_k) bool.

    batch and heads matter to an array alone: they are the sizes that it broadcasts to. Errors as `as_function`.
    """
    function = as_function(mask, batch, heads, seqlen_q, seqlen_k)
    visible = function(b, h, np.arange(seqlen_q)[:, None], np.arange(seqlen_k)[None, :])
    return np.broadcast_to(np.asarray(visible, dtype=bool), (seqlen_q, seqlen_k))
