"""The CPU forward under every mask and bias, against float64."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import ml_dtypes
import numba
import numpy as np
import pytest

from numba_fa.errors import CompileError, FunctionError
from numba_fa.kernels.cpu import elementary
from numba_fa.kernels.cpu.block_table import block_table
from numba_fa.kernels.cpu.forward import make_forward
from numba_fa.kernels.cpu.hooks import make_hooks
from numba_fa.problem.tokens import tokens_of
from tests.kernels import brute_force, programs
from tests.kernels.programs import all_of, any_of, carrier, dense, softcap, t5, window

DTYPES = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}
# One rounding of the output plus float32 sums over at most 200 keys of values near 1.
TOLERANCE = {"fp32": 4e-6, "fp16": 2e-3, "bf16": 1.6e-2}
TILE = {"block_m": 32, "block_n": 16}

MASKS = {
    "full": programs.full,
    "causal": programs.causal,
    "window": window(9, 4),
    "window-left": window(30, None),
    "window-right": window(None, 0),
    "window-sinks": window(17, 0, sinks=5),
    "window-diagonal": window(0, 0),
    "padding": programs.padding,
    "padding-nothing": programs.no_keys,
    "document": programs.document,
    "prefix": programs.prefix,
    "prefix-int": programs.prefix_int,
    "mod": programs.checkers,
    "causal&padding": all_of(programs.causal, programs.padding),
    "window|prefix": any_of(window(5, 3), programs.prefix_int),
    "(causal|prefix)&document&mod": all_of(
        any_of(programs.causal, programs.prefix), programs.document, programs.checkers
    ),
    "(causal&window)|(document&padding)": any_of(
        all_of(programs.causal, window(7, None, sinks=2)), all_of(programs.document, programs.padding)
    ),
}
BIASES = {
    "alibi": [programs.alibi],
    "dense-fp32": [dense("fp32")],
    "dense-fp16-hij": [dense("fp16", "hij")],
    "dense-bf16-bj": [dense("bf16", "bj")],
    "dense-fp32-none": [dense("fp32", "")],
    "t5": [t5()],
    "t5-one-way": [t5(16, 40, False)],
    "softcap": [softcap()],
    "score_mod": [programs.wave],
    "sink": [programs.sink],
    "softcap,alibi": [softcap(), programs.alibi],
    "dense,score_mod,softcap,sink": [dense("bf16", "ij"), programs.wave, softcap(1.5), programs.sink],
}
SIZES = {"ragged": programs.Sizes(2, 4, 61, 83), "tall": programs.Sizes(2, 2, 90, 33), "one": programs.Sizes(1, 2, 1, 70)}


@cache
def drawn(sizes, dtype, head_dim=24, heads_kv=2):
    """q, k, v of a standard normal distribution rounded to dtype."""
    rng = np.random.default_rng(1)
    q = rng.standard_normal((sizes.batch, sizes.seqlen_q, sizes.heads, head_dim)).astype(DTYPES[dtype])
    k, v = (rng.standard_normal((sizes.batch, sizes.seqlen_k, heads_kv, head_dim)).astype(q.dtype) for _ in "kv")
    return q, k, v


def compute(q, k, v, dtype, mask, biases=(), scale=0.3, tile=TILE):
    """The kernel's O in float64 and LSE; both start as NaN, so an element not written shows."""
    out = np.full(q.shape, np.nan, DTYPES[dtype])
    lse = np.full((q.shape[0], q.shape[2], q.shape[1]), np.nan, np.float32)
    parts = [mask, *biases]
    bias = "+".join(part.text for part in biases) or "none"
    hooks = make_hooks(mask.text, bias, sum((part.tokens for part in parts), ()))
    aux = sum((part.aux for part in parts), ())
    make_forward(dtype=dtype, hooks=hooks, **tile)(*map(carrier, (q, k, v, out)), lse, scale, aux)
    return out.astype(np.float64), lse


def expected(q, k, v, mask, biases=(), scale=0.3):
    """What `compute` should give, in float64."""
    sinks = [part.meaning for part in biases if part.text == "sink"]
    functions = [part.meaning for part in biases if part.text != "sink"]
    return brute_force.attention(q, k, v, scale, mask.meaning, functions, *sinks)


def check(sizes, dtype, mask, biases=(), **options):
    """Assert that kernel and brute force agree."""
    q, k, v = drawn(sizes, dtype)
    mask, biases = mask(sizes), [bias(sizes) for bias in biases]
    out, lse = compute(q, k, v, dtype, mask, biases, **options)
    true_out, true_lse = expected(q, k, v, mask, biases)
    np.testing.assert_allclose(out, true_out, rtol=0, atol=TOLERANCE[dtype])
    np.testing.assert_allclose(lse, true_lse, rtol=0, atol=1e-5)
    empty = np.isneginf(true_lse)
    assert np.array_equal(np.isneginf(lse), empty) and not out.swapaxes(1, 2)[empty].any()


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_masks(mask, sizes):
    check(sizes, "fp32", mask)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("biases", BIASES.values(), ids=BIASES)
def test_biases(biases, sizes):
    check(sizes, "fp32", programs.causal, biases)


EVERYTHING = [softcap(), programs.alibi, programs.sink]


@pytest.mark.parametrize("tile", [(16, 4), (48, 20), (5, 7), (128, 64)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_together_in_every_dtype_and_tile(dtype, tile):
    block_m, block_n = tile
    check(SIZES["ragged"], dtype, all_of(programs.causal, window(20, None, sinks=3)), EVERYTHING,
          tile={"block_m": block_m, "block_n": block_n})  # fmt: skip


@pytest.mark.parametrize("heads_kv", [1, 2, 4])
def test_masks_and_biases_go_by_the_query_head(heads_kv):
    sizes = SIZES["ragged"]
    q, k, v = drawn(sizes, "fp32", 16, heads_kv)
    mask, biases = programs.checkers(sizes), [dense("fp32")(sizes), programs.sink(sizes)]
    out, lse = compute(q, k, v, "fp32", mask, biases)
    true_out, true_lse = expected(q, k, v, mask, biases)
    np.testing.assert_allclose(out, true_out, rtol=0, atol=4e-6)
    np.testing.assert_allclose(lse, true_lse, rtol=0, atol=1e-5)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("name", [name for name in MASKS if name not in ("full", "padding-nothing")])
def test_poison_in_v_reaches_exactly_the_rows_that_see_it(name, poison):
    sizes = SIZES["ragged"]
    mask, (q, k, v) = MASKS[name](sizes), drawn(sizes, "fp32")
    v = v.copy()
    v[0, [3, 40], :, 5] = poison
    out, lse = compute(q, k, v, "fp32", mask)
    keep = np.broadcast_to(mask.meaning, sizes)
    hit = np.zeros(out.shape[:3], bool)
    hit[0] = keep[0, :, :, [3, 40]].any(0).T
    assert np.array_equal(~np.isfinite(out[..., 5]), hit)
    assert np.isfinite(np.delete(out, 5, -1)).all() and not np.isnan(lse).any()
    v[0, [3, 40], :, 5] = 0
    clean, clean_lse = compute(q, k, v, "fp32", mask)
    np.testing.assert_allclose(out[~hit], clean[~hit], rtol=0, atol=1e-6)
    assert np.array_equal(lse, clean_lse)


def test_poison_in_k_stays_behind_the_mask():
    sizes = SIZES["ragged"]
    mask, (q, k, v) = programs.causal(sizes), drawn(sizes, "fp32")
    k = k.copy()
    k[:, 50] = np.nan
    out, lse = compute(q, k, v, "fp32", mask, [programs.alibi(sizes)])
    seen = np.arange(sizes.seqlen_q) + sizes.seqlen_k - sizes.seqlen_q >= 50
    assert np.array_equal(np.isnan(lse), np.broadcast_to(seen, lse.shape))
    assert np.array_equal(np.isnan(out), np.broadcast_to(seen[:, None, None], out.shape))


def test_a_row_without_keys_has_its_sink_alone():
    sizes = SIZES["tall"]
    q, k, v = drawn(sizes, "fp32")
    logits = np.array([1.25, -np.inf], np.float32)
    out, lse = compute(q, k, v, "fp32", programs.causal(sizes), [programs.sink(sizes)._replace(aux=(logits,))])
    empty = sizes.seqlen_q - sizes.seqlen_k
    assert not out[:, :empty].any() and out[:, empty:].any(-1).all()
    np.testing.assert_allclose(lse[:, 0, :empty], 1.25, rtol=2e-7)
    assert np.isneginf(lse[:, 1, :empty]).all()


@pytest.mark.parametrize("logit", [-300.0, 90.0, 300.0])
def test_extreme_sinks(logit):
    sizes = SIZES["ragged"]
    q, k, v = drawn(sizes, "fp32")
    logits = np.full(sizes.heads, logit, np.float32)
    mask, sink = programs.full(sizes), programs.sink(sizes)._replace(aux=(logits,), meaning=logits.astype(np.float64))
    out, lse = compute(q, k, v, "fp32", mask, [sink])
    true_out, true_lse = expected(q, k, v, mask, [sink])
    np.testing.assert_allclose(out, true_out, rtol=0, atol=4e-6)
    np.testing.assert_allclose(lse, true_lse, rtol=2e-7, atol=1e-5)


def test_a_bias_of_minus_infinity_hides():
    sizes = SIZES["ragged"]
    q, k, v = drawn(sizes, "fp32")
    keep = np.random.default_rng(8).random(sizes) < 0.3
    keep[:, :, 7] = False
    array = np.where(keep, 0, -np.inf).astype(np.float32)
    bias = programs.Part("dense_fp32", ("array:float32:4",), (array,), None)
    out, lse = compute(q, k, v, "fp32", programs.full(sizes), [bias])
    true_out, true_lse = brute_force.attention(q, k, v, 0.3, keep)
    np.testing.assert_allclose(out, true_out, rtol=0, atol=4e-6)
    np.testing.assert_allclose(lse, true_lse, rtol=0, atol=1e-5)


def test_strided_and_unaligned_arguments():
    sizes = SIZES["ragged"]
    q, k, v = drawn(sizes, "fp32")
    mask = programs.document(sizes)
    room = np.zeros((sizes.batch, 2 * sizes.seqlen_k), np.int32)
    k_ids = room[:, ::-2]
    k_ids[:] = mask.aux[1]
    bias = dense("fp32")(sizes)
    turned = np.ascontiguousarray(bias.aux[0].transpose(3, 1, 0, 2)).transpose(2, 1, 3, 0)
    unaligned = np.frombuffer(b"\0" + turned.tobytes(), np.uint8)[1:].view(np.float32).reshape(sizes)
    for array in (turned, unaligned):
        out, _ = compute(q, k, v, "fp32", mask._replace(aux=(mask.aux[0], k_ids)), [bias._replace(aux=(array,))])
        np.testing.assert_allclose(out, expected(q, k, v, mask, [bias])[0], rtol=0, atol=4e-6)


def _inside(b, h, q_idx, kv_idx, batch, heads, seqlen_q, seqlen_k):
    inside = 0 <= b < batch and 0 <= h < heads and 0 <= q_idx < seqlen_q and 0 <= kv_idx < seqlen_k
    return (kv_idx <= q_idx,)[0 if inside else 1]


def _inside_score(score, b, h, q_idx, kv_idx, batch, heads, seqlen_q, seqlen_k, array):
    inside = 0 <= b < batch and 0 <= h < heads and 0 <= q_idx < seqlen_q and 0 <= kv_idx < seqlen_k
    return (score,)[0 if inside else 1]


@pytest.mark.parametrize("axes", [1, 4])  # with 4 a tile is walked in strips
@pytest.mark.parametrize("tile", [(32, 16), (5, 7)], ids=str)
def test_functions_never_see_an_index_outside(tile, axes):
    sizes = SIZES["ragged"]
    mask = programs.user_mask(_inside, sizes, None)
    bias = programs.user_bias(_inside_score, (*sizes, np.zeros((1,) * axes, np.float32)), None)
    options = {"tile": dict(zip(("block_m", "block_n"), tile))}
    out, _ = compute(*drawn(sizes, "fp32"), "fp32", mask, [bias], **options)
    assert np.isfinite(out).all()
    narrow = mask._replace(aux=(*sizes[:3], sizes.seqlen_k - 1))
    with pytest.raises(FunctionError):  # so the check does tell
        compute(*drawn(sizes, "fp32"), "fp32", narrow, [bias], **options)


@pytest.mark.parametrize("threads", [1, 2])
def test_calls_from_several_threads(threads):
    sizes = SIZES["ragged"]
    q, k, v = drawn(sizes, "fp32")
    jobs = [(make(sizes), [bias(sizes) for bias in biases])
            for make, biases in [(programs.causal, EVERYTHING), (programs.document, [programs.wave])]]  # fmt: skip
    alone = [compute(q, k, v, "fp32", *job) for job in jobs]
    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(lambda job: compute(q, k, v, "fp32", *job), jobs * 10))
    for result, (out, lse) in zip(results, alone * 10, strict=True):
        assert np.array_equal(result[0], out) and np.array_equal(result[1], lse)


def _adds_a_word(b, h, q_idx, kv_idx):
    return q_idx + "word" > kv_idx


def _counts(b, h, q_idx, kv_idx):
    return q_idx + kv_idx


@pytest.mark.parametrize("function, words", [(_adds_a_word, '"word" > kv_idx'), (_counts, "_counts.* bool")])
def test_a_users_mistake_is_told_in_the_users_words(function, words):
    part = programs.user_mask(function, (), None)
    with pytest.raises(CompileError, match=words):
        make_hooks(part.text, "none", part.tokens)
    with pytest.raises(CompileError, match=words):
        block_table(part.text, part.tokens, (), batch=1, heads=1, seqlen_q=1, seqlen_k=1, block_m=1, block_n=1)


@pytest.mark.parametrize("make", [*MASKS.values(), *[bias for biases in BIASES.values() for bias in biases]])
def test_tokens_follow_from_the_names(make):
    part = make(SIZES["ragged"])
    assert tokens_of(part.text, "none") == part.tokens


def test_a_new_program_compiles_in_less_than_a_second_of_processor_time():
    """0.5 s on a quiet machine; the least of three programs, since a busy one takes up to twice as long."""
    make_hooks("prefix_int", "softcap", ("int32", "int32", "float32"))
    taken = []
    for bias, tokens in (("alibi", ()), ("softcap+alibi", ("float32",)), ("alibi+softcap", ("float32",))):
        order = (*tokens, "int32", "array:float32:2") if bias != "alibi+softcap" else ("int32", "array:float32:2", *tokens)
        start = time.process_time()
        make_hooks("all2+causal+window", f"{bias}+sink", ("int32",) * 4 + order + ("array:float32:1",))
        taken.append(time.process_time() - start)
    assert min(taken) < 1, taken


def test_tanh():
    apply = make_apply(elementary.tanh)
    x = np.concatenate([np.linspace(-12, 12, 400_001), np.geomspace(1e-38, 3e38, 20_000)]).astype(np.float32)
    x = x[x != 0]
    exact = np.tanh(x.astype(np.float64))
    assert np.max(np.abs(apply(x) / exact - 1)) < 3e-7
    edges = np.array([0, -0.0, np.inf, -np.inf, 1e-45], np.float32)
    assert apply(edges).tobytes() == np.array([0, -0.0, 1, -1, 1e-45], np.float32).tobytes()
    assert np.isnan(apply(np.array([np.nan], np.float32))[0])


def make_apply(function):
    """The function over an array, compiled as a loop."""
    @numba.njit(error_model="numpy", fastmath={"contract"})
    def apply(x):
        y = np.empty_like(x)
        for i in range(x.size):
            y[i] = function(x[i])
        return y

    return apply
