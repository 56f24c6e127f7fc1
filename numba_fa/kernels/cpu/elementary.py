"""Elementary functions of float32 in a form that LLVM can vectorise, where the C library takes one value at a time.

Range reduction and a polynomial: J.-M. Muller, "Elementary Functions", 3rd ed., sections 11.1-11.2.
"""

import numpy as np
from numba import njit, uint32

from numba_fa.kernels.cpu.convert import SIGN_BITS, bits_of, float_of

jit = njit(error_model="numpy", fastmath={"contract"})

_ROUND_TO_INTEGER = np.float32(1.5 * 2**23)
# (2**x - 1) / x on [-0.5, 0.5]: least squares reweighted to equal ripple; relative error of 2**x
# below 2**-28 before rounding.
_EXP2 = tuple(np.float32(c) for c in (
    0.6931471824645996, 0.24022647738456726, 0.055503323674201965,
    0.00961843691766262, 0.0013398873852565885, 0.00015353361959569156))
_MINUS_TWO_LOG2_E = np.float32(-2.8853900817779268)


@jit
def reduced(x):
    """(f, n) with x = f + n, f in [-0.5, 0.5], n an integer (uint32, modulo 2**32)."""
    shifted = x + _ROUND_TO_INTEGER
    return x - (shifted - _ROUND_TO_INTEGER), uint32(bits_of(shifted) - bits_of(_ROUND_TO_INTEGER))


@jit
def less_one(f):
    """2**f - 1 for f in [-0.5, 0.5]."""
    p = _EXP2[5]
    p = p * f + _EXP2[4]
    p = p * f + _EXP2[3]
    p = p * f + _EXP2[2]
    p = p * f + _EXP2[1]
    p = p * f + _EXP2[0]
    return p * f


@jit
def power_of_two(n):
    """2**n for n in -126 ... 127 (uint32, modulo 2**32)."""
    return float_of(uint32(uint32(n + uint32(127)) << uint32(23)))


@jit
def exp2(x):
    """2**x, float32, relative error below 2e-7; 0 for x < -126, +inf for x >= 128, NaN for NaN.

    The power of two is applied in two factors so that x in [127.5, 128) does not overflow early.
    """
    low = np.float32(-150.0) if x < np.float32(-150.0) else x
    clamped = np.float32(150.0) if low > np.float32(150.0) else low
    f, exponent = reduced(clamped)
    p = less_one(f) + np.float32(1.0)
    half = uint32(exponent + uint32(256)) >> uint32(1)
    half -= uint32(128)
    both = p * power_of_two(half) * power_of_two(exponent - half)
    return np.float32(0.0) if x < np.float32(-126.0) else both


@jit
def tanh(x):
    """tanh(x), float32, relative error below 3e-7; NaN for NaN.

    With e = exp(-2 |x|) - 1 = 2**n * (2**f - 1) + (2**n - 1) it is e / (e + 2), which cancels nowhere.
    """
    exponent = float_of(bits_of(x) & ~SIGN_BITS) * _MINUS_TWO_LOG2_E
    f, n = reduced(np.float32(-40.0) if exponent < np.float32(-40.0) else exponent)
    power = power_of_two(n)
    e = less_one(f) * power + (power - np.float32(1.0))
    magnitude = bits_of(e / (e + np.float32(2.0))) & ~SIGN_BITS
    return float_of(uint32(magnitude | (bits_of(x) & SIGN_BITS)))
