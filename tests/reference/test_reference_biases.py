"""The biases cell by cell, T5's buckets against the float formula and by hand."""
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import BIASES, bind, t5_bucket
from reference import biases as reference_biases
from reference.bias_gradients import BACKWARDS, PARAMETERS
from reference.biases import bucket_starts

from . import brute_force
from .cases import BIAS_NAMES, bias_case, bias_cases


def every_cell(bias, score):
    """The bias applied to score (batch, heads, seqlen_q, seqlen_k), all at once."""
    return bias(score, *np.ogrid[tuple(slice(size) for size in score.shape)])


@pytest.mark.parametrize("name", BIAS_NAMES)
@pytest.mark.parametrize("seqlen_q, seqlen_k", [(3, 3), (2, 11), (9, 4)])
def test_every_cell(name, seqlen_q, seqlen_k):
    bias, scalar = bias_case(name, seqlen_q, seqlen_k, heads=3)
    score = np.random.default_rng(1).standard_normal((2, 3, seqlen_q, seqlen_k))
    expected = [scalar(s, *index) for index, s in np.ndenumerate(score)]
    result = every_cell(bias, score)
    np.testing.assert_allclose(result, np.reshape(expected, score.shape), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", BIAS_NAMES)
def test_one_head_equals_its_part_of_all(name):
    """Ints for b and h, a column for i, a row for j: as attention calls it."""
    bias, _ = bias_case(name, 5, 8, heads=3)
    score = np.random.default_rng(1).standard_normal((2, 3, 5, 8))
    part = bias(score[1, 2, 1:4, 2:], 1, 2, np.arange(1, 4)[:, None], np.arange(2, 8)[None])
    np.testing.assert_array_equal(part, every_cell(bias, score)[1, 2, 1:4, 2:])


@pytest.mark.parametrize("name", BIAS_NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_keep_their_dtype(name, dtype):
    bias, _ = bias_case(name, 5, 8, heads=3)
    assert every_cell(bias, np.ones((2, 3, 5, 8), dtype)).dtype == dtype


def test_every_kind_has_a_case():
    assert {bias_cases(1, 1, 1)[name][0] for name in BIAS_NAMES} == set(BIASES)
    assert all(getattr(reference_biases, kind) is bias for kind, bias in BIASES.items())
    assert set(BACKWARDS) == set(PARAMETERS) == set(BIASES.values())


def test_narrow_dense_biases_are_widened():
    array = np.array([[0.1, -2.0]], ml_dtypes.bfloat16)
    result = bind(BIASES["dense"], 1, 2, array=array)(np.zeros((1, 2)), 0, 0, np.array([[0]]), np.array([[0, 1]]))
    np.testing.assert_array_equal(result, array.astype(np.float64))


def test_alibi_is_zero_on_the_diagonal_and_falls_to_both_sides():
    """Two queries on four keys, slope 1/2: query 0 stands at key 2."""
    score = bind(BIASES["alibi"], 2, 4, slopes=[0.5])(np.zeros((2, 4)), 0, 0, *np.ogrid[:2, :4])
    np.testing.assert_array_equal(score, [[-1.0, -0.5, 0.0, -0.5], [-1.5, -1.0, -0.5, 0.0]])


def test_softcap_bounds_scores_and_leaves_small_ones():
    cap = bind(BIASES["softcap"], 1, 3, cap=30.0)
    np.testing.assert_allclose(cap(np.array([1e-3, 1e9, -1e9]), 0, 0, 0, np.arange(3)), [1e-3, 30.0, -30.0], rtol=1e-8)


def test_t5_buckets_by_hand():
    """32 buckets both ways, maximum distance 128: 16 a side, 8 of one distance, then two to a doubling."""
    assert bucket_starts(16, 128) == (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91)
    past = [0, -1, -7, -8, -11, -12, -15, -16, -90, -91, -128, -10**6]
    assert t5_bucket(past, 32).tolist() == [0, 1, 7, 8, 8, 9, 9, 10, 14, 15, 15, 15]
    assert t5_bucket(-np.array(past)[1:], 32).tolist() == [17, 23, 24, 24, 25, 25, 26, 30, 31, 31, 31]
    assert t5_bucket([5, 1, 0, -1, -15, -16, -10**6], 32, bidirectional=False).tolist() == [0, 0, 0, 1, 15, 16, 31]


@settings(deadline=None)
@given(st.integers(4, 64), st.integers(2, 300), st.booleans())
def test_t5_buckets_equal_the_float_formula_off_the_boundaries(num_buckets, extra, bidirectional):
    """Where no boundary is within rounding, float64 decides as the integers do."""
    exact = (num_buckets // 2 if bidirectional else num_buckets) // 2
    max_distance = exact + extra
    ahead = np.arange(-max_distance - 5, max_distance + 6)
    buckets = t5_bucket(ahead, num_buckets, max_distance, bidirectional)
    assert buckets.min() >= 0 and buckets.max() < num_buckets
    parts = (num_buckets // 2 if bidirectional else num_buckets) - exact
    for position, bucket in zip(ahead.tolist(), buckets.tolist(), strict=True):
        share = np.log(max(abs(position), exact) / exact) / np.log(max_distance / exact) * parts
        if abs(share - np.rint(share)) > 1e-9 or abs(position) <= exact:
            assert bucket == brute_force.t5_bucket(position, num_buckets, max_distance, bidirectional)


@settings(deadline=None)
@given(st.integers(2, 40), st.integers(1, 200))
def test_t5_boundaries_are_exact(num_buckets, extra):
    """The start of a bucket satisfies `(n / exact)**parts >= (max_distance / exact)**t`, and one less does not."""
    exact, parts = num_buckets // 2, num_buckets - num_buckets // 2
    max_distance = exact + extra
    starts = bucket_starts(num_buckets, max_distance)
    assert starts[: exact + 1] == tuple(range(exact + 1)) and len(starts) == num_buckets
    for t in range(1, parts):
        n, bound = starts[exact + t], Fraction(max_distance, exact) ** t
        assert Fraction(n, exact) ** parts >= bound > Fraction(n - 1, exact) ** parts


@pytest.mark.parametrize("num_buckets, max_distance, bidirectional", [(1, 128, False), (2, 128, True), (32, 8, True)])
def test_t5_refuses_what_the_formula_cannot_do(num_buckets, max_distance, bidirectional):
    with pytest.raises(ValueError, match="T5 needs"):
        t5_bucket([0], num_buckets, max_distance, bidirectional)
