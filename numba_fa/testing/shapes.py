"""Sizes of what speed is measured on, and how they are written on a command line."""

from __future__ import annotations

from typing import NamedTuple

from numba_fa.dispatch.key import HeadDims
from numba_fa.testing.flops import forward_flops

TOKENS, HIDDEN = 16384, 2048  # of a workload of which nothing but head_dim and seqlen is told


class Shape(NamedTuple):
    """Of q (batch, seqlen_q, heads, head_dim), k (batch, seqlen_k, heads_kv, head_dim) and v (..., head_dim_v)."""

    batch: int
    seqlen_q: int
    seqlen_k: int
    heads: int
    heads_kv: int
    dims: HeadDims

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Of "batch,seqlen_q,seqlen_k,heads,heads_kv,head_dim", the last as `HeadDims` are written."""
        *sizes, dims = text.split(",")
        if len(sizes) != 5:
            raise ValueError(f"{text!r} is no shape; one looks like 1,4096,8192,32,8,128 or 1,4096,4096,16,16,192:128")
        return cls(*map(int, sizes), HeadDims.parse(dims))

    @classmethod
    def usual(cls, dims: HeadDims, seqlen: int, group: int = 1) -> Shape:
        """16384 tokens of a hidden size of 2048 or just below, `group` query heads a key head."""
        heads = HIDDEN // max(dims) // group * group
        return cls(TOKENS // seqlen, seqlen, seqlen, heads, heads // group, dims)

    @property
    def arrays(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Shapes of q, k and v."""
        keys = self.batch, self.seqlen_k, self.heads_kv
        return (self.batch, self.seqlen_q, self.heads, self.dims.head_dim), (*keys, self.dims[0]), (*keys, self.dims[1])

    def flops(self, mask: str) -> int:
        """Operations of a forward, as `forward_flops` counts them."""
        return forward_flops(self.batch, self.heads, self.seqlen_q, self.seqlen_k, *self.dims, causal=mask == "causal")

    def __str__(self) -> str:
        return ",".join(map(str, self))
