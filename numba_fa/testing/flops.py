"""Floating-point operations of attention, counted as FlashAttention, cuDNN and their benchmarks count
them."""


def forward_flops(batch, heads, seqlen_q, seqlen_k, head_dim, head_dim_v, causal):
    """Operations of one forward pass, an int: two matrix products at two operations per multiply-add.

    `2 * batch * heads * seqlen_q * seqlen_k * (head_dim + head_dim_v)`, that is 4 B H Sq Sk D when head_dim_v
    equals head_dim. Softmax counts nothing. `causal` (bool) halves the count exactly, whatever the lengths:
    the triangle holds a little more than half of a square, and not half of a rectangle, but this is how the
    peers' figures are made (Dao 2023, FlashAttention-2, section 4.1), and only like figures compare. `heads`
    are query heads: sharing keys (GQA) saves bytes, not operations.
    """
    flops = 2 * batch * heads * seqlen_q * seqlen_k * (head_dim + head_dim_v)
    return flops // 2 if causal else flops
