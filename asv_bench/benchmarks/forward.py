"""Forward on a GPU by kernel and length: 16384 tokens, hidden size 2048, bfloat16; and the peers at the same points."""

from __future__ import annotations

from numba_fa.dispatch.key import DispatchKey

from .common import SLUGS, Speed, has_gpu

SEQLENS = [512, 2048, 16384]
PEERS = ["cudnn", "fa2"]
CELLS = {slug: f"d{key.head_dim} {key.mask}" for slug in SLUGS for key in [DispatchKey.parse(slug)]}


def setup_cache():
    """{(slug or cell, seqlen[, peer]): (milliseconds, operations)}."""
    points = {}
    if not has_gpu():
        return points
    from numba_fa.testing.shapes import Shape
    from numba_fa.testing.speed import measure

    for slug, cell in CELLS.items():
        key = DispatchKey.parse(slug)
        for seqlen in SEQLENS:
            shape = Shape.usual(key.dims, seqlen)
            _, times, flops = measure(shape, key.mask, slug, "bfloat16", PEERS, 20)
            points[slug, seqlen] = times.pop("numba_fa"), flops
            for peer, milliseconds in times.items():
                points[peer, cell, seqlen] = milliseconds, flops
    return points


setup_cache.timeout = 600


class Forward(Speed):
    """Our kernels."""

    params = [SLUGS, SEQLENS]
    param_names = ["kernel", "seqlen"]


class Peers(Speed):
    """cuDNN and FlashAttention 2, through torch's scaled_dot_product_attention."""

    params = [PEERS, list(CELLS.values()), SEQLENS]
    param_names = ["peer", "problem", "seqlen"]
