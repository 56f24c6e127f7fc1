"""The masks cell by cell, and which kv head a query head reads."""
import numpy as np
import pytest

from reference import MASKS, expand_kv_heads, visible_keys

from .brute_force import sees


@pytest.mark.parametrize("mask", sorted(MASKS))
@pytest.mark.parametrize("seqlen_q", range(5))
@pytest.mark.parametrize("seqlen_k", range(5))
def test_every_cell(mask, seqlen_q, seqlen_k):
    expected = [[sees(mask, i, j, seqlen_q, seqlen_k) for j in range(seqlen_k)] for i in range(seqlen_q)]
    grid = visible_keys(mask, seqlen_q, seqlen_k)
    assert grid.dtype == bool
    np.testing.assert_array_equal(grid, np.array(expected, dtype=bool).reshape(seqlen_q, seqlen_k))


def test_causal_figures():
    """Drawn by hand: the last query always sees every key."""
    np.testing.assert_array_equal(visible_keys("causal", 2, 4), [[1, 1, 1, 0], [1, 1, 1, 1]])
    np.testing.assert_array_equal(visible_keys("causal", 4, 2), [[0, 0], [0, 0], [1, 0], [1, 1]])


@pytest.mark.parametrize("mask", sorted(MASKS))
def test_indices_broadcast(mask):
    """A mask takes a column against a row, scalars, and any part of the grid."""
    grid = visible_keys(mask, 6, 8)
    part = MASKS[mask](np.arange(2, 5)[:, None], np.arange(3, 8), 6, 8)
    np.testing.assert_array_equal(part, grid[2:5, 3:8])
    assert all(bool(MASKS[mask](i, j, 6, 8)) == grid[i, j] for i in range(6) for j in range(8))


def test_query_heads_share_kv_heads_in_runs():
    x = np.array([10, 20]).reshape(1, 1, 2, 1)
    assert expand_kv_heads(x, 6).ravel().tolist() == [10, 10, 10, 20, 20, 20]
    assert expand_kv_heads(x, 2).ravel().tolist() == [10, 20]
    with pytest.raises(ValueError, match="3 is not a multiple of heads_kv 2"):
        expand_kv_heads(x, 3)
