"""Attention as the definition writes it, in float64 NumPy: what the demo compares with."""

from __future__ import annotations

import numpy as np


def naive_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Softmax attention with scale 1/sqrt(head_dim) and no mask, every product and sum in float64.

    q, k, v are (batch, seqlen, heads, head_dim) of any float dtype. Returns out, of the same shape, and the
    natural log of each row's sum of exponentials, lse (batch, heads, seqlen), both float64.
    """
    scores = scaled_scores(q, k)
    top = scores.max(axis=-1, keepdims=True)
    exponentials = np.exp(scores - top)
    total = exponentials.sum(axis=-1, keepdims=True)
    out = np.einsum("bhij,bjhd->bihd", exponentials / total, v.astype(np.float64))
    return out, (top + np.log(total))[..., 0]


def attention_weights(q: np.ndarray, k: np.ndarray, lse: np.ndarray) -> np.ndarray:
    """The softmax weights exp(scale * q.k - lse), (batch, heads, seqlen_q, seqlen_k) float64.

    q, k are (batch, seqlen, heads, head_dim), lse (batch, heads, seqlen_q). A row sums to 1 exactly when its
    LSE is right: an error of e in the LSE makes the sum exp(-e).
    """
    return np.exp(scaled_scores(q, k) - np.asarray(lse, np.float64)[..., None])


def scaled_scores(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """q.k / sqrt(head_dim), (batch, heads, seqlen_q, seqlen_k) float64."""
    products = np.einsum("bihd,bjhd->bhij", q.astype(np.float64), k.astype(np.float64))
    return products / np.sqrt(q.shape[-1])
