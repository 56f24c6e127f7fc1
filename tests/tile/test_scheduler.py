"""Schedules: every tile once, whatever the grid."""

from hypothesis import given
from hypothesis import strategies as st

from numba_fa.tile.scheduler import locate, turn_of


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 4), st.integers(1, 25), st.integers(1, 40))
def test_every_tile_is_computed_once(tiles, heads, batch, together, blocks):
    total, seen = tiles * heads * batch, []
    for block in range(blocks):
        wave = 0
        while (turn := turn_of(wave, block, blocks)) < total:
            seen.append(locate(turn, tiles, heads, batch, together))
            wave += 1
    everything = [(t, h, b) for t in range(tiles) for h in range(heads) for b in range(batch)]
    assert sorted(seen) == everything


def test_the_longest_tiles_of_a_group_come_first():
    order = [locate(turn, 3, 4, 1, 2) for turn in range(12)]
    assert order[:6] == [(2, 0, 0), (2, 1, 0), (1, 0, 0), (1, 1, 0), (0, 0, 0), (0, 1, 0)]
    assert {head for _, head, _ in order[6:]} == {2, 3}
