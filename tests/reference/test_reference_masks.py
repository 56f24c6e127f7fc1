"""The masks cell by cell, how they combine, and which kv head a query head reads."""
import numpy as np
import pytest

from reference import MASK_KINDS, MASKS, bind, expand_kv_heads, intersection, union, visible_keys
from reference import masks as reference_masks

from .cases import MASK_NAMES, mask_case, mask_cases


@pytest.mark.parametrize("name", MASK_NAMES)
def test_every_cell(name):
    for seqlen_q, seqlen_k in np.ndindex(6, 6):
        mask, scalar = mask_case(name, seqlen_q, seqlen_k)
        for b in range(2):
            expected = [[scalar(b, 0, i, j) for j in range(seqlen_k)] for i in range(seqlen_q)]
            grid = visible_keys(mask, seqlen_q, seqlen_k, b)
            assert grid.dtype == bool
            np.testing.assert_array_equal(grid, np.array(expected, dtype=bool).reshape(seqlen_q, seqlen_k))


def test_every_kind_has_a_case():
    assert {mask_cases(1, 1)[name][0] for name in MASK_NAMES} == set(MASK_KINDS)
    assert set(MASKS) < set(MASK_KINDS)
    assert all(getattr(reference_masks, kind) is mask for kind, mask in MASK_KINDS.items())


def test_figures():
    """Drawn by hand, three queries on five keys: the last query stands at the last key."""

    def drawn(mask, *rows, **params):
        figure = [[cell == "x" for cell in row] for row in rows]
        np.testing.assert_array_equal(visible_keys(bind(MASK_KINDS[mask], 3, 5, **params), 3, 5), figure)

    drawn("causal", "xxx..", "xxxx.", "xxxxx")
    drawn("window", ".xx..", "..xx.", "...xx", left=1, right=0)
    drawn("window", "xxxx.", "x.xxx", "x..xx", left=1, right=1, sinks=1)
    drawn("window", "xxx..", "xxxx.", "xxxxx", right=0)
    drawn("padding", "xxxx.", "xxxx.", "xxxx.", lengths=[4])
    drawn("document", "xx...", "..xx.", "..xx.", q_ids=[[0, 1, 1]], k_ids=[[0, 0, 1, 1, 2]])
    drawn("prefix", "xxxx.", "xxxx.", "xxxxx", prefix=4)
    np.testing.assert_array_equal(visible_keys("causal", 4, 2), [[0, 0], [0, 0], [1, 0], [1, 1]])


def test_sinks_never_escape_the_right_bound():
    """With more queries than keys the first ones stand before key 0, sink or not."""
    grid = visible_keys(bind(MASK_KINDS["window"], 4, 2, left=0, right=0, sinks=2), 4, 2)
    np.testing.assert_array_equal(grid, [[0, 0], [0, 0], [1, 0], [1, 1]])


def test_key_ids_default_to_those_of_queries():
    ids = np.array([[0, 0, 1, 2, 2]])
    mask = bind(MASK_KINDS["document"], 5, 5, q_ids=ids)
    np.testing.assert_array_equal(visible_keys(mask, 5, 5), ids == ids.T)


@pytest.mark.parametrize("name", MASK_NAMES)
def test_indices_broadcast(name):
    """A mask takes all batches and heads at once, a column against a row, scalars, and any part of the grid."""
    mask, _ = mask_case(name, 6, 8)
    grids = np.stack([visible_keys(mask, 6, 8, b) for b in range(2)])
    b, h, i, j = np.ogrid[:2, :3, :6, :8]
    np.testing.assert_array_equal(mask(b, h, i, j), np.broadcast_to(grids[:, None], (2, 3, 6, 8)))
    np.testing.assert_array_equal(mask(1, 0, np.arange(2, 5)[:, None], np.arange(3, 8)), grids[1, 2:5, 3:8])
    assert all(bool(mask(1, 0, i, j)) == grids[1, i, j] for i in range(6) for j in range(8))


@pytest.mark.parametrize("params", [{"left": -2}, {"right": -3}, {"left": 1, "sinks": -1}])
def test_window_refuses_what_has_no_meaning(params):
    with pytest.raises(ValueError, match="must be"):
        visible_keys(bind(MASK_KINDS["window"], 2, 2, **params), 2, 2)


@pytest.mark.parametrize("first", MASK_NAMES)
@pytest.mark.parametrize("second", MASK_NAMES)
def test_combinations(first, second):
    a, b = (mask_case(name, 5, 7)[0] for name in (first, second))
    grid_a, grid_b = (visible_keys(mask, 5, 7, 1) for mask in (a, b))
    np.testing.assert_array_equal(visible_keys(intersection(a, b), 5, 7, 1), grid_a & grid_b)
    np.testing.assert_array_equal(visible_keys(union(a, b), 5, 7, 1), grid_a | grid_b)


def test_combinations_nest_and_take_unbound_functions():
    causal, padding, prefix = (mask_case(name, 5, 7)[0] for name in ("causal", "padding", "prefix"))
    nested = visible_keys(intersection(union(causal, prefix), padding), 5, 7)
    grids = [visible_keys(mask, 5, 7) for mask in (causal, prefix, padding)]
    np.testing.assert_array_equal(nested, (grids[0] | grids[1]) & grids[2])
    assert intersection(MASKS["causal"], MASKS["full"])(0, 0, 3, 3, 5, 5)
    assert not intersection(MASKS["causal"], MASKS["full"])(0, 0, 3, 4, 5, 5)
    assert visible_keys(intersection(), 2, 3).all() and not visible_keys(union(), 2, 3).any()


def test_arrays_are_masks():
    grid = np.random.default_rng(0).random((2, 3, 4, 5)) < 0.5
    np.testing.assert_array_equal(visible_keys(grid, 4, 5, 1, 2, batch=2, heads=3), grid[1, 2])
    np.testing.assert_array_equal(visible_keys(grid[:, :1], 4, 5, 1, 2, batch=2, heads=3), grid[1, 0])
    np.testing.assert_array_equal(visible_keys(grid[0, 0, :1], 4, 5), np.broadcast_to(grid[0, 0, :1], (4, 5)))
    with pytest.raises(ValueError, match="broadcast"):
        visible_keys(grid, 4, 6, batch=2, heads=3)
    with pytest.raises(ValueError, match="int64"):
        visible_keys(grid.astype(np.int64), 4, 5, batch=2, heads=3)


def test_query_heads_share_kv_heads_in_runs():
    x = np.array([10, 20]).reshape(1, 1, 2, 1)
    assert expand_kv_heads(x, 6).ravel().tolist() == [10, 10, 10, 20, 20, 20]
    assert expand_kv_heads(x, 2).ravel().tolist() == [10, 20]
    with pytest.raises(ValueError, match="3 is not a multiple of heads_kv 2"):
        expand_kv_heads(x, 3)
