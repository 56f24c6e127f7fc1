"""Tile shapes: a table with its date, GPU and command. The first row that fits a problem gives its tile.

What `numba-fa tune` measured on the GPU that a call runs on comes before the table; a computed default comes where the table
has no row, and where the row's tile does not fit the GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from numba_fa.dispatch import measured, tiles
from numba_fa.dispatch.device import Device
from numba_fa.dispatch.key import NO_BIAS, DispatchKey, HeadDims
from numba_fa.dispatch.variant import Variant


@dataclass(frozen=True)
class Origin:
    """Where a row's tile comes from: a measurement's date, device and command; without a date, what chose it."""

    date: str | None
    device: str
    command: str


@dataclass(frozen=True)
class Row:
    """For `family`, head_dims (the wider, where values have another) up to `head_dim` and `mask` (None: any): block_m
    queries by block_n keys, stages deep.

    bias: for calls with a bias whose name begins so; "none": without biases; None: with or without. values: for values of
    head_dims up to this. most: for calls of at most so many queries and as many keys; None for any, and then before no row
    with a bound. alone: for one bias only; with others beside it its kernels spill. origin: where it comes from.
    """

    family: str
    head_dim: int
    mask: str | None
    block_m: int
    block_n: int
    stages: int
    origin: Origin
    bias: str | None = None
    most: int | None = None
    values: int = tiles.MOST_COLUMNS
    alone: bool = False

    def speaks_for(self, family: str, dims: HeadDims, mask: str, bias: str) -> bool:
        """Whether it is for such calls, of some length."""
        fits = self.family == family and max(dims) <= self.head_dim and dims.head_dim_v <= self.values
        biased = self.bias is None or any(name.startswith(self.bias) for name in bias.split("+"))
        return fits and biased and self.mask in (None, mask) and not (self.alone and "+" in bias)


H200 = Origin("2026-11-24", "NVIDIA H200", "python -m numba_fa.testing.speed")
SHORT = Origin("2026-11-27", "NVIDIA H200", "python -m numba_fa.testing.speed --seqlens 512 1024 2048")
MEASURED = Origin("2026-11-27", "NVIDIA H200", "python -m numba_fa.testing.speed SLUG...")
TUNED = Origin("2026-11-27", "NVIDIA H200", "numba-fa tune --head-dims 96 192 192:128 --seqlens 1024 2048 4096 8192")
MASKED = Origin("2026-11-27", "NVIDIA H200", "numba-fa tune --head-dims 64 256 --masks document --seqlens 2048 8192")
BIASED = Origin("2026-11-27", "NVIDIA H200", "numba-fa tune --masks causal --biases alibi softcap t5 --seqlens 2048 8192")
DENSE = Origin("2026-11-28", "NVIDIA H200", "numba-fa tune --head-dims 64 128 --biases dense --seqlens 2048 8192")
BUCKETS = Origin("2026-11-28", "NVIDIA H200", "numba-fa tune --head-dims 64 --biases t5 --seqlens 2048 8192")
WINDOWED = Origin("2026-11-28", "NVIDIA H200", "numba-fa tune --head-dims 64 --masks window --seqlens 2048 8192")
TURING = Origin(None, "any GPU from Turing on", "fits 64 KB of shared memory")
CORES = Origin("2026-11-24", "a CPU with two cores", "python -m numba_fa.testing.cpu_speed")

TABLE = (
    Row("sm90", 64, "causal", 128, 128, 4, SHORT, NO_BIAS, most=2048),
    Row("sm90", 64, None, 128, 128, 4, SHORT, NO_BIAS, most=1024),
    Row("sm90", 64, "full", 192, 96, 4, BUCKETS, "t5", alone=True),
    Row("sm90", 64, None, 192, 64, 4, BUCKETS, "t5", alone=True),
    Row("sm90", 64, None, 128, 64, 4, BUCKETS, "t5"),
    Row("sm90", 64, None, 192, 64, 4, DENSE, "dense"),
    Row("sm90", 64, "document", 128, 128, 4, MASKED),
    Row("sm90", 64, "window", 128, 128, 4, WINDOWED),
    Row("sm90", 64, None, 192, 128, 4, H200),
    Row("sm90", 96, "causal", 128, 128, 2, MEASURED, NO_BIAS, most=4096),
    Row("sm90", 96, "causal", 192, 96, 3, TUNED, NO_BIAS),
    Row("sm90", 128, None, 128, 64, 4, BIASED, "t5"),
    Row("sm90", 128, "full", 128, 96, 2, DENSE, "dense"),
    Row("sm90", 128, None, 128, 128, 2, H200),
    Row("sm90", 192, None, 128, 128, 2, TUNED, values=128),
    Row("sm90", 192, None, 128, 64, 3, TUNED),
    Row("sm90", 256, None, 128, 64, 2, BIASED, "t5"),
    Row("sm90", 256, None, 128, 80, 2, BIASED, "softcap"),
    Row("sm90", 256, None, 128, 64, 2, MEASURED),
    Row("simt", 64, None, 64, 64, 1, TURING),
    Row("simt", 128, None, 32, 32, 1, TURING),
    Row("simt", 256, None, 32, 16, 1, TURING),
    Row("cpu", 256, None, 128, 64, 1, CORES),
)


# What is compiled ahead (`numba-fa compile`): the masks that most calls have, without biases. All else at first use.
AHEAD = ("full", "causal")


def key_for(
    op: str, family: str, dtype: str, head_dim: int, mask: str, bias: str = NO_BIAS, head_dim_v: int = 0
) -> DispatchKey:
    """The key with the table's tile for any length, or a computed one. head_dim, head_dim_v: as compiled; mask, bias: as in
    a slug."""
    dims = HeadDims(head_dim, head_dim_v or head_dim)
    for row in TABLE:
        if row.most is None and row.speaks_for(family, dims, mask, bias):
            return DispatchKey(op, family, dtype, head_dim, mask, row.block_m, row.block_n, row.stages, bias, head_dim_v)
    tile = tiles.default_tile(family, dims)
    if tile is None:
        raise LookupError(f"no tile for {family} head_dim {head_dim} {mask}")
    return DispatchKey(op, family, dtype, head_dim, mask, *tile, bias, head_dim_v)


def for_length(key: DispatchKey, longest: int) -> DispatchKey:
    """The key with the table's tile for calls of at most `longest` queries and keys, if it has one. Of a forward: the table
    knows no others' tiles."""
    for row in TABLE if key.op == "fwd" else ():
        if row.speaks_for(key.family, key.dims, key.mask, key.bias):
            if row.most is None:
                return key
            if longest <= row.most:
                return tiles.with_tile(key, tiles.Tile(row.block_m, row.block_n, row.stages))
    return key


def lengths() -> list[int]:
    """A length of each kind that the table tells apart."""
    return [*sorted({row.most for row in TABLE if row.most is not None}), 1 << 30]


def on_device(key: DispatchKey, device: Device) -> DispatchKey:
    """The key with the tile that was measured on this very GPU, if any, and one that fits it, if its own does not."""
    if key.op != "fwd":  # what is measured, and what `tiles` counts
        return key
    own = measured_tile(key, device)
    if own is not None:
        return tiles.with_tile(key, own)
    needed = tiles.shared_bytes(key.family, key.dims, tiles.tile_of(key))
    if needed <= (device.shared_bytes or needed):
        return key
    fitting = tiles.default_tile(key.family, key.dims, device.shared_bytes)
    return tiles.with_tile(key, fitting) if fitting else key


def measured_tile(key: DispatchKey, device: Device) -> tiles.Tile | None:
    """The tile that the user's table for this GPU gives for calls like the key's, as long as it fits."""
    table = None if device.arch == "cpu" or key.op != "fwd" else measured.table_for(device.name)
    tile = table.tile_for(key) if table else None
    limit = device.shared_bytes or tiles.MOST_BYTES
    return tile if tile and tiles.fits(key.family, key.dims, tile, limit) else None


def tuned_keys(variant: Variant) -> Iterator[DispatchKey]:
    """Every key that a problem of `variant` with a mask of `AHEAD` and no biases can lead to, each once."""
    every = (
        variant.for_length(variant.key_for(dtype, head_dim, mask, NO_BIAS), longest)
        for dtype, head_dim, mask, bias in variant.cells()
        if mask in AHEAD and bias == NO_BIAS
        for longest in lengths()
    )
    seen = dict.fromkeys(stage for key in every for stage in variant.stages(key, frozenset("qkv")))
    yield from seen
