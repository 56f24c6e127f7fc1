"""A cell's inputs and what they must give, by the reference; kept, because cells share them."""

from functools import lru_cache

import numpy as np

import reference
from numba_fa.testing.inputs import DTYPES, random_qkv
from numba_fa.testing.tolerance import assert_close


@lru_cache(maxsize=64)
def truth(batch, seqlen_q, seqlen_k, heads, heads_kv, head_dim, dtype, mask):
    """(out, lse, naive low-precision out), float64, for `random_qkv` of these arguments."""
    q, k, v = random_qkv(batch, seqlen_q, seqlen_k, heads, heads_kv, head_dim, dtype)
    out, lse = reference.attention(q, k, v, mask=mask)
    if dtype == "float32":
        # The naive float32 computation, in the order that float32 hardware would do it.
        q, k, v = (np.asarray(x, np.float32) for x in (q, k, v))
        k, v = (np.repeat(x, heads // heads_kv, axis=2) for x in (k, v))
        scores = np.einsum("bihd,bjhd->bhij", q, k, dtype=np.float32) * np.float32(head_dim**-0.5)
        visible = reference.visible_keys(mask, seqlen_q, seqlen_k)
        scores = np.where(visible, scores, np.float32(-np.inf))
        top = np.maximum(scores.max(-1, keepdims=True), np.float32(-3e38))
        weights = np.exp(scores - top)
        total = weights.sum(-1, keepdims=True)
        weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
        return out, lse, np.einsum("bhij,bjhd->bihd", weights, v).astype(np.float64)
    rounded, _ = reference.attention_rounded(q, k, v, mask=mask, dtype=dtype)
    return out, lse, rounded


def inputs_of(cell):
    """q, k, v of a cell as NumPy arrays in its layout."""
    batch, seqlen_q, seqlen_k, layout = cell.shape
    return random_qkv(batch, seqlen_q, seqlen_k, *cell.heads, cell.head_dim, cell.dtype, layout=layout)


def check_cell(cell, out, lse):
    """AssertionError unless a cell's out and lse are right."""
    batch, seqlen_q, seqlen_k, _ = cell.shape
    expected = truth(batch, seqlen_q, seqlen_k, *cell.heads, cell.head_dim, cell.dtype, cell.mask)
    assert_close(out, lse, *expected, DTYPES[cell.dtype])
