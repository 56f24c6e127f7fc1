"""Parameters of kernels that serve several families, for the host, which imports no compiler."""

# Pointers to O, dO, LSE, dLSE, rows, zeroed; strides of O, of dO; heads, seqlen_q, head_dim, tile_bytes; pointer to tickets.
PREPROCESS_SIGNATURE = (*["pointer"] * 6, *["int64"] * 6, *["int32"] * 4, "pointer")
