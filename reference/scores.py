"""From q and k to the scores that the softmax takes: scale, biases, mask. The order is part of the definition."""
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .masks import as_function, visible_keys


class Head(NamedTuple):
    """What one query head does to its products, beyond q and k.

    b, h its batch and head index; visible (seqlen_q, seqlen_k) bool; bias a tuple of callables `(score, b, h, q_idx,
    kv_idx) -> score`; sink a logit that joins the softmax's denominator, -inf for none; scale a number.
    """

    b: int
    h: int
    visible: np.ndarray
    bias: tuple[Callable, ...]
    sink: float
    scale: float


def default_scale(q):
    """The scale that attention uses when none is given: 1 / sqrt(head_dim), a Python float."""
    return 1.0 / math.sqrt(q.shape[-1])


def sinks_of(sink_logits, heads):
    """One float64 logit a head: (heads,), -inf where there are none. ValueError for another shape."""
    sinks = np.full(heads, -np.inf) if sink_logits is None else np.asarray(sink_logits).astype(np.float64)
    if sinks.shape != (heads,):
        raise ValueError(f"expected sink_logits of shape ({heads},), got {sinks.shape}")
    return sinks


def head_maker(q, k, mask, bias, sink_logits, scale):
    """A function `(b, h) -> Head` for the arguments of `attention`.

    It evaluates the mask of one head when asked, so that no more than one is held. Errors as `as_function`.
    """
    batch, seqlen_q, heads, _ = q.shape
    seqlen_k = k.shape[1]
    mask = as_function(mask, batch, heads, seqlen_q, seqlen_k)
    sinks = sinks_of(sink_logits, heads)
    scale = default_scale(q) if scale is None else scale

    def head(b, h):
        return Head(b, h, visible_keys(mask, seqlen_q, seqlen_k, b, h), tuple(bias), sinks[h], scale)

    return head


def indices(block_m, block_n, q_start=0, kv_start=0):
    """The indices of block_m queries from q_start on, (block_m, 1), and of block_n keys from kv_start on, (1, block_n)."""
    return np.arange(q_start, q_start + block_m)[:, None], np.arange(kv_start, kv_start + block_n)[None, :]


def score_steps(q, k, head, q_start=0, kv_start=0):
    """`scale * q.k`, then what each bias in turn makes of it: a list of (block_m, block_n) arrays.

    q (block_m, head_dim) holds the queries from q_start on, k (block_n, head_dim) the keys from kv_start on; the
    scores have their dtype, whatever a bias returns.
    """
    q_idx, kv_idx = indices(len(q), len(k), q_start, kv_start)
    steps = [(q @ k.T) * q.dtype.type(head.scale)]
    for modify in head.bias:
        score = np.asarray(modify(steps[-1], head.b, head.h, q_idx, kv_idx)).astype(q.dtype)
        steps.append(np.broadcast_to(score, steps[-1].shape))
    return steps


def masked(score, visible):
    """The score where visible, and -inf elsewhere, whatever it is there."""
    return np.where(visible, score, score.dtype.type(-np.inf))
