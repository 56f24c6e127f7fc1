"""Which keys a query sees. One function per mask, plus the table of their names.

Every mask is `(q_idx, kv_idx, seqlen_q, seqlen_k) -> bool array`: the indices are integer arrays (or ints)
that broadcast against each other, the lengths are ints, and True means that the query sees the key. Positions
are aligned at the bottom right: the last query stands at the last key, so query i stands at key position `i +
seqlen_k - seqlen_q`.
"""
import numpy as np


def full(q_idx, kv_idx, seqlen_q, seqlen_k):
    """Every query sees every key: a bool array of the broadcast shape of the indices, all True."""
    return np.ones(np.broadcast_shapes(np.shape(q_idx), np.shape(kv_idx)), dtype=bool)


def causal(q_idx, kv_idx, seqlen_q, seqlen_k):
    """Query i sees key j iff `j <= i + seqlen_k - seqlen_q`: a bool array of the broadcast shape of the
    indices.

    The bottom-right alignment is that of FlashAttention since 2.1. With seqlen_q > seqlen_k the first
    `seqlen_q - seqlen_k` queries see nothing.
    """
    return np.asarray(kv_idx) <= np.asarray(q_idx) + (seqlen_k - seqlen_q)


MASKS = {"full": full, "causal": causal}


def visible_keys(mask, seqlen_q, seqlen_k):
    """The whole mask called `mask` as a (seqlen_q, seqlen_k) bool array; ValueError for an unknown name."""
    if mask not in MASKS:
        raise ValueError(f"unknown mask {mask!r}; known: {sorted(MASKS)}")
    return MASKS[mask](np.arange(seqlen_q)[:, None], np.arange(seqlen_k)[None, :], seqlen_q, seqlen_k)
