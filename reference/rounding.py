"""Rounding to the narrow floating-point formats, by arithmetic on float64.

A finite value x with exponent e, 2**e <= |x| < 2**(e+1), lies on a grid whose step is 2**(max(e,
min_exponent) - fraction_bits); rounding is `step * rint(x / step)`, where both scalings are by powers of two,
hence exact, and `rint` takes ties to even (IEEE 754-2019, section 4.3.1). The fp8 formats are those of
Micikevicius et al. 2022, "FP8 Formats for Deep Learning".

Overflow follows NumPy and ml_dtypes, not the saturating conversions of CUDA: a value that rounds past the
largest finite one becomes infinity, or NaN in e4m3fn, which has no infinity. NaN stays NaN and zeros keep
their sign.
"""
from typing import NamedTuple

import numpy as np


class Format(NamedTuple):
    """A binary floating-point format: fraction bits, exponent of the smallest normal, largest value,
    overflow."""

    fraction_bits: int
    min_exponent: int
    largest: float
    overflow: float


FORMATS = {
    "float32": Format(23, -126, (2 - 2.0**-23) * 2.0**127, np.inf),
    "float16": Format(10, -14, 65504.0, np.inf),
    "bfloat16": Format(7, -126, (2 - 2.0**-7) * 2.0**127, np.inf),
    "float8_e4m3fn": Format(3, -6, 448.0, np.nan),
    "float8_e5m2": Format(2, -14, 57344.0, np.inf),
}


def dtype_name(dtype):
    """The name in FORMATS of a dtype given as that name, a NumPy dtype or a scalar type; ValueError if
    unknown."""
    name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    if name not in FORMATS:
        raise ValueError(f"unknown format {name!r}; known: {sorted(FORMATS)}")
    return name


def round_to(x, dtype):
    """The values of x (any shape, any float dtype) rounded to `dtype`, nearest, ties to even, as float64.

    dtype is a name in FORMATS or a dtype of that name. The rounding is from x at once: a float64 x is not
    rounded to float32 on the way, so a value near a tie never rounds twice.
    """
    fmt = FORMATS[dtype_name(dtype)]
    with np.errstate(invalid="ignore"):  # a signalling NaN
        x = np.asarray(x).astype(np.float64)
    finite = np.isfinite(x)
    value = np.where(finite, x, 0.0)
    _, exponent = np.frexp(value)  # value = mantissa * 2**exponent with mantissa in [0.5, 1)
    step = np.maximum(exponent - 1, fmt.min_exponent) - fmt.fraction_bits
    with np.errstate(over="ignore"):  # a value within half a step of 2**1024
        rounded = np.ldexp(np.rint(np.ldexp(value, -step)), step)
    rounded = np.where(np.abs(rounded) > fmt.largest, np.copysign(fmt.overflow, x), rounded)
    infinite = np.where(np.isinf(x), np.copysign(fmt.overflow, x), x)
    return np.where(finite, rounded, infinite)
