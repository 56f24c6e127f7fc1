"""The tolerance lets a good low-precision result pass and stops wrong masks, wrong shapes, NaN and
infinity."""
import numpy as np
import pytest

from numba_fa.testing import assert_close, assert_lse_close, assert_within, error_bound, random_qkv
from reference import attention, attention_rounded, round_to

DTYPES = ["float32", "float16", "bfloat16"]


def case(dtype, seqlen_q=40, seqlen_k=70, mask="causal"):
    """`(inputs, truth, rounded)` of a GQA problem; truth and rounded are (out, lse)."""
    inputs = random_qkv(2, seqlen_q, seqlen_k, 4, 2, 32, dtype)
    return inputs, attention(*inputs, mask=mask), attention_rounded(*inputs, mask=mask, dtype=dtype)


def online_float32(q, k, v, mask, dtype, block_n):
    """Attention of one head key block by key block, float32, first block first, weights and out rounded to
    dtype.

    q (seqlen_q, head_dim), k (seqlen_k, head_dim), v (seqlen_k, head_dim_v), mask (seqlen_q, seqlen_k) bool
    with no empty row at its start. An order of sums that neither the truth nor the naive computation has.
    """
    q, k, v = (x.astype(np.float32) for x in (q, k, v))
    scale = np.float32(np.log2(np.e) / np.sqrt(q.shape[1]))
    row_max = np.full((len(q), 1), -np.inf, np.float32)
    row_sum, acc = np.zeros((len(q), 1), np.float32), np.zeros((len(q), v.shape[1]), np.float32)
    for n in range(0, len(k), block_n):
        s = np.where(mask[:, n : n + block_n], (q @ k[n : n + block_n].T) * scale, np.float32(-np.inf))
        new_max = np.maximum(row_max, s.max(axis=1, keepdims=True))
        rescale, p = np.exp2(row_max - new_max), np.exp2(s - new_max)
        row_sum = row_sum * rescale + p.sum(axis=1, keepdims=True)
        acc = acc * rescale + round_to(p, dtype).astype(np.float32) @ v[n : n + block_n]
        row_max = new_max
    lse = (row_max + np.log2(row_sum)) * np.float32(np.log(2))
    return round_to(acc / row_sum, dtype), lse[:, 0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "seqlen_q, seqlen_k, block_n", [(1, 1, 1), (2, 2, 1), (3, 70, 1), (64, 1000, 16), (9, 300, 64)]
)
def test_another_order_of_sums_passes(dtype, seqlen_q, seqlen_k, block_n):
    for seed in range(5):
        q, k, v = random_qkv(1, seqlen_q, seqlen_k, 1, 1, 64, dtype, seed=seed)
        mask = np.arange(seqlen_k) <= np.arange(seqlen_q)[:, None] + seqlen_k - seqlen_q
        out, lse = online_float32(q[0, :, 0], k[0, :, 0], v[0, :, 0], mask, dtype, block_n)
        rounded, _ = attention_rounded(q, k, v, mask="causal", dtype=dtype)
        truth = attention(q, k, v, mask="causal")
        assert_close(out[None, :, None], lse[None, None], *truth, rounded, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_naive_result_passes(dtype):
    _, truth, rounded = case(dtype)
    assert_close(*rounded, *truth, rounded[0], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_mask_off_by_one_key_fails(dtype):
    (q, k, v), truth, rounded = case(dtype)
    off_by_one = attention_rounded(q, k[:, :-1], v[:, :-1], mask="causal", dtype=dtype)
    with pytest.raises(AssertionError, match="out: bound"):
        assert_close(*off_by_one, *truth, rounded[0], dtype)
    with pytest.raises(AssertionError, match="lse: tolerance"):
        assert_lse_close(off_by_one[1], truth[1])


def test_the_bound_by_hand():
    """Naive error 0.25 and largest truth 4: 2 * 0.25 + 4 * (2**-7 + 2**-20) in bf16."""
    truth, rounded = np.array([1.0, -4.0]), np.array([1.25, -4.0])
    assert error_bound(truth, rounded, "bfloat16") == 0.5 + 4 * (2.0**-7 + 2.0**-20)
    assert_within(truth + 0.53125, truth, rounded, "bfloat16")
    with pytest.raises(AssertionError, match=r"dq: bound 5.313e-01; 1 of 2 .* \(1,\): actual -3.46, truth"):
        assert_within(truth + [0, 0.54], truth, rounded, "bfloat16", name="dq")


@pytest.mark.parametrize("dtype, eps", [("float32", 2.0**-23), ("float16", 2.0**-10), ("bfloat16", 2.0**-7)])
def test_a_lucky_naive_result_leaves_one_unit_in_the_last_place(dtype, eps):
    assert error_bound(np.array([3.0]), np.array([3.0]), dtype) == 3 * (eps + 2.0**-20)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["out", "truth", "rounded", "all"])
def test_nan_and_infinity_never_pass_in_out(bad, where):
    arrays = {name: np.ones(3) for name in ("out", "truth", "rounded")}
    for name in arrays if where == "all" else [where]:
        arrays[name][1] = bad
    with pytest.raises(AssertionError):
        assert_within(arrays["out"], arrays["truth"], arrays["rounded"], "float16")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["lse", "truth", "both"])
def test_nan_and_infinity_never_pass_in_lse(bad, where):
    lse, truth = np.ones(3), np.ones(3)
    for array in {"lse": [lse], "truth": [truth], "both": [lse, truth]}[where]:
        array[2] = bad
    with pytest.raises(AssertionError, match="lse"):
        assert_lse_close(lse, truth)


def test_empty_rows_must_match_exactly():
    empty = np.array([-np.inf, 1.0])
    assert_lse_close(empty, empty)
    for lse, truth in ((empty, np.array([-1e30, 1.0])), (np.array([-1e30, 1.0]), empty), (-empty, empty)):
        with pytest.raises(AssertionError, match=r"1 of 2|2 of 2"):
            assert_lse_close(lse, truth)


@pytest.mark.parametrize("truth", [0.0, 1.0, -50.0])
def test_lse_tolerance_is_absolute_plus_relative(truth):
    allowed = 1e-4 + 1e-4 * abs(truth)
    assert_lse_close(np.array([truth + 0.99 * allowed]), np.array([truth]))
    with pytest.raises(AssertionError):
        assert_lse_close(np.array([truth - 1.01 * allowed]), np.array([truth]))


def test_shapes_must_match_without_broadcasting():
    ones = np.ones((2, 3))
    with pytest.raises(AssertionError, match=r"out: shape \(3,\), expected \(2, 3\)"):
        assert_within(ones[0], ones, ones, "float32")
    with pytest.raises(AssertionError, match="naive out: shape"):
        assert_within(ones, ones, ones[:1], "float32")
    with pytest.raises(AssertionError, match="lse: shape"):
        assert_lse_close(ones[0], ones)


def test_empty_arrays_pass():
    none = np.ones((1, 0, 2, 4))
    assert_close(none, none[..., 0], none, none[..., 0], none, "float16")


def test_the_worst_place_is_named():
    truth = np.zeros((2, 3))
    lse = truth.copy()
    lse[1, 2], lse[0, 1] = 5.0, 7.0
    with pytest.raises(AssertionError, match=r"2 of 6 beyond it; worst at \(0, 1\): actual 7, truth 0"):
        assert_lse_close(lse, truth)
    lse[1, 0] = np.nan
    with pytest.raises(AssertionError, match=r"3 of 6 beyond it; worst at \(1, 0\): actual nan"):
        assert_lse_close(lse, truth)
