"""The naive low-precision computation: where it rounds, and that its error has the size of the dtype."""
import ml_dtypes
import numpy as np
import pytest

from reference import attention, attention_rounded, round_to

from .problems import small_arrays

EPS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


@pytest.mark.parametrize("mask", ["full", "causal"])
@pytest.mark.parametrize("dtype", sorted(EPS))
def test_error_has_the_size_of_the_dtype(dtype, mask):
    """Rounding of weights and of out is at most half an eps each; a result without any would be below an eps
    / 50."""
    q, k, v = (round_to(x, dtype) for x in small_arrays(40, 60))
    truth, truth_lse = attention(q, k, v, mask=mask)
    out, lse = attention_rounded(q, k, v, mask=mask, dtype=dtype)
    error = np.abs(out - truth).max()
    assert EPS[dtype] / 50 < error < 4 * EPS[dtype] * np.abs(v).max()
    np.testing.assert_allclose(lse, truth_lse, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", sorted(EPS))
def test_out_holds_values_of_the_dtype(dtype):
    out, lse = attention_rounded(*small_arrays(5, 9), dtype=dtype)
    np.testing.assert_array_equal(out, round_to(out, dtype))
    np.testing.assert_array_equal(lse, lse.astype(np.float32))


def test_inputs_are_rounded_first():
    inputs = small_arrays(5, 9)
    narrow = [x.astype(np.float32).astype(ml_dtypes.bfloat16) for x in inputs]
    for a, b in zip(attention_rounded(*inputs), attention_rounded(*narrow), strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_are_rounded_and_their_sum_is_not():
    """Two keys weigh 1 and w = exp(-1), with values 0 and 1: out is bf16(w) / (1 + w), rounded."""
    q, k = np.ones((1, 1, 1, 1)), np.array([0.0, -1.0]).reshape(1, 2, 1, 1)
    v = np.array([0.0, 1.0]).reshape(1, 2, 1, 1)
    w = np.exp(-1.0)
    w_bf16 = round_to(w, "bfloat16")
    expected = round_to(w_bf16 / (1 + w), "bfloat16")
    assert expected not in (round_to(w / (1 + w), "bfloat16"), round_to(w_bf16 / (1 + w_bf16), "bfloat16"))
    out, _ = attention_rounded(q, k, v, scale=1.0, dtype="bfloat16")
    assert out.item() == expected


def test_rows_that_see_no_key():
    out, lse = attention_rounded(*small_arrays(4, 2), mask="causal")
    assert np.all(out[:, :2] == 0) and np.all(lse[..., :2] == -np.inf)
    assert np.all(np.isfinite(lse[..., 2:]))
