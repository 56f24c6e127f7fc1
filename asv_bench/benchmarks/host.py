"""What a call costs the host, torch arrays, from entry to enqueued: on a GPU, and this library's own Python anywhere."""

from __future__ import annotations

from statistics import median

from .common import Measured, has_gpu, has_torch

CALLS = [
    "attention", "attention, lse", "attention, out given", "attention, padding", "attention, new declarations, alibi",
    "Plan.run", "Plan.run, padding", "attention, recorded", "attention and its gradients",
]  # fmt: skip
PEERS = ["an empty kernel's launch", "torch SDPA", "torch SDPA and its gradients"]


def setup_cache():
    """{("gpu" or "python", call): microseconds}."""
    points = {}
    if not has_torch():
        return points
    import torch

    from numba_fa.testing.host_cost import cases, measure
    from numba_fa.testing.pretended_gpu import pretended_gpu

    if has_gpu():
        measured = measure(cases("cuda", 128, torch.bfloat16), 100, torch.cuda.synchronize)
        points |= {("gpu", name): median(taken) for name, taken in measured.items()}
    with pretended_gpu():
        measured = measure(cases("cpu", 128, torch.bfloat16), 100, lambda: None)
        points |= {("python", name): median(taken) for name, taken in measured.items()}
    return points


setup_cache.timeout = 300


class Host(Measured):
    """gpu: a launch that launches; python: one that does nothing."""

    params = [["gpu", "python"], CALLS]
    param_names = ["launch", "call"]

    def track_us(self, points, *at):
        """Microseconds a call."""
        return round(points[at], 4)

    track_us.unit = "us"


class Peers(Measured):
    """torch's scaled_dot_product_attention, and the least that a launch takes."""

    params = [["gpu"], PEERS]
    param_names = ["launch", "call"]

    def track_us(self, points, *at):
        """Microseconds a call."""
        return round(points[at], 4)

    track_us.unit = "us"
