"""How many heads go together, and whether blocks are persistent: what the host decides of tiles that differ in work.

Persistent blocks overlap a tile's epilogue with the next one's loads, but take the turns that `scheduler.py` gives them,
long or short. How even that is can be computed, and depends on how many heads go together (findings 0002, 0017).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

# What keys and values of heads that go together may take of the 50 MB L2 of an H100 or H200, for Q and O flow through; and
# what it costs if they take more. In 51 causal calls timed with a dozen groups each (H200, 2026-11-27) what is chosen so is
# within 0.3 % of the best in the mean, within 2.6 % at worst.
_L2_BYTES, _BEYOND_L2 = 16 << 20, 0.03
# What a tile costs more, in tiles of keys, where a block has one alone: nothing overlaps.
_ALONE = 2.0
# How even the hardware makes blocks of one tile, a wave of them going together.
_HARDWARE = 0.99
# Of a longer schedule the beginning is looked at. With 64 waves one head at a time came out even where it was not (256 tiles
# of 48 heads: 1.000 of 64 waves, 0.857 of all 93); an uneven end of more than 256 is little beside them.
_WAVES = 256


class Arrangement(NamedTuple):
    """together: heads that go together. persistent: whether there is a block an SM, else one a tile."""

    together: int
    persistent: bool


@lru_cache(maxsize=1024)
def arrange(tiles: int, heads: int, sharing: int, kv_bytes: int, first: float, blocks: int) -> Arrangement:
    """For the heads of all batches, with so many tiles of queries each; tile t takes first + t, counted in tiles of keys.

    sharing: heads that share keys and values. kv_bytes: keys and values of one head. blocks: as many as there are SMs.
    """
    if tiles * heads <= blocks:
        return Arrangement(1, True)

    def speed(together: int) -> float:
        beyond = -(-together // sharing) * kv_bytes > _L2_BYTES
        return evenness(tiles, heads, together, blocks, first) * (1 - _BEYOND_L2 * beyond)

    few = (1, 2, 3, 4, 6, 8, 12, 16, 24, 48, blocks // 4, blocks // 2, heads)
    speeds = {together: speed(together) for together in sorted(set(few)) if 0 < together <= heads}
    best = max(speeds, key=speeds.__getitem__)
    mean = first + (tiles - 1) / 2
    if _HARDWARE * mean / (mean + _ALONE) > speeds[best]:
        return Arrangement(min(max(blocks // tiles, 1), heads), False)
    return Arrangement(best, True)


def evenness(tiles: int, heads: int, together: int, blocks: int, first: float) -> float:
    """How even the work of persistent blocks is: the mean block's over the busiest one's, 1 at best.

    In the order of `scheduler.py`; arguments as for `arrange`.
    """
    turn = np.arange(min(tiles * heads, _WAVES * blocks))
    group, rest = np.divmod(turn, tiles * together)
    behind = rest // np.minimum(together, heads - group * together)
    work = np.zeros(-(-turn.size // blocks) * blocks)
    work[: turn.size] = first + tiles - 1 - behind
    waves = work.reshape(-1, blocks)
    load = waves[::2].sum(axis=0) + waves[1::2, ::-1].sum(axis=0)
    return float(load.mean() / load.max())
