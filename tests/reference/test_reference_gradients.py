"""The gradients against finite differences of the forward computation, and what the mathematics promises of them."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import (
    BIASES,
    ScoreMod,
    attention,
    attention_backward,
    attention_backward_rounded,
    bind,
    intersection,
    merge,
    round_to,
)
from reference.bias_gradients import difference

from .cases import BATCHES_OF_TWO, BIAS_NAMES, MASK_NAMES, bias_case, mask_case, rules
from .problems import arrays, small_arrays

SINKS = np.array([0.5, -1.0, 2.0, -3.0])
SHAPES = [(3, 3), (2, 6), (6, 3)]


def upstream(q, v, seed=3):
    """Random dout and dlse for q and v: the loss is `sum(out * dout) + sum(lse * dlse)`."""
    rng = np.random.default_rng(seed)
    batch, seqlen_q, heads, _ = q.shape
    return rng.standard_normal((batch, seqlen_q, heads, v.shape[3])), rng.standard_normal((batch, heads, seqlen_q))


def loss(q, k, v, dout, dlse, **rest):
    """A number; a row that sees nothing, whose lse is -inf, takes no part."""
    out, lse = attention(q, k, v, **rest)
    return np.sum(out * dout) + np.sum(np.where(np.isneginf(lse), 0.0, lse) * dlse)


def slope(function, x, direction, step=3e-4):
    """d function(x + t * direction) / dt at 0, to fourth order in the step (1e-3 left 3e-8 beneath a softcap of 2)."""
    near, far = (function(x + t * direction) - function(x - t * direction) for t in (step, 2 * step))
    return (8 * near - far) / (12 * step)


def assert_gradient(function, x, gradient, directions=2):
    """The gradient of `function` at x agrees with finite differences: along random directions, or each axis (None)."""
    assert gradient.shape == np.shape(x) and gradient.dtype == np.float64
    rng = np.random.default_rng(5)
    if directions is None:
        vectors = np.eye(np.size(x)).reshape(-1, *np.shape(x))
    else:
        vectors = rng.standard_normal((directions, *np.shape(x)))
    for vector in vectors:
        expected = slope(function, np.asarray(x, dtype=np.float64), vector)
        np.testing.assert_allclose(np.sum(gradient * vector), expected, rtol=1e-8, atol=1e-8)


def with_param(bias, name, value):
    """A bound bias with one parameter replaced."""
    return bias._replace(params={**bias.params, name: value})


def assert_every_gradient(q, k, v, directions=2, **rest):
    """All fields of attention_backward of these arguments against finite differences of the loss."""
    dout, dlse = upstream(q, v)
    grads = attention_backward(q, k, v, dout, dlse=dlse, **rest)
    assert_gradient(lambda x: loss(x, k, v, dout, dlse, **rest), q, grads.dq, directions)
    assert_gradient(lambda x: loss(q, x, v, dout, dlse, **rest), k, grads.dk, directions)
    assert_gradient(lambda x: loss(q, k, x, dout, dlse, **rest), v, grads.dv, directions)
    if rest.get("sink_logits") is None:
        assert grads.dsink is None
    else:
        assert_gradient(
            lambda x: loss(q, k, v, dout, dlse, **{**rest, "sink_logits": x}),
            rest["sink_logits"], grads.dsink, directions,
        )
    biases = list(rest.get("bias", ()))
    assert len(grads.dbias) == len(biases)
    for at, of_bias in enumerate(grads.dbias):
        for name, gradient in of_bias.items():

            def of_param(x, at=at, name=name):
                changed = [with_param(b, name, x) if n == at else b for n, b in enumerate(biases)]
                return loss(q, k, v, dout, dlse, **{**rest, "bias": changed})

            assert_gradient(of_param, biases[at].params[name], gradient, directions)


@pytest.mark.parametrize("sinks", [None, SINKS], ids=["", "sinks"])
@pytest.mark.parametrize("seqlen_q, seqlen_k", SHAPES)
@pytest.mark.parametrize("mask", MASK_NAMES)
def test_masks(mask, seqlen_q, seqlen_k, sinks):
    q, k, v = small_arrays(seqlen_q, seqlen_k, heads=4, heads_kv=2)
    rule, _ = mask_case(mask, seqlen_q, seqlen_k)
    assert_every_gradient(q, k, v, mask=rule, sink_logits=sinks, scale=0.7)


@pytest.mark.parametrize("sinks", [None, SINKS], ids=["", "sinks"])
@pytest.mark.parametrize("seqlen_q, seqlen_k", SHAPES)
@pytest.mark.parametrize("bias", BIAS_NAMES)
def test_biases(bias, seqlen_q, seqlen_k, sinks):
    q, k, v = small_arrays(seqlen_q, seqlen_k, heads=4, heads_kv=2)
    rule, _ = bias_case(bias, seqlen_q, seqlen_k, 4)
    assert_every_gradient(q, k, v, mask="causal", bias=[rule], sink_logits=sinks)


@pytest.mark.parametrize("heads, heads_kv", [(1, 1), (3, 3), (3, 1)])
def test_every_element(heads, heads_kv):
    """Not along directions but one element at a time, with a chain of three biases and a window with rows that see
    nothing."""
    q, k, v = small_arrays(4, 3, heads, heads_kv)
    chain = [bias_case(name, 4, 3, heads)[0] for name in ("softcap", "alibi_batch", "t5_both")]
    mask, _ = mask_case("window_left", 4, 3)
    mask = intersection(mask, mask_case("causal", 4, 3)[0])
    assert_every_gradient(q, k, v, None, mask=mask, bias=chain, sink_logits=SINKS[:heads])


@settings(deadline=None, max_examples=60)
@given(BATCHES_OF_TWO, st.data())
def test_any_rules(shape, data):
    q, k, v = arrays(shape._replace(seqlen_q=shape.seqlen_q % 9 + 1, seqlen_k=shape.seqlen_k % 9))
    given_rules = rules(data, shape._replace(seqlen_q=q.shape[1], seqlen_k=k.shape[1]))
    assert_every_gradient(q, k, v, 1, **given_rules)


def test_repeated_biases_have_their_own_gradients():
    q, k, v = small_arrays(3, 5)
    names = ("dense_ij", "softcap", "dense_ij", "alibi")
    assert_every_gradient(q, k, v, bias=[bias_case(name, 3, 5, 2)[0] for name in names])


def user_mod(score, b, h, q_idx, kv_idx):
    return np.sin(score) * (h + 1) + np.abs(score) * np.where(kv_idx > q_idx, 0.5, 0.1)


def user_derivative(score, b, h, q_idx, kv_idx):
    return np.cos(score) * (h + 1) + np.sign(score) * np.where(kv_idx > q_idx, 0.5, 0.1)


@pytest.mark.parametrize("mod", [user_mod, ScoreMod(user_mod, user_derivative)], ids=["differences", "derivative"])
def test_users_functions(mod):
    q, k, v = small_arrays(4, 6)
    capped = bias_case("softcap", 4, 6, 2)[0]
    assert_every_gradient(q, k, v, mask="causal", bias=[mod, capped])


@pytest.mark.parametrize("size, dtype, tolerance", [(3, np.float64, 1e-9), (3, np.float32, 1e-9), (1e3, np.float64, 1e-7)])
def test_differences_are_close_to_the_derivative(size, dtype, tolerance):
    """In float64 for float32 scores too, and for large ones."""
    score = (np.random.default_rng(0).standard_normal((50, 60)) * size).astype(dtype)
    score = np.where(np.abs(score) < 1e-2 * size, dtype(size), score)  # away from the kink of user_mod
    cell = 0, 1, *np.ogrid[:50, :60]
    expected = user_derivative(score.astype(np.float64), *cell)
    np.testing.assert_allclose(difference(user_mod, score, *cell), expected, atol=tolerance)


def test_dlse_is_zero_unless_given():
    q, k, v = small_arrays(3, 5)
    dout, dlse = upstream(q, v)
    without = attention_backward(q, k, v, dout)
    for a, b in zip(without[:3], attention_backward(q, k, v, dout, dlse=np.zeros_like(dlse))[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.allclose(without.dq, attention_backward(q, k, v, dout, dlse=dlse).dq)


def test_the_gradient_of_lse_alone_is_the_attention_to_keys():
    """d lse[i] / d q[i] is the mean key: attention with k for v, times the scale."""
    q, k, v = small_arrays(3, 5)
    dq = attention_backward(q, k, v, np.zeros((2, 3, 2, 4)), dlse=np.ones((2, 2, 3)), mask="causal", scale=0.3).dq
    np.testing.assert_allclose(dq, 0.3 * attention(q, k, k, mask="causal", scale=0.3)[0], atol=1e-14)


def all_arrays(grads):
    """Every array of a Gradients, by name."""
    named = {name: getattr(grads, name) for name in ("dq", "dk", "dv", "dsink") if getattr(grads, name) is not None}
    return named | {f"dbias{at} {name}": x for at, one in enumerate(grads.dbias) for name, x in one.items()}


def assert_same_gradients(actual, expected, tolerance=1e-11):
    actual, expected = all_arrays(actual), all_arrays(expected)
    assert actual.keys() == expected.keys()
    for name, x in actual.items():
        np.testing.assert_allclose(x, expected[name], rtol=tolerance, atol=tolerance, err_msg=name)


@settings(deadline=None)
@given(BATCHES_OF_TWO, st.data())
def test_gradients_are_linear_in_what_comes_in(shape, data):
    q, k, v = arrays(shape)
    given_rules = rules(data, shape)
    (dout_a, dlse_a), (dout_b, dlse_b) = upstream(q, v, 1), upstream(q, v, 2)
    a, b, both = (
        all_arrays(attention_backward(q, k, v, dout, dlse=dlse, **given_rules))
        for dout, dlse in ((dout_a, dlse_a), (dout_b, dlse_b), (2 * dout_a - dout_b, 2 * dlse_a - dlse_b))
    )
    for name, x in both.items():
        np.testing.assert_allclose(x, 2 * a[name] - b[name], rtol=1e-10, atol=1e-10, err_msg=name)


@settings(deadline=None)
@given(BATCHES_OF_TWO, st.data())
def test_order_of_keys_permutes_the_gradients_of_keys(shape, data):
    q, k, v = arrays(shape)
    dout, dlse = upstream(q, v)
    given_rules = rules(data, shape)
    given_rules["bias"] = []
    order = np.random.default_rng(shape.seed).permutation(shape.seqlen_k)
    mask = given_rules["mask"]
    moved = {**given_rules, "mask": lambda b, h, i, j: mask(b, h, i, order[j])}
    result = attention_backward(q, k[:, order], v[:, order], dout, dlse=dlse, **moved)
    expected = attention_backward(q, k, v, dout, dlse=dlse, **given_rules)
    assert_same_gradients(result, expected._replace(dk=expected.dk[:, order], dv=expected.dv[:, order]))


@settings(deadline=None)
@given(BATCHES_OF_TWO, st.data())
def test_gradients_through_a_merge_equal_those_of_the_whole(shape, data):
    """A set of keys and the rest, merged: each part gets `w * dout` and `w * (dlse + dout . (its out - out))`, with w
    its share of the merged softmax."""
    q, k, v = arrays(shape)
    dout, dlse = upstream(q, v)
    given_rules = rules(data, shape) | {"sink_logits": None}
    chosen = np.random.default_rng(shape.seed).random(shape.seqlen_k) < 0.5
    sides = [{**given_rules, "mask": intersection(given_rules["mask"], lambda b, h, i, j, s=s: s[j])}
             for s in (chosen, ~chosen)]
    parts = [attention(q, k, v, **side) for side in sides]
    out, lse = merge(*parts[0], *parts[1])
    total = []
    for side, (part_out, part_lse) in zip(sides, parts, strict=True):
        with np.errstate(invalid="ignore"):
            weight = np.where(np.isneginf(part_lse), 0.0, np.exp(part_lse - lse))
        part_dlse = weight * (dlse + ((part_out - out) * dout).sum(-1).transpose(0, 2, 1))
        part_dout = weight.transpose(0, 2, 1)[..., None] * dout
        total.append(all_arrays(attention_backward(q, k, v, part_dout, dlse=part_dlse, **side)))
    whole = all_arrays(attention_backward(q, k, v, dout, dlse=dlse, **given_rules))
    for name, x in whole.items():
        np.testing.assert_allclose(total[0][name] + total[1][name], x, rtol=1e-10, atol=1e-10, err_msg=name)


@settings(deadline=None)
@given(BATCHES_OF_TWO, st.data())
def test_what_a_common_shift_of_scores_implies(shape, data):
    """Without sinks and dlse, a row of ds sums to zero: a vector added to all keys changes nothing, so dk sums to zero
    over the keys; so does a bias over the keys. With dlse it sums to dlse."""
    q, k, v = arrays(shape)
    dout, dlse = upstream(q, v)
    mask = rules(data, shape)["mask"]
    array = np.random.default_rng(0).standard_normal((2, q.shape[2], shape.seqlen_q, shape.seqlen_k))
    bias = [bind(BIASES["dense"], shape.seqlen_q, shape.seqlen_k, array=array)]
    grads = attention_backward(q, k, v, dout, mask=mask, bias=bias)
    np.testing.assert_allclose(grads.dk.sum(axis=1), 0.0, atol=1e-10)
    np.testing.assert_allclose(grads.dbias[0]["array"].sum(axis=-1), 0.0, atol=1e-10)
    grads = attention_backward(q, k, v, dout, mask=mask, bias=bias, dlse=dlse)
    seen = np.isfinite(attention(q, k, v, mask=mask, bias=bias)[1])
    np.testing.assert_allclose(grads.dbias[0]["array"].sum(axis=-1), np.where(seen, dlse, 0.0), atol=1e-10)


@settings(deadline=None)
@given(BATCHES_OF_TWO, st.data())
def test_shared_heads_sum_the_gradients_of_their_copies(shape, data):
    q, k, v = arrays(shape)
    dout, dlse = upstream(q, v)
    given_rules = rules(data, shape)
    shared = attention_backward(q, k, v, dout, dlse=dlse, **given_rules)
    copies = attention_backward(q, *(np.repeat(x, shape.group, 2) for x in (k, v)), dout, dlse=dlse, **given_rules)
    runs = np.arange(0, q.shape[2], shape.group)
    dk, dv = (np.add.reduceat(x, runs, axis=2) for x in (copies.dk, copies.dv))
    assert_same_gradients(shared, copies._replace(dk=dk, dv=dv))


@pytest.mark.parametrize("backward", [attention_backward, attention_backward_rounded])
def test_rows_that_see_no_key_give_zero(backward):
    """Even where what comes in, or their own query, is NaN; a sink gets their dlse."""
    q, k, v = small_arrays(5, 2)
    dout, dlse = upstream(q, v)
    truth = backward(q, k, v, dout, dlse=dlse, mask="causal")
    assert np.all(truth.dq[:, :3] == 0) and np.all(truth.dq[:, 3:] != 0)
    q[:, 0], dout[:, 1], dlse[:, :, 2] = np.nan, np.nan, np.nan
    assert_same_gradients(backward(q, k, v, dout, dlse=dlse, mask="causal"), truth, tolerance=0)
    q, k, v = small_arrays(3, 0)
    dout, dlse = upstream(q, v)
    grads = backward(q, k, v, dout, dlse=dlse, sink_logits=SINKS[:2])
    np.testing.assert_allclose(grads.dsink, dlse.sum(axis=(0, 2)), rtol=1e-6)
    assert np.all(grads.dq == 0) and grads.dk.shape == k.shape


def test_hidden_keys_never_act():
    """NaN in a hidden key, value or bias changes no gradient, and the hidden key's own are zero."""
    q, k, v = small_arrays(4, 6)
    dout, dlse = upstream(q, v)
    mask = lambda b, h, i, j: (j != 2) & (i >= 0)  # noqa: E731
    array = np.random.default_rng(0).standard_normal((4, 6))
    rest = {"mask": mask, "dlse": dlse, "sink_logits": SINKS[:2]}
    truth = attention_backward(q, k, v, dout, bias=[bind(BIASES["dense"], 4, 6, array=array), np_tanh], **rest)
    assert np.all(truth.dk[:, 2] == 0) and np.all(truth.dv[:, 2] == 0)
    assert np.all(truth.dbias[0]["array"][:, 2] == 0)
    k[:, 2], v[:, 2], array[:, 2] = np.nan, np.inf, np.nan
    spoiled = attention_backward(q, k, v, dout, bias=[bind(BIASES["dense"], 4, 6, array=array), np_tanh], **rest)
    assert_same_gradients(spoiled, truth)


def np_tanh(score, *_):
    """A user's function without a derivative."""
    return np.tanh(score)


def test_nan_in_a_query_stays_with_the_keys_it_sees():
    q, k, v = small_arrays(4, 4, heads=2, heads_kv=2)
    truth = attention_backward(q, k, v, np.ones_like(q), mask="causal")
    q[0, 2, 1] = np.nan
    grads = attention_backward(q, k, v, np.ones_like(q), mask="causal")
    hit_q, hit_k = np.zeros((2, 4, 2), bool), np.zeros((2, 4, 2), bool)
    hit_q[0, 2, 1], hit_k[0, :3, 1] = True, True
    for x, expected, hit in ((grads.dq, truth.dq, hit_q), (grads.dk, truth.dk, hit_k), (grads.dv, truth.dv, hit_k)):
        np.testing.assert_array_equal(np.isnan(x), np.broadcast_to(hit[..., None], x.shape))
        np.testing.assert_allclose(x[~hit], expected[~hit], atol=1e-14)


def test_keys_of_minus_infinity_have_no_gradient():
    """A bias of -inf hides a key in the backward too, and a row of them gives zeros."""
    q, k, v = small_arrays(5, 4)
    dout, dlse = upstream(q, v)
    grid = mask_case("causal", 5, 4)[0](0, 0, *np.ogrid[:5, :4])
    hidden = bind(BIASES["dense"], 5, 4, array=np.where(grid, 0.0, -np.inf))
    grads = attention_backward(q, k, v, dout, dlse=dlse, bias=[hidden])
    assert_same_gradients(grads._replace(dbias=()), attention_backward(q, k, v, dout, dlse=dlse, mask="causal"))
    assert np.all(grads.dbias[0]["array"][~grid] == 0)


@settings(deadline=None)
@given(BATCHES_OF_TWO, st.data())
def test_rounded_in_float32_is_close_to_the_truth(shape, data):
    q, k, v = arrays(shape)
    dout, dlse = upstream(q, v)
    given_rules = rules(data, shape)
    truth = all_arrays(attention_backward(q, k, v, dout, dlse=dlse, **given_rules))
    rounded = all_arrays(attention_backward_rounded(q, k, v, dout, dlse=dlse, **given_rules, dtype="float32"))
    for name, x in rounded.items():
        size = np.abs(truth[name]).max(initial=1.0)
        np.testing.assert_allclose(x, truth[name], rtol=1e-4, atol=1e-4 * size, err_msg=name)


@pytest.mark.parametrize("dtype, eps", [("float16", 2.0**-10), ("bfloat16", 2.0**-7)])
def test_rounded_error_has_the_size_of_the_dtype(dtype, eps):
    q, k, v = (round_to(x, dtype) for x in small_arrays(40, 60))
    dout, dlse = (round_to(x, dtype) for x in upstream(q, v))
    rest = {"dlse": dlse, "mask": "causal", "bias": [bias_case("alibi", 40, 60, 2)[0]], "sink_logits": SINKS[:2]}
    truth = attention_backward(q, k, v, dout, **rest)
    rounded = attention_backward_rounded(q, k, v, dout, **rest, dtype=dtype)
    for name in ("dq", "dk", "dv"):
        x, expected = getattr(rounded, name), getattr(truth, name)
        np.testing.assert_array_equal(x, round_to(x, dtype))
        assert eps / 50 < np.abs(x - expected).max() / np.abs(expected).max() < 2 * eps
    for x, expected in ((rounded.dsink, truth.dsink), (rounded.dbias[0]["slopes"], truth.dbias[0]["slopes"])):
        np.testing.assert_allclose(x, expected, rtol=20 * eps)


def test_inputs_are_left_alone():
    inputs = *small_arrays(4, 6), *upstream(*small_arrays(4, 6)[::2])
    copies = [x.copy() for x in inputs]
    attention_backward(*inputs[:4], dlse=inputs[4], bias=iter([bias_case("dense_ij", 4, 6, 2)[0]]))
    for x, copy in zip(inputs, copies, strict=True):
        np.testing.assert_array_equal(x, copy)


def test_shapes_that_disagree_are_refused():
    q, k, v = small_arrays(3, 5)
    dout, dlse = upstream(q, v)
    for bad_dout, bad_dlse in ((dout[:, :2], dlse), (dout, dlse[:, :1]), (dout[..., :3], None)):
        with pytest.raises(ValueError, match="expected dout and dlse"):
            attention_backward(q, k, v, bad_dout, dlse=bad_dlse)
