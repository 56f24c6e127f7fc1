"""Parameters of kernels that serve several families, for the host, which imports no compiler."""

# Pointers to O, dO, LSE, dLSE, rows, zeroed; strides of O, of dO; heads, seqlen_q, head_dim_v, tile_bytes; pointer to
# tickets.
PREPROCESS_SIGNATURE = (*["pointer"] * 6, *["int64"] * 6, *["int32"] * 4, "pointer")


def _arrays(dtype: str, count: int) -> list[str]:
    """Arrays (batch, seqlen, heads, head_dim), then their rows."""
    return ["float32*" if dtype == "fp32" else "uint16*"] * count


def queries_signature(dtype: str) -> tuple[str, ...]:
    """q, k, v, dO, dQ; rows; batch, seqlen and head strides of each of the five; heads, heads_kv, seqlen_q, seqlen_k;
    scale."""
    return (*_arrays(dtype, 5), "pointer", *["int64"] * 15, *["int32"] * 4, "float32")


def keys_signature(dtype: str) -> tuple[str, ...]:
    """q, k, v, dO, dK, dV; rows; batch, seqlen and head strides of each of the six; heads, heads_kv, seqlen_q, seqlen_k,
    whether dK and dV are wanted; scale."""
    return (*_arrays(dtype, 6), "pointer", *["int64"] * 18, *["int32"] * 6, "float32")


def _scores_signature(dtype: str, strides: int, sizes: int) -> tuple[str, ...]:
    """q, k, v, dO; rows; the result in float32; `strides`, those of the first four first; `sizes`; scale."""
    return (*_arrays(dtype, 4), "pointer", "float32*", *["int64"] * strides, *["int32"] * sizes, "float32")


def dense_signature(dtype: str) -> tuple[str, ...]:
    """q, k, v, dO; rows; the gradient; batch, seqlen and head strides of the first four, the gradient's four strides;
    heads, heads_kv, seqlen_q, seqlen_k, head_dim, head_dim_v, batch, and how many of batch, heads, queries and keys
    have elements of their own; scale."""
    return _scores_signature(dtype, 16, 11)


def relative_signature(dtype: str) -> tuple[str, ...]:
    """q, k, v, dO; rows; parts; batch, seqlen and head strides of the first four; heads, heads_kv, seqlen_q, seqlen_k,
    head_dim, head_dim_v; scale."""
    return _scores_signature(dtype, 12, 6)


# Parts, the gradient; its strides of batch, heads and parameters; batch, tiles of queries.
SUM_SIGNATURE = (*["float32*"] * 2, *["int64"] * 3, *["int32"] * 2)
# sink_logits, their gradient; rows; strides of both; heads, batch, seqlen_q.
SINK_SIGNATURE = (*["float32*"] * 2, "pointer", *["int64"] * 2, *["int32"] * 3)
