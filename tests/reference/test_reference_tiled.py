"""Tiles and splits change nothing but the order of the sums."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import attention, attention_tiled, merge
from reference.tiled import empty_state, finish, reach, update

from .problems import SHAPES, arrays, assert_same, small_arrays

BLOCKS = st.integers(1, 24)


@settings(deadline=None, max_examples=200)
@given(SHAPES, BLOCKS, BLOCKS)
def test_tiled_equals_naive(shape, block_m, block_n):
    q, k, v = arrays(shape)
    tiled = attention_tiled(q, k, v, mask=shape.mask, block_m=block_m, block_n=block_n)
    assert_same(tiled, attention(q, k, v, mask=shape.mask))


@pytest.mark.parametrize("mask", ["full", "causal"])
@pytest.mark.parametrize("seqlen_q, seqlen_k", [(113, 203), (203, 113), (129, 3), (1, 257), (128, 128)])
def test_tiled_equals_naive_at_kernel_sizes(mask, seqlen_q, seqlen_k):
    q, k, v = small_arrays(seqlen_q, seqlen_k)
    tiled = attention_tiled(q, k, v, mask=mask, scale=-3.0, block_m=128, block_n=64)
    assert_same(tiled, attention(q, k, v, mask=mask, scale=-3.0))


@pytest.mark.parametrize("sign", [1, -1])
def test_tiled_survives_growing_and_shrinking_scores(sign):
    """The running maximum moves by hundreds at every block, or never after the first."""
    q, v = np.ones((1, 1, 1, 1)), np.random.default_rng(0).standard_normal((1, 32, 1, 2))
    k = sign * np.arange(0.0, 3200.0, 100.0).reshape(1, 32, 1, 1)
    assert_same(attention_tiled(q, k, v, scale=1.0, block_n=4), attention(q, k, v, scale=1.0))


@pytest.mark.parametrize("target", ["q", "k", "v"])
@pytest.mark.parametrize("mask", ["full", "causal"])
def test_tiled_keeps_nan_in_the_same_places(mask, target):
    q, k, v = inputs = small_arrays(9, 7)
    inputs["qkv".index(target)][0, 4, 0, 1] = np.nan
    truth = attention(q, k, v, mask=mask)
    assert np.isnan(truth[0]).any() and not np.isnan(truth[0]).all()
    assert_same(attention_tiled(q, k, v, mask=mask, block_m=4, block_n=3), truth)


def test_reach_is_the_last_key_that_any_row_sees():
    visible = np.random.default_rng(0).random((3, 12)) < 0.15
    for last in range(-1, 12):
        assert reach(visible, last) == max((j for j in range(last + 1) if visible[:, j].any()), default=-1)


def test_blocks_of_keys_pass_from_the_last_to_the_first(monkeypatch):
    """Causal, 4 queries on 6 keys, two rows a tile: rows 0 and 1 end at key 4, rows 2 and 3 at key 6."""
    firsts = []

    def log_then_update(state, scores, v, visible):
        firsts.append(int(v[0, 0]))
        return update(state, scores, v, visible)

    monkeypatch.setattr("reference.tiled.update", log_then_update)
    q, k, _ = small_arrays(4, 6, heads=1)
    key_index = np.broadcast_to(np.arange(6.0)[:, None, None], (1, 6, 1, 1))
    attention_tiled(q[:1], k[:1], key_index, mask="causal", block_m=2, block_n=2)
    assert firsts == [2, 0, 4, 2, 0]


def test_a_state_that_has_seen_nothing():
    out, lse = finish(empty_state(2, 3))
    assert np.all(out == 0) and np.all(lse == -np.inf)


def test_an_invisible_block_leaves_the_state():
    state = update(empty_state(1, 1), np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]), np.ones((1, 2), bool))
    hidden = update(state, np.full((1, 2), -np.inf), np.array([[9.0], [np.nan]]), np.zeros((1, 2), bool))
    for before, after in zip(state, hidden, strict=True):
        np.testing.assert_array_equal(before, after)


def test_one_update_by_hand():
    """Scores 0 and 1 in log2 units weigh 1/2 and 1: the sum is 3/2, out is (v0 + 2 v1) / 3, lse is ln 3."""
    state = update(empty_state(1, 1), np.array([[0.0, 1.0]]), np.array([[6.0], [9.0]]), np.ones((1, 2), bool))
    assert [x.item() for x in state] == [1.0, 1.5, 12.0]
    assert_same([x.item() for x in finish(state)], (8.0, np.log(3)))


@pytest.mark.parametrize("block_m, block_n", [(0, 4), (4, 0)])
def test_blocks_must_be_positive(block_m, block_n):
    with pytest.raises(ValueError, match="must be positive"):
        attention_tiled(*small_arrays(2, 2), block_m=block_m, block_n=block_n)


@settings(deadline=None)
@given(SHAPES, st.data())
def test_merge_of_a_key_split_equals_the_whole(shape, data):
    q, k, v = arrays(shape)
    cut = data.draw(st.integers(0, shape.seqlen_k))
    parts = [attention(q, k[:, keys], v[:, keys]) for keys in (slice(cut), slice(cut, None))]
    assert_same(merge(*parts[0], *parts[1]), attention(q, k, v))


@settings(deadline=None)
@given(SHAPES)
def test_causal_is_a_merge_of_its_prefix_and_its_square(shape):
    """With Sq <= Sk the first Sk - Sq keys are seen by all rows, the rest make a square causal problem."""
    shape = shape._replace(seqlen_k=shape.seqlen_k + shape.seqlen_q)
    q, k, v = arrays(shape)
    prefix = shape.seqlen_k - shape.seqlen_q
    whole = merge(
        *attention(q, k[:, :prefix], v[:, :prefix]),
        *attention(q, k[:, prefix:], v[:, prefix:], mask="causal"),
    )
    assert_same(whole, attention(q, k, v, mask="causal"))


def test_merge_is_associative_and_symmetric():
    q, k, v = small_arrays(3, 9)
    a, b, c = (attention(q, k[:, keys], v[:, keys]) for keys in (slice(2), slice(2, 5), slice(5, 9)))
    left = merge(*merge(*a, *b), *c)
    assert_same(left, merge(*a, *merge(*b, *c)))
    assert_same(left, merge(*c, *merge(*b, *a)))


def test_merge_ignores_states_that_saw_nothing():
    out, lse = attention(*small_arrays(3, 4))
    unseen = np.full_like(out, np.nan), np.full_like(lse, -np.inf)
    assert_same(merge(out, lse, *unseen), (out, lse), tolerance=0)
    assert_same(merge(*unseen, out, lse), (out, lse), tolerance=0)
    assert_same(merge(*unseen, *unseen), (np.zeros_like(out), unseen[1]), tolerance=0)
