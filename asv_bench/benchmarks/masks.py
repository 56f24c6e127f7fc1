"""Masks and biases on a GPU: programs of `numba_fa.testing.programs`, (2, 2048, 16, 128), bfloat16."""

from __future__ import annotations

from numba_fa.dispatch.tuning import key_for

from .common import Measured, has_gpu

NAMES = [
    "full", "causal", "window", "window-sinks", "padding", "document", "prefix", "mod", "mod-causal", "block", "all",
    "alibi", "dense", "t5", "softcap", "score_mod-alibi", "sink", "everything",
]  # fmt: skip
OWN = ("mod", "block", "score_mod")
BATCH, SEQLEN, HEADS, HEAD_DIM = 2, 2048, 16, 128


def slugs() -> list[str]:
    """The kernels of the programs, but for those with a function or a table of their own."""
    from numba_fa.testing.programs import PROGRAMS, Sizes

    names = [PROGRAMS[name](Sizes(1, 1, 1, 1)).names for name in NAMES if name.partition("-")[0] not in OWN]
    return [key_for("fwd", "sm90", "bf16", HEAD_DIM, *pair).slug for pair in names]


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
