"""Masks, biases and sinks in the three forward computations: against plain loops, against each other, and what the
mathematics promises."""
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import (
    alibi,
    attention,
    attention_rounded,
    attention_tiled,
    bind,
    causal,
    dense,
    intersection,
    merge,
    softcap,
    union,
    visible_keys,
    window,
)

from .brute_force import brute_force_attention
from .cases import BATCHES_OF_TWO, BIAS_NAMES, MASK_NAMES, bias_case, mask_case, rules
from .problems import arrays, assert_same, small_arrays

SINKS = [0.5, -1.0, 2.0, -3.0]
FORWARDS = {"naive": attention, "tiled": lambda *args, **rest: attention_tiled(*args, **rest, block_m=2, block_n=3)}


@pytest.mark.parametrize("forward", FORWARDS)
@pytest.mark.parametrize("seqlen_q, seqlen_k", [(3, 3), (2, 6), (6, 3), (4, 0)])
@pytest.mark.parametrize("mask", MASK_NAMES)
def test_masks_equal_plain_loops(mask, seqlen_q, seqlen_k, forward):
    q, k, v = small_arrays(seqlen_q, seqlen_k, heads=4, heads_kv=2)
    rule, scalar = mask_case(mask, seqlen_q, seqlen_k)
    result = FORWARDS[forward](q, k, v, mask=rule, scale=0.7)
    assert_same(result, brute_force_attention(q, k, v, 0.7, scalar))
    result = FORWARDS[forward](q, k, v, mask=rule, scale=0.7, sink_logits=SINKS)
    assert_same(result, brute_force_attention(q, k, v, 0.7, scalar, sinks=SINKS))


@pytest.mark.parametrize("forward", FORWARDS)
@pytest.mark.parametrize("seqlen_q, seqlen_k", [(2, 6), (6, 3)])
@pytest.mark.parametrize("bias", BIAS_NAMES)
def test_biases_equal_plain_loops(bias, seqlen_q, seqlen_k, forward):
    q, k, v = small_arrays(seqlen_q, seqlen_k, heads=4, heads_kv=2)
    modify, scalar_bias = bias_case(bias, seqlen_q, seqlen_k, 4)
    mask, scalar_mask = mask_case("causal", seqlen_q, seqlen_k)
    result = FORWARDS[forward](q, k, v, mask=mask, bias=[modify], scale=0.7)
    assert_same(result, brute_force_attention(q, k, v, 0.7, scalar_mask, scalar_bias))


@pytest.mark.parametrize("forward", FORWARDS)
def test_biases_apply_in_order(forward):
    """Softcap then ALiBi is not ALiBi then softcap, and both are what plain loops make of them."""
    q, k, v = small_arrays(5, 7)
    (cap, scalar_cap), (slope, scalar_slope) = (bias_case(name, 5, 7, 2) for name in ("softcap", "alibi"))
    capped = FORWARDS[forward](q, k, v, bias=[cap, slope], scale=2.0)
    expected = brute_force_attention(q, k, v, 2.0, modify=lambda s, *cell: scalar_slope(scalar_cap(s, *cell), *cell))
    assert_same(capped, expected)
    assert not np.allclose(capped[0], FORWARDS[forward](q, k, v, bias=[slope, cap], scale=2.0)[0])


def test_a_bias_is_a_function_of_the_users():
    """`(score, b, h, q_idx, kv_idx)`, which may return less than the whole shape or another dtype."""
    q, k, v = small_arrays(4, 6)

    def user(score, b, h, q_idx, kv_idx):
        return np.where((q_idx + kv_idx + b) % 2 == 0, score * (h + 1), -score)

    def scalar(score, b, h, i, j):
        return score * (h + 1) if (i + j + b) % 2 == 0 else -score

    assert_same(attention(q, k, v, bias=[user], scale=0.5), brute_force_attention(q, k, v, 0.5, modify=scalar))
    assert_same(attention(q, k, v, bias=[lambda *_: 2]), attention(q, k, v, scale=0.0, bias=[lambda s, *_: s + 2.0]))


def test_arrays_and_callables_of_one_mask_agree():
    q, k, v = small_arrays(5, 8, heads=4, heads_kv=2)
    rng = np.random.default_rng(0)
    for shape in ((2, 4, 5, 8), (2, 1, 5, 8), (1, 4, 1, 8), (5, 8), (8,), (2, 1, 1, 1)):
        grid = rng.random(shape) < 0.6
        whole = np.broadcast_to(grid, (2, 4, 5, 8))
        result = attention(q, k, v, mask=grid)
        assert_same(result, attention(q, k, v, mask=lambda b, h, i, j, seen=whole: seen[b, h, i, j]), tolerance=0)
        assert_same(result, attention_tiled(q, k, v, mask=grid, block_m=3, block_n=2))
        scalar = lambda *cell, seen=whole: seen[cell]  # noqa: E731
        assert_same(result, brute_force_attention(q, k, v, 0.5, scalar))


@settings(deadline=None, max_examples=150)
@given(BATCHES_OF_TWO, st.integers(1, 24), st.integers(1, 24), st.data())
def test_tiled_equals_naive_under_any_rules(shape, block_m, block_n, data):
    q, k, v = arrays(shape)
    given_rules = rules(data, shape)
    tiled = attention_tiled(q, k, v, **given_rules, block_m=block_m, block_n=block_n)
    assert_same(tiled, attention(q, k, v, **given_rules), tolerance=1e-11)


@settings(deadline=None)
@given(BATCHES_OF_TWO, st.data())
def test_rounded_is_close_to_the_truth_under_any_rules(shape, data):
    """In float32 the naive low-precision computation is the truth to six digits or so."""
    q, k, v = arrays(shape)
    given_rules = rules(data, shape)
    rounded = attention_rounded(q, k, v, **given_rules, dtype="float32")
    assert_same(rounded, attention(q, k, v, **given_rules), tolerance=3e-5)


@settings(deadline=None)
@given(BATCHES_OF_TWO, st.data())
def test_order_of_keys_does_not_matter(shape, data):
    """Keys, mask and biases permuted together give the same sums in another order."""
    q, k, v = arrays(shape)
    given_rules = rules(data, shape)
    order = np.random.default_rng(shape.seed).permutation(shape.seqlen_k)

    def permuted(rule):
        return lambda *cell: rule(*cell[:-1], order[cell[-1]])

    moved = {**given_rules, "mask": permuted(given_rules["mask"]), "bias": [permuted(x) for x in given_rules["bias"]]}
    result = attention(q, k[:, order], v[:, order], **moved)
    assert_same(result, attention(q, k, v, **given_rules), tolerance=1e-11)


@settings(deadline=None)
@given(BATCHES_OF_TWO, st.data())
def test_merge_of_any_key_split_equals_the_whole(shape, data):
    """A random set of keys and the rest; the sink goes with one of the two."""
    q, k, v = arrays(shape)
    given_rules = rules(data, shape)
    chosen = np.random.default_rng(shape.seed).random(shape.seqlen_k) < 0.5
    parts = [intersection(given_rules["mask"], lambda b, h, i, j, s=s: s[j]) for s in (chosen, ~chosen)]
    first = attention(q, k, v, **{**given_rules, "mask": parts[0]})
    second = attention(q, k, v, **{**given_rules, "mask": parts[1], "sink_logits": None})
    assert_same(merge(*first, *second), attention(q, k, v, **given_rules), tolerance=1e-11)


@settings(deadline=None)
@given(BATCHES_OF_TWO, st.data())
def test_a_common_shift_of_scores_and_sinks_moves_lse_alone(shape, data):
    q, k, v = arrays(shape)
    given_rules = rules(data, shape)
    out, lse = attention(q, k, v, **given_rules)
    given_rules["bias"] = [*given_rules["bias"], lambda score, *_: score + 15.0]
    if given_rules["sink_logits"] is not None:
        given_rules["sink_logits"] = np.add(given_rules["sink_logits"], 15.0)
    assert_same(attention(q, k, v, **given_rules), (out, lse + 15.0), tolerance=1e-11)


@settings(deadline=None)
@given(BATCHES_OF_TWO, st.data())
def test_a_sink_rescales_out(shape, data):
    """out shrinks by exp(lse - lse with sink); a sink of -inf is none."""
    q, k, v = arrays(shape)
    given_rules = rules(data, shape)
    out, lse = attention(q, k, v, **{**given_rules, "sink_logits": None})
    sinks = np.random.default_rng(shape.seed).standard_normal(q.shape[2])
    sunk_lse = np.logaddexp(lse, sinks[:, None])
    shrink = np.exp(lse - sunk_lse).transpose(0, 2, 1)[..., None]
    result = attention(q, k, v, **{**given_rules, "sink_logits": sinks})
    assert_same(result, (out * shrink, sunk_lse), tolerance=1e-11)
    none = np.full(q.shape[2], -np.inf)
    assert_same(attention(q, k, v, **{**given_rules, "sink_logits": none}), (out, lse), tolerance=0)


@pytest.mark.parametrize("forward", [*FORWARDS.values(), attention_rounded])
def test_rows_that_see_no_key_have_the_sink_alone(forward):
    out, lse = forward(*small_arrays(5, 2), mask="causal", sink_logits=[0.25, -4.0])
    assert np.all(out[:, :3] == 0) and np.all(out[:, 3:] != 0)
    np.testing.assert_array_equal(lse[..., :3], np.broadcast_to([[0.25], [-4.0]], (2, 2, 3)))


def test_a_sink_as_the_largest_logit_does_not_overflow():
    out, lse = attention(*small_arrays(2, 2), sink_logits=[5000.0, -5000.0])
    np.testing.assert_array_equal(lse[:, 0], 5000.0)
    assert np.all(out[:, :, 0] == 0) and np.all(np.isfinite(out)) and np.all(out[:, :, 1] != 0)


def test_sink_logits_are_one_a_head():
    with pytest.raises(ValueError, match=r"\(2,\)"):
        attention(*small_arrays(2, 2), sink_logits=[0.0])


def test_dense_minus_infinity_is_a_mask():
    """A bias of -inf hides a key as a mask does, and a row of them is a row that sees nothing."""
    q, k, v = small_arrays(5, 4)
    grid = visible_keys("causal", 5, 4)
    hidden = bind(dense, 5, 4, array=np.where(grid, 0.0, -np.inf))
    for forward in FORWARDS.values():
        assert_same(forward(q, k, v, bias=[hidden]), attention(q, k, v, mask="causal"))


def test_a_bias_never_acts_on_a_hidden_key():
    """NaN where the mask hides the key changes nothing."""
    q, k, v = small_arrays(5, 4)
    for forward in FORWARDS.values():
        result = forward(q, k, v, mask="causal", bias=[lambda s, b, h, i, j: np.where(j <= i - 1, s, np.nan)])
        assert_same(result, attention(q, k, v, mask="causal"))


@pytest.mark.parametrize("name", ["naive", "tiled"])
def test_nan_in_a_key_reaches_the_rows_whose_window_holds_it(name):
    q, k, v = small_arrays(7, 7)
    mask = bind(window, 7, 7, left=1, right=0)
    truth = attention(q, k, v, mask=mask)
    k[:, 3], v[:, 3] = np.nan, np.inf
    out, lse = FORWARDS[name](q, k, v, mask=mask)
    hit = [False, False, False, True, True, False, False]
    np.testing.assert_array_equal(np.isnan(lse[0, 0]), hit)
    np.testing.assert_array_equal(np.isnan(out[0, :, 0, 0]), hit)
    spared = [0, 1, 2, 5, 6]
    assert_same((out[:, spared], lse[..., spared]), (truth[0][:, spared], truth[1][..., spared]))


def test_alibi_with_a_steep_slope_is_the_diagonal():
    q, k, v = small_arrays(4, 6, heads=1)
    out, _ = attention(q, k, v, bias=[bind(alibi, 4, 6, slopes=[1e4])])
    np.testing.assert_array_equal(out[:, :, 0], v[:, 2:, 0])
    window_out, _ = attention(q, k, v, mask=bind(window, 4, 6, left=0, right=0))
    np.testing.assert_array_equal(window_out, out)


def test_a_small_softcap_averages():
    """All scores within cap of zero weigh the same in the limit."""
    q, k, v = small_arrays(3, 5, heads=1)
    out, lse = attention(q, k, v, bias=[bind(softcap, 3, 5, cap=1e-13)])
    assert_same((out, lse), (np.broadcast_to(v.mean(1, keepdims=True), out.shape), np.full(lse.shape, math.log(5))))


def test_the_three_computations_take_their_biases_in_their_own_dtype():
    seen = []

    def record(score, *_):
        seen.append(score.dtype)
        return score.astype(np.float64)

    arguments = small_arrays(2, 2, heads=1)
    attention(*arguments, bias=[record])
    attention_rounded(*arguments, bias=[record, record])
    attention_tiled(*arguments, bias=[record])
    assert seen == [np.float64] * 2 + [np.float32] * 4 + [np.float64] * 2


def test_unions_reach_past_gaps():
    """Tiles with no visible key lie between the two parts of a union."""
    q, k, v = small_arrays(40, 40)
    mask = union(bind(window, 40, 40, left=2, right=0), lambda b, h, i, j: (j < 3) & (i >= 0))
    mask = intersection(mask, bind(causal, 40, 40))
    assert_same(attention_tiled(q, k, v, mask=mask, block_m=4, block_n=4), attention(q, k, v, mask=mask))
