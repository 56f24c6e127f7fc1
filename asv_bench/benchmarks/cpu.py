"""Forward on the CPU, (1, 1024, 8, 64), beside torch's."""

from __future__ import annotations

from .common import Measured, has_torch

DTYPES, MASKS = ["float32", "bfloat16"], ["full", "causal"]
SHAPE = (1, 1024, 8, 64)


def setup_cache():
    """{(contender, dtype, mask): milliseconds}, the two taking turns."""
    import numpy as np

    import numba_fa
    from numba_fa.testing.inputs import DTYPES as NUMPY
    from numba_fa.testing.timing import median_wall_time

    points = {}
    for dtype in DTYPES:
        arrays = [np.random.default_rng(seed).standard_normal(SHAPE).astype(NUMPY[dtype]) for seed in range(3)]
        for mask in MASKS:
            runs = {"numba_fa": lambda arrays=arrays, mask=mask: numba_fa.attention(*arrays, mask=mask)}
            if has_torch():
                runs["torch SDPA"] = _torch(dtype, mask)
            for name, milliseconds in median_wall_time(runs, repeats=15).items():
                points[name, dtype, mask] = milliseconds
    return points


def _torch(dtype, mask):
    import torch

    heads_first = [torch.randn(SHAPE).to(getattr(torch, dtype)).transpose(1, 2) for _ in range(3)]
    sdpa = torch.nn.functional.scaled_dot_product_attention
    return lambda: sdpa(*heads_first, is_causal=mask == "causal")


setup_cache.timeout = 300


class Forward(Measured):
    """Our kernel."""

    params = [["numba_fa"], DTYPES, MASKS]
    param_names = ["contender", "dtype", "mask"]

    def track_ms(self, points, *at):
        """Milliseconds."""
        return round(points[at], 4)

    track_ms.unit = "ms"


class Peers(Forward):
    """torch's scaled_dot_product_attention."""

    params = [["torch SDPA"], DTYPES, MASKS]
