"""Attention as plain Python loops over floats: slow, and sharing nothing with the reference but the
definition."""
import math


def sees(mask, i, j, seqlen_q, seqlen_k):
    """Whether query i sees key j: the distance of both from the end of their sequence decides."""
    return mask == "full" or (seqlen_k - 1 - j) >= (seqlen_q - 1 - i)


def attention_row(q_row, keys, values, scale, head_dim_v):
    """`(out, lse)` of one query, lists of floats, over the keys and values that it sees."""
    if not keys:
        return [0.0] * head_dim_v, -math.inf
    scores = [scale * math.fsum(a * b for a, b in zip(q_row, key, strict=True)) for key in keys]
    weights = [math.exp(s) for s in scores]
    total = math.fsum(weights)
    columns = [[value[d] for value in values] for d in range(head_dim_v)]
    sums = [math.fsum(w * x for w, x in zip(weights, column, strict=True)) for column in columns]
    return [x / total for x in sums], math.log(total)


def brute_force_attention(q, k, v, mask, scale):
    """Nested lists `out[b][i][h][d]` and `lse[b][h][i]` for q, k, v arrays of shape (batch, seqlen, heads,
    head_dim)."""
    (batch, seqlen_q, heads, _), (_, seqlen_k, heads_kv, head_dim_v) = q.shape, v.shape
    out = [[[None] * heads for _ in range(seqlen_q)] for _ in range(batch)]
    lse = [[[None] * seqlen_q for _ in range(heads)] for _ in range(batch)]
    for b in range(batch):
        for h in range(heads):
            h_kv = h * heads_kv // heads
            for i in range(seqlen_q):
                seen = [j for j in range(seqlen_k) if sees(mask, i, j, seqlen_q, seqlen_k)]
                keys = [k[b, j, h_kv].tolist() for j in seen]
                values = [v[b, j, h_kv].tolist() for j in seen]
                row = attention_row(q[b, i, h].tolist(), keys, values, scale, head_dim_v)
                out[b][i][h], lse[b][h][i] = row
    return out, lse
