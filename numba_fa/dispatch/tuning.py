"""Tile shapes: a table with its date, GPU and command. The first row that fits a problem gives its tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.variant import Variant


@dataclass(frozen=True)
class Row:
    """For `family`, head_dims up to `head_dim` and `mask` (None: any): block_m queries by block_n keys, stages deep."""

    family: str
    head_dim: int
    mask: str | None
    block_m: int
    block_n: int
    stages: int


TABLE = (
    Row("sm90", 64, None, 192, 128, 2),
    Row("sm90", 128, None, 128, 128, 2),
    Row("sm90", 192, None, 128, 112, 2),
    Row("sm90", 256, None, 128, 80, 2),
    Row("simt", 64, None, 64, 64, 1),
    Row("simt", 128, None, 32, 32, 1),
    Row("simt", 256, None, 32, 16, 1),
    Row("cpu", 256, None, 128, 64, 1),
)


def key_for(op: str, family: str, dtype: str, head_dim: int, mask: str) -> DispatchKey:
    """The key with the table's tile. `head_dim` is as compiled."""
    for row in TABLE:
        if row.family == family and head_dim <= row.head_dim and row.mask in (None, mask):
            return DispatchKey(op, family, dtype, head_dim, mask, row.block_m, row.block_n, row.stages)
    raise LookupError(f"no tile for {family} head_dim {head_dim} {mask}")


def tuned_keys(variant: Variant) -> Iterator[DispatchKey]:
    """Every key that a problem of `variant` can lead to, each once."""
    step = 16 if variant.family == "sm90" else variant.head_dims.step
    seen = dict.fromkeys(
        key_for(variant.op, variant.family, dtype, -(-head_dim // step) * step, mask)
        for dtype, head_dim, mask in variant.cells()
    )
    yield from seen
