"""Random q, k and v as NumPy arrays, in the layouts that kernels must take."""
import ml_dtypes
import numpy as np

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

# 8 elements are 16 bytes at the narrowest dtype here: rows stay on the 16-byte boundaries that vector loads
# and TMA need.
PADDING = 8


def store_bshd(values):
    """A C-contiguous (batch, seqlen, heads, head_dim) copy of `values` (same shape)."""
    return np.ascontiguousarray(values)


def store_bhsd(values):
    """A (batch, seqlen, heads, head_dim) view over a copy of `values` stored as (batch, heads, seqlen,
    head_dim)."""
    return np.ascontiguousarray(values.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)


def store_padded(values):
    """A (batch, seqlen, heads, head_dim) view over a larger array: NaN after every row and after every
    sequence.

    PADDING elements follow each row of head_dim and one whole position follows each sequence; whoever reads
    past the end of either gets NaN.
    """
    batch, seqlen, heads, head_dim = values.shape
    storage = np.full((batch, seqlen + 1, heads, head_dim + PADDING), np.nan, dtype=values.dtype)
    view = storage[:, :seqlen, :, :head_dim]
    view[...] = values
    return view


LAYOUTS = {"bshd": store_bshd, "bhsd": store_bhsd, "padded": store_padded}


def random_qkv(
    batch,
    seqlen_q,
    seqlen_k,
    heads,
    heads_kv,
    head_dim,
    dtype="float32",
    *,
    seed=0,
    layout="bshd",
    head_dim_v=None,
):
    """Standard normal q, k, v: shapes (batch, seqlen_q, heads, head_dim), (batch, seqlen_k, heads_kv,
    head_dim) and (batch, seqlen_k, heads_kv, head_dim_v), where head_dim_v defaults to head_dim.

    dtype: "float32", "float16" or "bfloat16" (`ml_dtypes.bfloat16`). layout: "bshd" contiguous; "bhsd" the
    same view over (batch, heads, seqlen, head_dim) storage; "padded" rows apart, with NaN between them. The
    values depend on the seed and the shapes alone: layouts hold equal values, dtypes roundings of the same
    ones; q does not depend on the shape of k. KeyError for an unknown dtype or layout.
    """
    head_dim_v = head_dim if head_dim_v is None else head_dim_v
    shapes = (
        (batch, seqlen_q, heads, head_dim),
        (batch, seqlen_k, heads_kv, head_dim),
        (batch, seqlen_k, heads_kv, head_dim_v),
    )
    streams = np.random.default_rng(seed).spawn(3)
    store, dtype = LAYOUTS[layout], DTYPES[dtype]
    q, k, v = (
        store(stream.standard_normal(shape, dtype=np.float32).astype(dtype))
        for stream, shape in zip(streams, shapes, strict=True)
    )
    return q, k, v
