"""Backward on a GPU by kernel and length: 16384 tokens, hidden size 2048, bfloat16; and the peers at the same points."""

from __future__ import annotations

from numba_fa.dispatch.key import DispatchKey

from .common import BACKWARD_SLUGS, Speed, has_gpu

SEQLENS = [2048, 8192]
PEERS = ["cudnn", "fa2"]
CELLS = {slug: f"d{key.head_dim} {key.mask}" for slug in BACKWARD_SLUGS for key in [DispatchKey.parse(slug)]}


def setup_cache():
    """{(slug or cell, seqlen[, peer]): (milliseconds, operations)}; of "bwd_det" as of "bwd"."""
    points = {}
    if not has_gpu():
        return points
    from numba_fa.testing.backward_speed import measure
    from numba_fa.testing.shapes import Shape

    for slug, cell in CELLS.items():
        key = DispatchKey.parse(slug)
        for seqlen in SEQLENS:
            shape = Shape.usual(key.dims, seqlen)
            times, flops = measure(shape, key.mask, "bfloat16", ops=["bwd_det"], peers=PEERS)
            points[slug, seqlen] = times["numba_fa"], flops
            points[slug.replace("bwd-", "bwd_det-"), seqlen] = times["bwd_det"], flops
            points |= {(peer, cell, seqlen): (times[peer], flops) for peer in PEERS}
    return points


setup_cache.timeout = 600


class Backward(Speed):
    """Our kernels, the small ones included."""

    params = [[*BACKWARD_SLUGS, *(slug.replace("bwd-", "bwd_det-") for slug in BACKWARD_SLUGS)], SEQLENS]
    param_names = ["kernel", "seqlen"]


class Peers(Speed):
    """cuDNN and FlashAttention 2, through torch's scaled_dot_product_attention."""

    params = [PEERS, list(CELLS.values()), SEQLENS]
    param_names = ["peer", "problem", "seqlen"]
