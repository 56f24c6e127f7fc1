"""Masks and biases on a GPU: programs of `numba_fa.testing.programs`, (2, 2048, 16, 128), bfloat16."""

from __future__ import annotations

from .common import Measured, has_gpu

NAMES = [
    "full", "causal", "window", "window-sinks", "padding", "document", "prefix", "mod", "mod-causal", "block", "all",
    "alibi", "dense", "t5", "softcap", "score_mod-alibi", "sink", "everything",
]  # fmt: skip
BATCH, SEQLEN, HEADS, HEAD_DIM = 2, 2048, 16, 128


def setup_cache():
    """{(program,): microseconds}, all taking turns."""
    if not has_gpu():
        return {}
    import torch

    import numba_fa
    from numba_fa.testing.programs import PROGRAMS, Sizes
    from numba_fa.testing.timing import median_time

    sizes = Sizes(BATCH, SEQLEN, SEQLEN, HEADS)
    q, k, v = (torch.randn(BATCH, SEQLEN, HEADS, HEAD_DIM, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    out, runs = torch.empty_like(q), {}
    for name in NAMES:
        asked = PROGRAMS[name](sizes).moved(lambda array: torch.from_numpy(array).cuda())
        plan = numba_fa.plan(q, k, v, mask=asked.mask, bias=asked.biases or None, sink_logits=asked.sink_logits)
        runs[name,] = lambda plan=plan: plan.run(q, k, v, out)
    return {name: milliseconds * 1e3 for name, milliseconds in median_time(runs).items()}


setup_cache.timeout = 600


class Programs(Measured):
    """A mask, its biases and sinks."""

    params = [NAMES]
    param_names = ["program"]

    def track_us(self, points, *at):
        """Microseconds."""
        return round(points[at], 4)

    track_us.unit = "us"
