"""`numba-fa tune`: measures tiles on the GPU present and writes the user's own table, which dispatch then prefers.

A kind of call is a head_dim (one of values too, where that is another), a mask and a bias. Its candidates are the tiles
that fit by arithmetic (`dispatch/tiles.py`); those that spill are left out, one that computes something else stops the
command. The rest take turns at a few lengths, 16384 tokens and a hidden size of 2048 each. The best geometric mean
wins, if it beats the tile used so far by over 1%.
"""

from __future__ import annotations

import datetime
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numba_fa
from numba_fa.build.artifact import Artifact
from numba_fa.build.batch import compiled
from numba_fa.build.driver import describe_device, device_count
from numba_fa.build.fingerprint import versions
from numba_fa.dispatch import measured
from numba_fa.dispatch.device import HOPPER, Device
from numba_fa.dispatch.key import DispatchKey, HeadDims
from numba_fa.dispatch.registry import variant_of
from numba_fa.dispatch.tiles import MOST_BYTES, Tile, candidates, tile_of, with_tile
from numba_fa.dispatch.tuning import key_for, on_device
from numba_fa.errors import UnsupportedError
from numba_fa.testing import programs
from numba_fa.testing.programs import Asked, Sizes
from numba_fa.testing.shapes import HIDDEN, TOKENS, Shape

MARGIN = 1.01

MASKS: dict[str, Callable[[Sizes], Any]] = {
    "full": lambda s: "full",
    "causal": lambda s: "causal",
    "window": lambda s: numba_fa.SlidingWindow(s.seqlen_k // 8, 0),
    "padding": lambda s: numba_fa.KeyPadding(programs.lengths(s)),
    "document": lambda s: numba_fa.Document(*programs.documents(s)),
    "prefix": lambda s: numba_fa.PrefixLM(programs.lengths(s) // 2),
}
BIASES: dict[str, Callable[[Sizes], tuple[Any, ...]]] = {
    "none": lambda s: (),
    "alibi": lambda s: (numba_fa.ALiBi(programs.slopes(s)),),
    "dense": lambda s: (numba_fa.DenseBias(programs.random(s.seqlen_q, s.seqlen_k)),),
    "softcap": lambda s: (numba_fa.Softcap(30.0),),
    "t5": lambda s: (numba_fa.T5Bias(programs.random(32, s.heads)),),
    "sink": lambda s: (),
}


@dataclass(frozen=True)
class Point:
    """A kind of call to tune."""

    dims: HeadDims
    mask: str
    bias: str = "none"

    def sizes(self, seqlen: int) -> Sizes:
        """Of a workload of 16384 tokens."""
        return Sizes(max(TOKENS // seqlen, 1), seqlen, seqlen, max(HIDDEN // max(self.dims), 1))

    def asked(self, sizes: Sizes) -> Asked:
        """Its mask and biases, with NumPy arrays."""
        sink = programs.random(sizes.heads) if self.bias == "sink" else None
        return Asked(MASKS[self.mask](sizes), BIASES[self.bias](sizes), sink)

    def key(self, device: Device) -> DispatchKey:
        """The key such a call has now, on this device."""
        family = device.families[0]
        step = 16 if family == "sm90" else 8
        head_dim, head_dim_v = (-(-dim // step) * step for dim in self.dims)
        names = self.asked(Sizes(1, 1, 1, 1)).names
        return on_device(key_for("fwd", family, "bf16", head_dim, *names, head_dim_v), device)


def points(head_dims: Iterable[HeadDims], masks: Iterable[str], biases: Iterable[str]) -> list[Point]:
    """Every combination."""
    return [Point(d, mask, bias) for d in head_dims for mask in masks for bias in biases]


def tiles_for(key: DispatchKey, device: Device) -> list[Tile]:
    """What to measure: the tile of now first, then the candidates."""
    now, limit = tile_of(key), device.shared_bytes or MOST_BYTES
    every = candidates(key.family, key.dims, limit)
    return [now, *(tile for tile in every if tile != now)]


def show(asked: Sequence[Point]) -> None:
    """Print what would be measured; on a pretended Hopper GPU where there is none."""
    device = describe_device(0) if device_count() else HOPPER
    for point in asked:
        key = point.key(device)
        print(f"{key.slug}: {' '.join(map(str, tiles_for(key, device)))}")


def tune(asked: Sequence[Point], seqlens: Sequence[int], repeats: int, jobs: int | None, command: str) -> int:
    """Measure, print and write the table, after every point; 0."""
    if not device_count():
        raise UnsupportedError("no GPU here, and tune measures on one", nearest="tune --list, which measures nothing")
    device = describe_device(0)
    print(f"{device.name}, seqlens {' '.join(map(str, seqlens))}: speed over the tile used so far", flush=True)
    keys = {point: point.key(device) for point in asked}
    every = [with_tile(key, tile) for key in keys.values() for tile in tiles_for(key, device)]
    usable = without_spills(every, device, jobs)
    for point, key in keys.items():
        tiles = [tile for tile in tiles_for(key, device) if with_tile(key, tile) in usable]
        row = best_row(key, tiles, lambda seqlen, tiles=tiles, point=point: times(point, seqlen, tiles, repeats), seqlens)
        path = keep(row, device.name, command)
        speeds = ", ".join(f"{name} {speed:.3f}" for name, speed in row.speeds.items())
        print(f"{key.slug} -> {row.tile}: {speeds}", flush=True)
    print(f"written to {path}")
    return 0


def without_spills(keys: Iterable[DispatchKey], device: Device, jobs: int | None) -> set[DispatchKey]:
    """The keys whose kernels compile and keep everything in registers."""
    made = compiled(dict.fromkeys(keys), device.arch, jobs)
    return {key for key, kernel in made if isinstance(kernel, Artifact) and not kernel.spill_stores + kernel.spill_loads}


def best_row(
    key: DispatchKey, tiles: Sequence[Tile], times_at: Callable[[int], dict[Tile, float]], seqlens: Sequence[int]
) -> measured.MeasuredRow:
    """The fastest of `tiles`, whose times at a length `times_at` gives; the first tile unless another is clearly faster."""
    measurements = [times_at(seqlen) for seqlen in seqlens]
    first = tiles[0]
    speeds = {tile: statistics.geometric_mean(m[first] / m[tile] for m in measurements) for tile in tiles}
    best = max(tiles, key=speeds.__getitem__)
    tile = best if speeds[best] > MARGIN else first
    ranked = sorted(tiles, key=speeds.__getitem__, reverse=True)
    return measured.row_for(key, tile, {str(tile): round(speeds[tile], 3) for tile in ranked})


def keep(row: measured.MeasuredRow, gpu: str, command: str) -> Any:
    """Write the row into this GPU's table; the path."""
    before = measured.table_for(gpu) or measured.MeasuredTable(gpu, "", "", {}, ())
    today = datetime.date.today().isoformat()
    return measured.write(measured.MeasuredTable(gpu, today, command, versions(), before.joined([row])))


def times(point: Point, seqlen: int, tiles: Sequence[Tile], repeats: int) -> dict[Tile, float]:
    """Milliseconds of each tile, taking turns; every result is compared with the first tile's before."""
    import torch

    from numba_fa import api
    from numba_fa.testing.timing import median_time

    sizes = point.sizes(seqlen)
    shape = Shape(sizes.batch, seqlen, seqlen, sizes.heads, sizes.heads, point.dims)
    q, k, v = (torch.randn(size, device="cuda", dtype=torch.bfloat16) for size in shape.arrays)
    asked = point.asked(sizes).moved(lambda array: torch.from_numpy(array).cuda())
    plan = api.plan(q, k, v, mask=asked.mask, bias=asked.biases or None, sink_logits=asked.sink_logits)
    runs, wanted = {}, None
    for tile in tiles:
        key = with_tile(plan.key, tile)
        with_this = replace(api.plan_for(plan.problem, variant_of(key), key), kept=plan.kept)
        out = torch.full_like(v, math.nan)
        with_this.run(q, k, v, out)
        wanted = out.float() if wanted is None else wanted
        error = ((out.float() - wanted).norm() / wanted.norm()).item()
        if not error < 1e-2:
            raise ValueError(f"{key.slug} differs from {with_tile(key, tiles[0]).slug}: relative error {error}")
        runs[tile] = lambda ready=with_this, out=out: ready.run(q, k, v, out)
    return median_time(runs, repeats=repeats)
