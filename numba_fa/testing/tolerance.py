"""When a result is right: its error is at most twice that of a naive computation in the same precision.

The rule is that of FlashAttention's tests (Dao et al. 2022): it needs no constant per dtype, head_dim or
mask, since the naive low-precision result has the rounding errors that cannot be avoided. Truth and naive
result come from the caller as arrays.
"""
import ml_dtypes
import numpy as np

LSE_TOLERANCE = 1e-4

# Two float32 softmaxes differ by this much, relative, whatever the dtype of the inputs: a score of 8 rounded
# to float32 moves its weight by 8 * 2**-24, and ex2.approx adds up to 2**-22. Nothing to 16-bit types.
SOFTMAX_ERROR = 2.0**-20


def error_bound(truth, rounded, dtype):
    """The largest allowed |actual - truth|, a float:
    `2 * max|rounded - truth| + (eps(dtype) + 2**-20) * max|truth|`.

    truth and rounded are float arrays of one shape, dtype the result's dtype. The second term
    is one unit in the last place of the largest value and the error of a float32 softmax: without it, a tiny
    case whose naive result happens to round luckily would demand more than the dtype can hold. NaN in either
    array makes the bound NaN, which nothing meets.
    """
    truth, rounded = (np.asarray(x).astype(np.float64) for x in (truth, rounded))
    eps = float(ml_dtypes.finfo(dtype).eps) + SOFTMAX_ERROR
    return 2.0 * np.max(np.abs(rounded - truth), initial=0.0) + eps * np.max(np.abs(truth), initial=0.0)


def assert_shape(actual, truth, name):
    """AssertionError unless the arrays have one shape: broadcasting would hide a missing axis."""
    if np.shape(actual) != np.shape(truth):
        raise AssertionError(f"{name}: shape {np.shape(actual)}, expected {np.shape(truth)}")


def assert_within(actual, truth, rounded, dtype, name="out"):
    """AssertionError, with the values, unless `max|actual - truth| <= error_bound(truth, rounded, dtype)`.

    actual, truth and rounded are float arrays of one shape (an output or a gradient, called `name`); NaN or
    infinity anywhere in them fails.
    """
    assert_shape(actual, truth, name)
    assert_shape(rounded, truth, f"naive {name}")
    actual, truth = (np.asarray(x).astype(np.float64) for x in (actual, truth))
    with np.errstate(invalid="ignore"):
        error = np.abs(actual - truth)
        bound = error_bound(truth, rounded, dtype)
    # An infinite bound, from an infinite truth or an overflow of the naive result, would let anything pass.
    assert_all((error <= bound) & np.isfinite(bound), error, f"{name}: bound {bound:.3e}", actual, truth)


def assert_lse_close(lse, truth_lse):
    """AssertionError, with the values, unless `|lse - truth| <= 1e-4 + 1e-4 * |truth|` everywhere.

    lse and truth_lse (batch, heads, seqlen_q) or (heads, total), natural log. -inf, the mark of a row with no
    visible key, must stand exactly where truth has it; NaN and +inf fail, in either array.
    """
    assert_shape(lse, truth_lse, "lse")
    lse, truth = (np.asarray(x).astype(np.float64) for x in (lse, truth_lse))
    with np.errstate(invalid="ignore"):
        error = np.abs(lse - truth)
    # An infinite truth makes the bound infinite too, and a finite lse would pass: ask for a finite error.
    close = np.isfinite(error) & (error <= LSE_TOLERANCE + LSE_TOLERANCE * np.abs(truth))
    both_empty = np.isneginf(lse) & np.isneginf(truth)
    assert_all(close | both_empty, error, f"lse: tolerance {LSE_TOLERANCE:g}", lse, truth)


def assert_close(out, lse, truth_out, truth_lse, rounded_out, dtype):
    """AssertionError, with the values, unless both `out` and `lse` of a forward pass are right.

    out (batch, seqlen_q, heads, head_dim_v) by `assert_within` and lse (batch, heads, seqlen_q) by
    `assert_lse_close`; rounded_out is the naive low-precision output, dtype the output's dtype.
    """
    assert_within(out, truth_out, rounded_out, dtype)
    assert_lse_close(lse, truth_lse)


def assert_all(good, error, what, actual, truth):
    """AssertionError naming the worst place, its values and how many are bad, unless the bool array is all
    True."""
    if np.all(good):
        return
    rank = np.where(good, -1.0, np.where(np.isnan(error), np.inf, error))
    worst = np.unravel_index(np.argmax(rank), rank.shape)
    place = tuple(int(i) for i in worst)
    raise AssertionError(
        f"{what}; {np.sum(~good)} of {good.size} beyond it; worst at {place}: "
        f"actual {actual[worst]:.9g}, truth {truth[worst]:.9g}, error {error[worst]:.3e}"
    )
