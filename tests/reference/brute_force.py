"""Attention as plain Python loops over floats: slow, and sharing nothing with the reference but the
definition. Masks and biases here are written by distance from the end of both sequences."""
import math


def sees(mask, i, j, seqlen_q, seqlen_k, b=0, *, left=None, right=None, sinks=0, lengths=None, ids=None, prefix=None):
    """Whether query i of batch b sees key j, by the name of the mask and its parameters as lists and ints."""
    ahead = (seqlen_q - 1 - i) - (seqlen_k - 1 - j)
    if mask == "full":
        return True
    if mask == "causal":
        return ahead <= 0
    if mask == "window":
        too_far_back = left is not None and ahead < -left and j not in range(sinks)
        return not too_far_back and (right is None or ahead <= right)
    if mask == "padding":
        return j in range(lengths[b])
    if mask == "document":
        return ids[0][b][i] == ids[1][b][j]
    assert mask == "prefix"
    return ahead <= 0 or j in range(prefix[b])


def t5_bucket(ahead, num_buckets, max_distance, bidirectional):
    """HuggingFace's `_relative_position_bucket` for one relative position, with float64 logarithms."""
    bucket = 0
    if bidirectional:
        num_buckets //= 2
        bucket, distance = (num_buckets if ahead > 0 else 0), abs(ahead)
    else:
        distance = -min(ahead, 0)
    exact = num_buckets // 2
    if distance < exact:
        return bucket + distance
    share = math.log(distance / exact) / math.log(max_distance / exact)
    return bucket + min(exact + int(share * (num_buckets - exact)), num_buckets - 1)


def attention_row(scores, values, sink, head_dim_v):
    """`(out, lse)` of one query, lists of floats, from its scores and values at the keys that it sees."""
    sinks = [] if sink is None else [sink]
    if not scores + sinks:
        return [0.0] * head_dim_v, -math.inf
    weights = [math.exp(s) for s in scores]
    total = math.fsum(weights + [math.exp(s) for s in sinks])
    columns = [[value[d] for value in values] for d in range(head_dim_v)]
    sums = [math.fsum(w * x for w, x in zip(weights, column, strict=True)) for column in columns]
    return [x / total for x in sums], math.log(total)


def brute_force_attention(q, k, v, scale, visible=lambda *_: True, modify=lambda score, *_: score, sinks=None):
    """Nested lists `out[b][i][h][d]` and `lse[b][h][i]` for q, k, v arrays of shape (batch, seqlen, heads,
    head_dim); `visible(b, h, i, j)` and `modify(score, b, h, i, j)` on ints and floats, sinks a list or None."""
    (batch, seqlen_q, heads, _), (_, seqlen_k, heads_kv, head_dim_v) = q.shape, v.shape
    out = [[[None] * heads for _ in range(seqlen_q)] for _ in range(batch)]
    lse = [[[None] * seqlen_q for _ in range(heads)] for _ in range(batch)]
    for b in range(batch):
        for h in range(heads):
            h_kv = h * heads_kv // heads
            for i in range(seqlen_q):
                seen = [j for j in range(seqlen_k) if visible(b, h, i, j)]
                products = [math.fsum(x * y for x, y in zip(q[b, i, h], k[b, j, h_kv], strict=True)) for j in seen]
                scores = [modify(scale * p, b, h, i, j) for p, j in zip(products, seen, strict=True)]
                values = [v[b, j, h_kv].tolist() for j in seen]
                row = attention_row(scores, values, sinks and sinks[h], head_dim_v)
                out[b][i][h], lse[b][h][i] = row
    return out, lse
