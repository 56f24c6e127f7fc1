"""Rounding against ml_dtypes and NumPy on every 16-bit pattern, and against exact fractions."""
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import FORMATS, round_to

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}


def every_value(dtype):
    """Every bit pattern of an 8-bit or 16-bit dtype, as float64."""
    bits = np.dtype(f"u{dtype.itemsize}")
    patterns = np.arange(2 ** (8 * dtype.itemsize)).astype(bits).view(dtype)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return patterns.astype(np.float64)


def finite_values(dtype):
    """The finite values of a dtype, in order, with one zero."""
    values = every_value(dtype)
    return np.unique(values[np.isfinite(values)])


def assert_identical(actual, expected):
    """Equal values, NaN for NaN, and equal signs of zero."""
    np.testing.assert_array_equal(actual, expected)
    known = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(actual[known]), np.signbit(expected[known]))


def convert(x, dtype):
    """x through the dtype by NumPy's own conversion, as float64. x must be float32 values, which every dtype
    takes in one step; from float64, ml_dtypes rounds to float32 on the way."""
    with np.errstate(over="ignore", invalid="ignore"):
        return x.astype(np.float32).astype(dtype).astype(np.float64)


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_representable_values_stay(name):
    values = every_value(DTYPES[name])
    assert_identical(round_to(values, name), values)


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_ties_and_their_neighbours(name):
    """Half way between every two neighbouring values, exactly and one float32 to either side."""
    values = finite_values(DTYPES[name])
    ties = ((values[:-1] + values[1:]) / 2).astype(np.float32)
    np.testing.assert_array_equal(ties.astype(np.float64) * 2, values[:-1] + values[1:])  # float32 holds them
    for x in (ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf))):
        assert_identical(round_to(x, name), convert(x, DTYPES[name]))


@pytest.mark.parametrize("name", sorted(DTYPES))
@pytest.mark.parametrize("source", ["float16", "bfloat16"])
def test_every_16_bit_pattern(name, source):
    values = every_value(DTYPES[source])
    assert_identical(round_to(values, name), convert(values, DTYPES[name]))


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_random_float32_patterns(name):
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32)
    assert_identical(round_to(bits.view(np.float32), name), convert(bits.view(np.float32), DTYPES[name]))


@settings(deadline=None)
@given(st.floats(allow_nan=False))
def test_float32_and_float16_from_float64(x):
    """NumPy converts float64 to both in one correct step."""
    for name in ("float32", "float16"):
        with np.errstate(over="ignore", under="ignore"):
            expected = np.array([x]).astype(name).astype(np.float64)
        assert_identical(round_to(np.array([x]), name), expected)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted(DTYPES)), st.data())
def test_no_value_is_nearer(name, data):
    """Exact arithmetic over the two neighbours, for float64 inputs within a hair of a tie."""
    values = finite_values(DTYPES[name])
    index = data.draw(st.integers(0, len(values) - 2))
    low, high = values[index], values[index + 1]
    x = (low + high) / 2 * (1 + data.draw(st.integers(-4, 4)) * 2.0**-52)
    to_low, to_high = Fraction(x) - Fraction(low), Fraction(high) - Fraction(x)
    rounded = round_to(x, name)
    if to_low != to_high:
        assert rounded == (low if to_low < to_high else high)
    else:
        low_bits = int(np.array([abs(low)]).astype(DTYPES[name]).view(f"u{DTYPES[name].itemsize}")[0])
        assert rounded == (low if low_bits % 2 == 0 else high)  # the neighbour whose last bit is 0


def test_double_rounding_does_not_happen():
    """1 + 2**-8 is a tie in bf16; 2**-40 more decides for the upper value, and float32 would lose it."""
    assert round_to(1 + 2.0**-8 + 2.0**-40, "bfloat16") == 1 + 2.0**-7
    assert round_to(1 + 2.0**-8, "bfloat16") == 1.0


@pytest.mark.parametrize(
    "name, last, first",
    [("float16", 65519.99, 65520.0), ("float8_e4m3fn", 464.0, 464.001), ("float8_e5m2", 61439.0, 61440.0)],
)
def test_overflow_starts_half_a_step_past_the_largest(name, last, first):
    largest, overflow = FORMATS[name].largest, FORMATS[name].overflow
    np.testing.assert_array_equal(round_to([last, -last], name), [largest, -largest])
    np.testing.assert_array_equal(round_to([first, -first, np.inf], name), [overflow, -overflow, overflow])


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_formats_state_the_dtypes_largest_value(name):
    assert FORMATS[name].largest == float(ml_dtypes.finfo(DTYPES[name]).max)


def test_dtype_may_be_a_name_or_a_dtype():
    x = np.array([1.2345])
    for dtype in (ml_dtypes.bfloat16, np.dtype(ml_dtypes.bfloat16)):
        assert round_to(x, dtype) == round_to(x, "bfloat16") != x
    with pytest.raises(ValueError, match="float64"):
        round_to(x, np.float64)
