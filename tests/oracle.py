"""A cell's inputs and what they must give, by the reference; kept, because cells share them."""

from functools import lru_cache

import numpy as np

import reference
from numba_fa.testing.inputs import DTYPES, random_qkv
from numba_fa.testing.programs import PROGRAMS, Sizes
from numba_fa.testing.tolerance import assert_close, assert_within
from tests.declared import truth_of


@lru_cache(maxsize=64)
def truth(batch, seqlen_q, seqlen_k, heads, heads_kv, head_dim, dtype, program, head_dim_v=None):
    """(out, lse, naive low-precision out), float64, for `random_qkv` of these arguments."""
    q, k, v = random_qkv(batch, seqlen_q, seqlen_k, heads, heads_kv, head_dim, dtype, head_dim_v=head_dim_v)
    sizes = Sizes(batch, seqlen_q, seqlen_k, heads)
    asked = truth_of(PROGRAMS[program](sizes), sizes)
    out, lse = reference.attention(q, k, v, **asked)
    if dtype == "float32":
        return out, lse, naive_float32(q, k, v, **asked)
    rounded, _ = reference.attention_rounded(q, k, v, dtype=dtype, **asked)
    return out, lse, rounded


def naive_float32(q, k, v, mask="full", bias=(), sink_logits=None):
    """Attention as a scalar float32 kernel does it: every sum one term after another. Returns float64.

    NumPy's own sums run in several chains, whose error is smaller than any kernel's of one chain.
    """
    sharing, head_dim = q.shape[2] // k.shape[2], q.shape[3]
    q, k, v = (x.astype(np.float32).transpose(0, 2, 1, 3) for x in (q, k, v))
    k, v = (np.repeat(x, sharing, axis=1) for x in (k, v))
    scores = np.zeros((*q.shape[:3], k.shape[2]), np.float32)
    for column in range(head_dim):
        scores += q[..., column, None] * k[..., None, :, column]
    scores *= np.float32(head_dim**-0.5)
    i, j = np.arange(q.shape[2])[:, None], np.arange(k.shape[2])[None]
    for b, h in np.ndindex(q.shape[:2]):
        for change in bias:
            scores[b, h] = change(scores[b, h], b, h, i, j)
        visible = reference.visible_keys(mask, q.shape[2], k.shape[2], b, h, batch=q.shape[0], heads=q.shape[1])
        scores[b, h] = np.where(visible, scores[b, h], np.float32(-np.inf))
    top = np.maximum(scores.max(-1, keepdims=True), np.float32(-3e38))
    if sink_logits is not None:
        top = np.maximum(top, np.asarray(sink_logits, np.float32)[None, :, None, None])
    weights = np.exp(scores - top)
    total, out = np.zeros(q.shape[:3], np.float32), np.zeros((*q.shape[:3], v.shape[3]), np.float32)
    for key in range(k.shape[2]):
        total += weights[..., key]
        out += weights[..., key, None] * v[..., None, key, :]
    if sink_logits is not None:
        total += np.exp(np.asarray(sink_logits, np.float32)[None, :, None] - top[..., 0])
    out = np.divide(out, total[..., None], out=np.zeros_like(out), where=total[..., None] > 0)
    return out.transpose(0, 2, 1, 3).astype(np.float64)


def inputs_of(cell):
    """q, k, v of a cell as NumPy arrays in its layout."""
    batch, seqlen_q, seqlen_k, layout = cell.shape
    dims = {"head_dim": cell.head_dim, "head_dim_v": cell.head_dim_v}
    return random_qkv(batch, seqlen_q, seqlen_k, *cell.heads, **dims, dtype=cell.dtype, layout=layout)


def check_cell(cell, out, lse):
    """AssertionError unless a cell's out and lse are right."""
    batch, seqlen_q, seqlen_k, _ = cell.shape
    expected = truth(
        batch, seqlen_q, seqlen_k, *cell.heads, cell.head_dim, cell.dtype, cell.program, cell.head_dim_v
    )  # fmt: skip
    assert_close(out, lse, *expected, DTYPES[cell.dtype])


@lru_cache(maxsize=64)
def gradients_truth(batch, seqlen_q, seqlen_k, heads, heads_kv, head_dim, dtype, program, head_dim_v=None):
    """(true gradients, those of a naive computation in the cell's precision), `reference.Gradients`."""
    q, k, v = random_qkv(batch, seqlen_q, seqlen_k, heads, heads_kv, head_dim, dtype, head_dim_v=head_dim_v)
    dout, dlse = upstream(batch, seqlen_q, heads, v.shape[3], dtype)
    sizes = Sizes(batch, seqlen_q, seqlen_k, heads)
    asked = truth_of(PROGRAMS[program](sizes), sizes) | {"dlse": dlse}
    truth = reference.attention_backward(q, k, v, dout, **asked)
    return truth, reference.attention_backward_rounded(q, k, v, dout, **asked, dtype=dtype)


def upstream(batch, seqlen_q, heads, head_dim, dtype):
    """(dout like out, dlse): what a loss that takes both passes back."""
    dout, *_ = random_qkv(batch, seqlen_q, 1, heads, heads, head_dim, dtype, seed=9)
    return dout, np.random.default_rng(8).standard_normal((batch, heads, seqlen_q)).astype(np.float32)


def check_gradients(cell, found):
    """AssertionError unless the `numba_fa.Gradients` of a cell, as NumPy arrays, are right, those not wanted None.

    Parameters' gradients are a few sums over all scores, whose rounding errors in the naive computation cancel by luck or
    not: these may be off by four times as much, and by a unit of the inputs' dtype. So may float32 gradients of q, k and v:
    NumPy sums in some sixteen chains, as its BLAS likes, and rounding errors of a kernel's one chain grow to four of theirs.
    """
    batch, seqlen_q, seqlen_k, _ = cell.shape
    truth, naive = gradients_truth(
        batch, seqlen_q, seqlen_k, *cell.heads, cell.head_dim, cell.dtype, cell.program, cell.head_dim_v
    )  # fmt: skip
    for name in ("dq", "dk", "dv"):
        found_right = _assert_sums if cell.dtype == "float32" else _assert_gradient
        found_right(getattr(found, name), getattr(truth, name), getattr(naive, name), cell.dtype, name)
    if truth.dsink is not None:
        _assert_sums(found.dsink, truth.dsink, naive.dsink, cell.dtype, "dsink")
    for got, true, rounded in zip(found.dbias, truth.dbias, naive.dbias, strict=True):
        assert (got is None) == (not true)
        for name in true:
            _assert_sums(got, true[name], rounded[name], cell.dtype, name)


def _assert_gradient(found, true, naive, dtype, name):
    assert_within(found, true, naive, DTYPES[dtype], name)


def _assert_sums(found, true, naive, dtype, name):
    assert_within(found, true, true + 4 * (naive - true), DTYPES[dtype], name)
