"""Masks and biases on a GPU, forward and backward: programs of `numba_fa.testing.programs`, (2, 2048, 16, 128), bfloat16."""

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


def calls(device, seqlen, heads, head_dim):
    """{(task, program): a call of it}, task "fwd" or "bwd": gradients of q, k, v and of all that has one."""
    import torch

    import numba_fa
    from numba_fa.testing.programs import PROGRAMS, Sizes

    made = {}
    q, k, v, dout = (torch.randn(BATCH, seqlen, heads, head_dim, device=device, dtype=torch.bfloat16) for _ in range(4))
    result = torch.empty_like(q)
    for name in NAMES:
        asked = PROGRAMS[name](Sizes(BATCH, seqlen, seqlen, heads)).moved(lambda array: torch.from_numpy(array).to(device))
        options = {"mask": asked.mask, "bias": asked.biases or None, "sink_logits": asked.sink_logits}
        plan = numba_fa.plan(q, k, v, **options)
        made["fwd", name] = lambda plan=plan: plan.run(q, k, v, result)
        saved = numba_fa.attention(q, k, v, return_lse=True, **options)
        learnt = any(bias.parameter for bias in asked.biases)
        wanted = ["q", "k", "v"] + ["bias"] * learnt + ["sink"] * (asked.sink_logits is not None)
        made["bwd", name] = lambda saved=saved, options=options, wanted=tuple(wanted): numba_fa.attention_backward(
            dout, q, k, v, *saved, wanted=wanted, **options
        )
    return made


def setup_cache():
    """{(task, program): microseconds}, all taking turns."""
    if not has_gpu():
        return {}
    from numba_fa.testing.timing import median_time

    timed = median_time(calls("cuda", SEQLEN, HEADS, HEAD_DIM))
    return {point: milliseconds * 1e3 for point, milliseconds in timed.items()}


setup_cache.timeout = 600


class Programs(Measured):
    """A mask, its biases and sinks."""

    params = [["fwd", "bwd"], NAMES]
    param_names = ["task", "program"]

    def track_us(self, points, *at):
        """Microseconds."""
        return round(points[at], 4)

    track_us.unit = "us"
