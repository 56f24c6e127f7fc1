"""The truth against plain loops, and against what the mathematics of softmax promises."""
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.special import logsumexp, softmax

from reference import attention

from .brute_force import brute_force_attention
from .cases import mask_case
from .problems import SHAPES, arrays, assert_same, small_arrays

MASKS = ["full", "causal"]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("heads, heads_kv", [(1, 1), (4, 2), (3, 1)])
@pytest.mark.parametrize("seqlen_q, seqlen_k", [(1, 1), (3, 3), (2, 5), (5, 2), (4, 0)])
def test_equals_plain_loops(mask, heads, heads_kv, seqlen_q, seqlen_k):
    q, k, v = small_arrays(seqlen_q, seqlen_k, heads, heads_kv)
    result = attention(q, k, v, mask=mask, scale=0.7)
    assert result[0].dtype == result[1].dtype == np.float64
    assert_same(result, brute_force_attention(q, k, v, 0.7, mask_case(mask, seqlen_q, seqlen_k)[1]))


def test_equals_scipy_softmax():
    q, k, v = (x[0, :, 0] for x in small_arrays(6, 9, heads=1))
    scores = q @ k.T / 2  # head_dim is 4, so the default scale is 1/2
    out, lse = attention(*(x[None, :, None] for x in (q, k, v)))
    assert_same((out[0, :, 0], lse[0, 0]), (softmax(scores, axis=1) @ v, logsumexp(scores, axis=1)))


@settings(deadline=None)
@given(SHAPES)
def test_constant_values_come_back(shape):
    """The weights of a row sum to one, so equal values give that value, and rows that see nothing give
    zero."""
    q, k, v = arrays(shape)
    out, lse = attention(q, k, np.full_like(v, 3.0), mask=shape.mask)
    seen = np.isfinite(lse).transpose(0, 2, 1)[..., None]
    np.testing.assert_allclose(out, np.broadcast_to(np.where(seen, 3.0, 0.0), out.shape), rtol=1e-14)


@settings(deadline=None)
@given(SHAPES)
def test_out_lies_in_the_convex_hull_of_seen_values(shape):
    q, k, v = arrays(shape)
    out, _ = attention(q, k, v, mask=shape.mask)
    v = np.repeat(v, shape.group, axis=2)
    for i in range(shape.seqlen_q):
        past = max(i + shape.seqlen_k - shape.seqlen_q + 1, 0)
        seen = v[:, : shape.seqlen_k if shape.mask == "full" else past]
        if seen.shape[1]:
            assert np.all(out[:, i] <= seen.max(axis=1) + 1e-12)
            assert np.all(out[:, i] >= seen.min(axis=1) - 1e-12)


@settings(deadline=None)
@given(SHAPES.map(lambda shape: shape._replace(mask="full")))
def test_order_of_keys_does_not_matter(shape):
    q, k, v = arrays(shape)
    order = np.random.default_rng(shape.seed).permutation(shape.seqlen_k)
    assert_same(attention(q, k[:, order], v[:, order]), attention(q, k, v))


@settings(deadline=None)
@given(SHAPES)
def test_a_common_shift_of_scores_moves_lse_alone(shape):
    """A further dimension, 1 in every k and c in every q, adds scale * c to all scores."""
    q, k, v = arrays(shape)
    shifted_q = np.concatenate([q, np.full_like(q[..., :1], 50.0)], axis=-1)
    shifted_k = np.concatenate([k, np.ones_like(k[..., :1])], axis=-1)
    out, lse = attention(q, k, v, mask=shape.mask, scale=0.3)
    shifted = attention(shifted_q, shifted_k, v, mask=shape.mask, scale=0.3)
    assert_same(shifted, (out, lse + 15.0))


@settings(deadline=None)
@given(SHAPES)
def test_scale_multiplies_q(shape):
    q, k, v = arrays(shape)
    scaled = attention(q, k, v, mask=shape.mask, scale=0.25)
    assert_same(scaled, attention(q * 0.25, k, v, mask=shape.mask, scale=1.0))


def test_default_scale_is_one_over_root_head_dim():
    q, k, v = small_arrays(3, 5)
    assert_same(attention(q, k, v), attention(q, k, v, scale=0.5))
    assert not np.allclose(attention(q, k, v)[0], attention(q, k, v, scale=1.0)[0])


def test_zero_scale_averages():
    q, k, v = small_arrays(3, 5, heads=1)
    out, lse = attention(q, k, v, scale=0.0)
    mean = np.broadcast_to(v.mean(axis=1, keepdims=True), out.shape)
    assert_same((out, lse), (mean, np.full(lse.shape, np.log(5))))


def test_huge_scores_do_not_overflow():
    """exp(4000) is infinite; the row maximum must be taken off first."""
    q, k = np.full((1, 1, 1, 1), 1.0), np.array([4000.0, -4000.0]).reshape(1, 2, 1, 1)
    v = np.array([2.0, 7.0]).reshape(1, 2, 1, 1)
    out, lse = attention(q, k, v, scale=1.0)
    assert out.item() == 2.0 and lse.item() == 4000.0


@pytest.mark.parametrize("mask, empty_rows", [("full", 0), ("causal", 3)])
def test_rows_that_see_no_key(mask, empty_rows):
    out, lse = attention(*small_arrays(5, 2), mask=mask)
    assert np.all(out[:, :empty_rows] == 0) and np.all(lse[..., :empty_rows] == -np.inf)
    assert np.all(out[:, empty_rows:] != 0) and np.all(np.isfinite(lse[..., empty_rows:]))


def test_scores_of_minus_infinity_have_no_weight():
    q, v = np.ones((1, 1, 1, 1)), np.ones((1, 2, 1, 1))
    k = np.array([-np.inf, 1.0]).reshape(1, 2, 1, 1)
    assert [x.item() for x in attention(q, k, v)] == [1.0, 1.0]
    assert [x.item() for x in attention(q, k[:, :1], v[:, :1])] == [0.0, -np.inf]


@pytest.mark.parametrize("mask", MASKS)
def test_nan_in_a_key_reaches_the_rows_that_see_it(mask):
    q, k, v = small_arrays(5, 5, heads=2, heads_kv=2)
    truth = attention(q, k, v, mask=mask)
    k[1, 3, 0] = np.nan
    out, lse = attention(q, k, v, mask=mask)
    hit = np.zeros(lse.shape, dtype=bool)
    hit[1, 0, (3 if mask == "causal" else 0) :] = True
    np.testing.assert_array_equal(np.isnan(lse), hit)
    np.testing.assert_array_equal(np.isnan(out).all(axis=-1), hit.transpose(0, 2, 1))
    spared = ~hit.transpose(0, 2, 1)
    assert_same((out[spared], lse[~hit]), (truth[0][spared], truth[1][~hit]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("mask", MASKS)
def test_nan_or_infinity_in_a_value_reaches_one_column_of_the_rows_that_see_it(mask, bad):
    q, k, v = small_arrays(5, 5, heads=2, heads_kv=2)
    truth = attention(q, k, v, mask=mask)
    v[1, 3, 0, 2] = bad
    out, lse = attention(q, k, v, mask=mask)
    hit = np.zeros(out.shape, dtype=bool)
    hit[1, (3 if mask == "causal" else 0) :, 0, 2] = True
    np.testing.assert_array_equal(out[hit], np.full(hit.sum(), bad))
    assert_same((out[~hit], lse), (truth[0][~hit], truth[1]))


def test_nan_in_a_query_stays_in_its_row():
    q, k, v = small_arrays(4, 3)
    q[:, [0, 2]] = np.nan
    out, lse = attention(q, k, v, mask="causal")
    # Row 0 sees no key: 0, whatever its query holds.
    assert np.all(out[:, 0] == 0) and np.all(lse[..., 0] == -np.inf)
    np.testing.assert_array_equal(np.isnan(lse[0, 0]), [False, False, True, False])
    np.testing.assert_array_equal(np.isnan(out[0, :, 0, 0]), [False, False, True, False])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_narrow_inputs_are_widened_first(dtype):
    narrow = [x.astype(dtype) for x in small_arrays(4, 6)]
    assert_same(attention(*narrow), attention(*(x.astype(np.float64) for x in narrow)), tolerance=0)


def test_inputs_are_left_alone():
    inputs = small_arrays(4, 6)
    copies = [x.copy() for x in inputs]
    attention(*inputs, mask="causal")
    for x, copy in zip(inputs, copies, strict=True):
        np.testing.assert_array_equal(x, copy)


@pytest.mark.parametrize(
    "q, k, v, word",
    [
        ((1, 2, 3), (1, 2, 1, 4), (1, 2, 1, 4), "expected"),
        ((1, 2, 1, 4), (2, 2, 1, 4), (2, 2, 1, 4), "batch"),
        ((1, 2, 1, 4), (1, 3, 1, 4), (1, 2, 1, 4), "seqlen_k"),
        ((1, 2, 1, 4), (1, 2, 1, 5), (1, 2, 1, 4), "head_dim"),
        ((1, 2, 3, 4), (1, 2, 2, 4), (1, 2, 2, 4), "multiple"),
    ],
)
def test_shapes_that_disagree_are_refused(q, k, v, word):
    with pytest.raises(ValueError, match=word):
        attention(np.ones(q), np.ones(k), np.ones(v))


def test_unknown_mask_is_refused():
    with pytest.raises(ValueError, match="nonsense.*causal"):
        attention(*small_arrays(2, 2), mask="nonsense")
