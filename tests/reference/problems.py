"""Small attention problems: a hypothesis strategy and the arrays of one."""
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st


class Shape(NamedTuple):
    """The sizes, mask and seed of a problem; heads are `group * heads_kv`."""

    batch: int
    seqlen_q: int
    seqlen_k: int
    heads_kv: int
    group: int
    head_dim: int
    head_dim_v: int
    mask: str
    seed: int


# Lengths: 0 and 1, then both sides of one and two tiles of the small blocks the tests use.
SHAPES = st.builds(
    Shape,
    batch=st.integers(1, 2),
    seqlen_q=st.integers(1, 40),
    seqlen_k=st.integers(0, 40),
    heads_kv=st.integers(1, 2),
    group=st.integers(1, 3),
    head_dim=st.integers(1, 9),
    head_dim_v=st.integers(1, 9),
    mask=st.sampled_from(["full", "causal"]),
    seed=st.integers(0, 2**32 - 1),
)


def arrays(shape):
    """Standard normal float64 q, k, v of a Shape."""
    rng = np.random.default_rng(shape.seed)
    q = rng.standard_normal((shape.batch, shape.seqlen_q, shape.heads_kv * shape.group, shape.head_dim))
    k = rng.standard_normal((shape.batch, shape.seqlen_k, shape.heads_kv, shape.head_dim))
    v = rng.standard_normal((shape.batch, shape.seqlen_k, shape.heads_kv, shape.head_dim_v))
    return q, k, v


def small_arrays(seqlen_q, seqlen_k, heads=2, heads_kv=1, seed=0):
    """float64 q, k, v with batch 2 and head_dim 4."""
    return arrays(Shape(2, seqlen_q, seqlen_k, heads_kv, heads // heads_kv, 4, 4, "full", seed))


def assert_same(result, expected, tolerance=1e-12):
    """Two `(out, lse)` pairs agree to `tolerance`, absolute and relative; infinities must match."""
    for actual, truth in zip(result, expected, strict=True):
        np.testing.assert_allclose(actual, truth, rtol=tolerance, atol=tolerance)
