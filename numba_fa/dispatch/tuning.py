"""Tile shapes: a table with its date, GPU and command. The first row that fits a problem gives its tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from numba_fa.dispatch.key import NO_BIAS, DispatchKey
from numba_fa.dispatch.variant import Variant


@dataclass(frozen=True)
class Row:
    """For `family`, head_dims up to `head_dim` and `mask` (None: any): block_m queries by block_n keys, stages deep.

    biased: for calls with biases only, or for those without; None for either.
    """

    family: str
    head_dim: int
    mask: str | None
    block_m: int
    block_n: int
    stages: int
    biased: bool | None = None


TABLE = (
    Row("sm90", 64, None, 192, 128, 4),
    Row("sm90", 128, None, 128, 128, 2),
    Row("sm90", 192, None, 128, 112, 2),
    Row("sm90", 256, None, 128, 80, 2),
    Row("simt", 64, None, 64, 64, 1),
    Row("simt", 128, None, 32, 32, 1),
    Row("simt", 256, None, 32, 16, 1),
    Row("cpu", 256, None, 128, 64, 1),
)


# What is compiled ahead (`numba-fa compile`): the masks that most calls have, without biases. All else at first use.
AHEAD = ("full", "causal")


def key_for(op: str, family: str, dtype: str, head_dim: int, mask: str, bias: str = NO_BIAS) -> DispatchKey:
    """The key with the table's tile. `head_dim` is as compiled; mask and bias as in a slug."""
    for row in TABLE:
        fits = row.family == family and head_dim <= row.head_dim and row.mask in (None, mask)
        if fits and row.biased in (None, bias != NO_BIAS):
            return DispatchKey(op, family, dtype, head_dim, mask, row.block_m, row.block_n, row.stages, bias)
    raise LookupError(f"no tile for {family} head_dim {head_dim} {mask}")


def tuned_keys(variant: Variant) -> Iterator[DispatchKey]:
    """Every key that a problem of `variant` with a mask of `AHEAD` and no biases can lead to, each once."""
    step = 16 if variant.family == "sm90" else variant.head_dims.step
    seen = dict.fromkeys(
        key_for(variant.op, variant.family, dtype, -(-head_dim // step) * step, mask)
        for dtype, head_dim, mask, bias in variant.cells()
        if mask in AHEAD and bias == NO_BIAS
    )
    yield from seen
