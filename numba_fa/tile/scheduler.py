"""Which tile of queries a block computes at each of its turns."""

from __future__ import annotations

from collections.abc import Callable


def in_order(turn, tiles_m, heads, batch):
    """Tiles of one head after another: neighbouring blocks share K and V in L2. Returns (tile, head, batch)."""
    rest = turn // tiles_m
    return turn - rest * tiles_m, rest % heads, rest // heads


def longest_first(turn, tiles_m, heads, batch):
    """As in_order, but each head's last tile first: under a causal mask the longest work starts earliest."""
    rest = turn // tiles_m
    return tiles_m - 1 - (turn - rest * tiles_m), rest % heads, rest // heads


Scheduler = Callable[[int, int, int, int], tuple[int, int, int]]
