"""How many heads go together: evenness against the schedule itself, and what is chosen by it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numba_fa.tile.arrangement import arrange, evenness
from numba_fa.tile.scheduler import locate, turn_of

MB = 1 << 20


@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 12), st.integers(1, 25), st.floats(0.5, 9))
def test_evenness_is_that_of_the_schedule(tiles, heads, together, blocks, first):
    together = min(together, heads)
    load = [0.0] * blocks
    for block in range(blocks):
        wave = 0
        while (turn := turn_of(wave, block, blocks)) < tiles * heads:
            load[block] += first + locate(turn, tiles, heads, 1, together)[0]
            wave += 1
    assert evenness(tiles, heads, together, blocks, first) == pytest.approx(sum(load) / blocks / max(load))


def test_evenness_by_hand():
    # Work 3, 2, 1 of one head over two blocks: the first wave gives 3 and 2, the second, backwards, 1 to the second.
    assert evenness(3, 1, 1, 2, 1.0) == pytest.approx(3 / 3)
    # Over three blocks, one tile each: the busiest has 3 of 6.
    assert evenness(3, 1, 1, 3, 1.0) == pytest.approx(2 / 3)


def test_of_a_long_schedule_the_beginning_is_looked_at():
    assert evenness(16, 10**6, 33, 132, 2.5) == pytest.approx(evenness(16, 2112, 33, 132, 2.5), rel=2e-3)


@pytest.mark.parametrize("heads", [24, 40, 48, 56, 64])
@pytest.mark.parametrize("blocks", [78, 114, 132, 144])
def test_what_comes_out_even_in_the_beginning_does_in_the_end(heads, blocks):
    """64 waves of 132 blocks are 33 heads of 256 tiles: one head at a time looks even until the last 15 of 48."""
    chosen = arrange(256, heads, 1, 16 * MB, 2.5, blocks)
    load = [0.0] * blocks
    for turn in range(256 * heads):
        wave, place = divmod(turn, blocks)
        load[blocks - 1 - place if wave & 1 else place] += 2.5 + locate(turn, 256, heads, 1, chosen.together)[0]
    assert not chosen.persistent or sum(load) / blocks / max(load) > 0.95


def test_one_wave_needs_no_order():
    assert arrange(4, 33, 1, MB, 2.5, 132) == (1, True)


@pytest.mark.parametrize("together", [1, 2, 3, 5, 16, 40])
def test_what_is_chosen_is_about_as_even_as_any(together):
    chosen = arrange(16, 80, 1, MB, 2.5, 132)
    assert chosen.persistent
    # 3 % are given away for what stays in L2.
    assert evenness(16, 80, chosen.together, 132, 2.5) >= 0.97 * evenness(16, 80, together, 132, 2.5)


def test_as_even_is_as_good_where_it_stays_in_l2():
    """A group of 33 heads makes whole waves of 132 blocks; unless that takes 33 heads' keys and values, 3 % too much."""
    assert arrange(16, 80, 1, MB // 4, 2.5, 132).together == 33
    assert evenness(16, 128, 1, 132, 2.5) > 0.97 * evenness(16, 128, 33, 132, 2.5)
    assert arrange(16, 128, 1, 9 * MB, 2.5, 132).together == 1
    assert arrange(16, 128, 64, 9 * MB, 2.5, 132).together == 33  # shared by all of them


def test_blocks_of_one_tile_where_nothing_is_even():
    """Two heads of 256 tiles: four waves of 132 blocks, the last of which few have a part in."""
    assert evenness(256, 2, 1, 132, 2.5) < 0.7 and evenness(256, 2, 2, 132, 2.5) < 0.99
    chosen = arrange(256, 2, 1, 16 * MB, 2.5, 132)
    assert chosen == (1, False)
