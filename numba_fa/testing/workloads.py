"""Named workloads: attention as well-known models call it, asked of this library and of each peer in its own words.

A workload's mask and biases are told twice: as this library's declarations, and as FlexAttention's mask_mod and score_mod,
functions of torch tensors of indices, from which truth, operation count and dense masks for the peers follow as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numba_fa
from numba_fa.dispatch.key import HeadDims
from numba_fa.testing.shapes import Shape

ROWS = 1024  # of a score matrix at a time


@dataclass(frozen=True)
class Request:
    """One workload on given arrays. ours: keywords of `attention`. mask_mod(b, h, i, j), score_mod(s, b, h, i, j): the same.

    sinks: (heads,) or None. causal: whether the mask is just that. additive: whether score_mod only adds, and so can be a
    dense mask. flash: keywords of flash_attn_func, None where it has none for this. scale: of the scores; None: usual.
    """

    ours: dict[str, Any] = field(default_factory=dict)
    mask_mod: Callable[..., Any] | None = None
    score_mod: Callable[..., Any] | None = None
    sinks: Any = None
    causal: bool = False
    additive: bool = True
    flash: dict[str, Any] | None = None
    scale: float | None = None


@dataclass(frozen=True)
class Workload:
    """Sizes, and `ask(q)`, the request for arrays of these sizes. small: (batch, seqlen) for a CPU. head_dim_v: of values,
    0 where it is head_dim."""

    about: str
    batch: int
    seqlen: int
    heads: int
    heads_kv: int
    head_dim: int
    ask: Callable[[Any], Request]
    small: tuple[int, int]
    head_dim_v: int = 0

    def shape(self, on_gpu: bool) -> Shape:
        """All sizes."""
        batch, seqlen = (self.batch, self.seqlen) if on_gpu else self.small
        dims = HeadDims(self.head_dim, self.head_dim_v or self.head_dim)
        return Shape(batch, seqlen, seqlen, self.heads, self.heads_kv, dims)


def _full(q: Any) -> Request:
    return Request(flash={})


def _causal(q: Any) -> Request:
    return Request({"mask": "causal"}, lambda b, h, i, j: j <= i, causal=True, flash={"causal": True})


def _padding(q: Any) -> Request:
    import torch

    batch, seqlen = q.shape[:2]
    lengths = torch.linspace(seqlen, seqlen // 4, batch, device=q.device).to(torch.int32)
    return Request({"mask": numba_fa.KeyPadding(lengths)}, lambda b, h, i, j: j < lengths[b])


def _window(keys: int) -> Callable[[Any], Request]:
    """Causal, `keys` keys, the query's own among them; a quarter of a shorter sequence."""

    def ask(q: Any) -> Request:
        left = min(keys, q.shape[1] // 4) - 1
        return Request(
            {"mask": numba_fa.SlidingWindow(left, 0)}, lambda b, h, i, j: (j <= i) & (j >= i - left),
            flash={"causal": True, "window_size": (left, 0)},
        )  # fmt: skip

    return ask


def _window_sinks(q: Any) -> Request:
    import torch

    sinks = torch.linspace(-1, 2, q.shape[2], device=q.device)
    return Request(
        {"mask": numba_fa.SlidingWindow(127, 0), "sink_logits": sinks}, lambda b, h, i, j: (j <= i) & (j > i - 128),
        sinks=sinks,
    )  # fmt: skip


def _t5(q: Any) -> Request:
    """T5's encoder: a bias by distance, near ones each their own, farther ones in logarithmic buckets; no scale."""
    import torch

    table = torch.linspace(-3, 3, 32 * q.shape[2], device=q.device).reshape(32, -1).sin().contiguous()

    def bucket(distance: Any) -> Any:
        far = 8 + (distance.abs().clamp(min=1).float() / 8).log() * (8 / math.log(16))
        near = distance.abs()
        return torch.where(near < 8, near, far.to(near.dtype).clamp(max=15)) + 16 * (distance > 0)

    return Request(
        {"bias": numba_fa.T5Bias(table), "scale": 1.0}, None, lambda s, b, h, i, j: s + table[bucket(j - i), h], scale=1.0
    )


def _documents(q: Any) -> Request:
    """Eight documents of different lengths in a row, each causal within itself."""
    import torch

    batch, seqlen = q.shape[:2]
    ends = torch.tensor([3, 10, 14, 30, 37, 45, 60, 64], device=q.device) * seqlen // 64
    ids = torch.bucketize(torch.arange(seqlen, device=q.device), ends, right=True).to(torch.int32)
    mask = numba_fa.Document(ids[None].expand(batch, -1).contiguous()) & numba_fa.Causal()
    return Request({"mask": mask}, lambda b, h, i, j: (ids[i] == ids[j]) & (j <= i))


def _alibi(q: Any) -> Request:
    import torch

    heads = q.shape[2]
    slopes = 2.0 ** (-8.0 * (torch.arange(heads, device=q.device, dtype=torch.float32) + 1) / heads)
    return Request(
        {"mask": "causal", "bias": numba_fa.ALiBi(slopes)}, lambda b, h, i, j: j <= i,
        lambda s, b, h, i, j: s - slopes[h] * (i - j).abs(), flash={"causal": True, "alibi_slopes": slopes},
    )  # fmt: skip


def _softcap(q: Any) -> Request:
    import torch

    return Request(
        {"mask": "causal", "bias": numba_fa.Softcap(50.0)}, lambda b, h, i, j: j <= i,
        lambda s, b, h, i, j: 50.0 * torch.tanh(s / 50.0), additive=False, flash={"causal": True, "softcap": 50.0},
    )  # fmt: skip


def _prefix(q: Any) -> Request:
    prefix = q.shape[1] // 4
    return Request({"mask": numba_fa.PrefixLM(prefix)}, lambda b, h, i, j: (j <= i) | (j < prefix))


WORKLOADS = {
    "llama-8b-prefill": Workload("causal, groups of 4 heads", 1, 8192, 32, 8, 128, _causal, (1, 1024)),
    "deepseek-v3-prefill": Workload(
        "causal, multi-head latent attention, 16 of its heads", 1, 8192, 16, 16, 192, _causal, (1, 512), 128
    ),
    "bert-base": Workload("padded sentences, both ways", 32, 512, 12, 12, 64, _padding, (4, 512)),
    "vit-large": Workload("full, a ragged length", 64, 577, 16, 16, 64, _full, (2, 577)),
    "mistral-7b-window": Workload("causal, a window of a quarter", 1, 16384, 32, 8, 128, _window(4096), (1, 2048)),
    "gpt-oss-sinks": Workload("window of 128 with learned sinks", 1, 8192, 64, 8, 64, _window_sinks, (1, 1024)),
    "gemma2-softcap": Workload("causal, scores capped at 50", 1, 4096, 16, 8, 256, _softcap, (1, 512)),
    "t5-base": Workload("relative position bias, both ways", 32, 512, 12, 12, 64, _t5, (4, 512)),
    "mpt-7b-alibi": Workload("causal with ALiBi", 1, 4096, 32, 32, 128, _alibi, (1, 512)),
    "document-packing": Workload("8 documents in a row, each causal", 1, 16384, 32, 8, 128, _documents, (1, 2048)),
    "paligemma-prefix": Workload("a prefix seen by all, then causal", 16, 1024, 8, 1, 256, _prefix, (1, 1024)),
}


def visible_pairs(request: Request, batch: int, seqlen: int, device: Any) -> int:
    """(query, key) pairs that a head sees, over the whole batch."""
    if request.mask_mod is None:
        return batch * seqlen * seqlen
    total = 0
    for b in range(batch):
        for i, j in _blocks(seqlen, device):
            total += int(request.mask_mod(b, 0, i, j).expand(len(i), seqlen).sum())
    return total


def dense_mask(request: Request, q: Any, heads: bool) -> Any:
    """What scaled_dot_product_attention takes as attn_mask: booleans, or biases with -inf in q's dtype where masked."""
    import torch

    batch, seqlen = q.shape[:2]
    i, j = next(_blocks(seqlen, q.device, seqlen))
    b, h = (torch.arange(n, device=q.device)[:, None, None] for n in (batch, q.shape[2] if heads else 1))
    b = b[:, None]
    seen = None if request.mask_mod is None else request.mask_mod(b, h, i, j)
    if request.score_mod is None:
        return seen
    bias = request.score_mod(torch.zeros((), device=q.device), b, h, i, j)
    return (bias if seen is None else bias.masked_fill(~seen, float("-inf"))).to(q.dtype)


def truth(request: Request, q: Any, k: Any, v: Any, b: int, h: int) -> Any:
    """One head's output in float32, (seqlen, head_dim_v)."""
    import torch

    seqlen, head_dim = q.shape[1], q.shape[3]
    scale = head_dim**-0.5 if request.scale is None else request.scale
    shared = h // (q.shape[2] // k.shape[2])
    rows, keys, values = q[b, :, h].float(), k[b, :, shared].float(), v[b, :, shared].float()
    parts = []
    for i, j in _blocks(seqlen, q.device):
        scores = rows[i[:, 0]] @ keys.T * scale
        if request.score_mod is not None:
            scores = request.score_mod(scores, b, h, i, j)
        if request.mask_mod is not None:
            scores = scores.masked_fill(~request.mask_mod(b, h, i, j), float("-inf"))
        if request.sinks is not None:
            scores = torch.cat([scores, request.sinks[h].expand(len(i), 1)], 1)
        parts.append(scores.softmax(1)[:, :seqlen] @ values)
    return torch.cat(parts)


def _blocks(seqlen: int, device: Any, rows: int = ROWS) -> Iterator[tuple[Any, Any]]:
    """Indices of queries (rows, 1) and of all keys (1, seqlen), some queries at a time."""
    import torch

    j = torch.arange(seqlen, device=device)[None]
    for first in range(0, seqlen, rows):
        yield torch.arange(first, min(first + rows, seqlen), device=device)[:, None], j
