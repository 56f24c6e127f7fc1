"""Workloads of known models on a GPU, ours and every peer that takes them, bfloat16: what `numba-fa bench` measures."""

from __future__ import annotations

from .common import Measured, has_gpu

WORKLOADS = ["llama-8b-prefill", "mistral-7b-window", "gpt-oss-sinks", "t5-base", "document-packing"]
PEERS = ["cuDNN", "FA2", "FlexAttention"]


def setup_cache():
    """{(workload[, peer]): milliseconds}; a peer that refuses, or is wrong, is left out."""
    points = {}
    if not has_gpu():
        return points
    from numba_fa.testing import bench
    from numba_fa.testing.workloads import WORKLOADS as KNOWN

    for name in WORKLOADS:
        for result in bench.measure(KNOWN[name], "bfloat16", 10, ("efficient",)):
            if result.milliseconds is not None:
                points[(name,) if result.name == bench.OURS else (name, result.name)] = result.milliseconds
    return points


setup_cache.timeout = 600


class Workloads(Measured):
    """Our kernels."""

    params = [WORKLOADS]
    param_names = ["workload"]

    def track_ms(self, points, *at):
        """Milliseconds."""
        return round(points[at], 4)

    track_ms.unit = "ms"


class Peers(Measured):
    """torch's backends and FlexAttention."""

    params = [WORKLOADS, PEERS]
    param_names = ["workload", "peer"]

    def track_ms(self, points, *at):
        """Milliseconds."""
        return round(points[at], 4)

    track_ms.unit = "ms"
