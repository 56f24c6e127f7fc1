"""Conversions between float32 and 16-bit storage, and exp2, in a form that LLVM can vectorise.

Half precision is handled as uint16 bit patterns because Numba has no float16 arithmetic on the CPU. Every
conversion is branch-free integer arithmetic plus at most one exact float32 subtraction on normal numbers, so
it is right for subnormals, infinities and NaN and does not depend on the processor's flush-to-zero mode.
Formats: IEEE 754-2019 binary16 and bfloat16 (the upper half of binary32); rounding to nearest, ties to even.
"""

import numpy as np
from numba import njit, uint16, uint32
from numba.core import types
from numba.extending import intrinsic

INFINITY_BITS = np.uint32(0x7F800000)
SIGN_BITS = np.uint32(0x80000000)
QUIET_BIT = np.uint32(0x00400000)
_ROUND_TO_INTEGER = np.float32(1.5 * 2**23)
# (2**x - 1) / x on [-0.5, 0.5]: least squares reweighted to equal ripple; relative error of 2**x
# below 2**-28 before rounding.
_EXP2 = tuple(np.float32(c) for c in (
    0.6931471824645996, 0.24022647738456726, 0.055503323674201965,
    0.00961843691766262, 0.0013398873852565885, 0.00015353361959569156))


def _bitcast(source, target, llvm_name):
    """An intrinsic that reads the 32 bits of a ``source`` scalar as a ``target`` scalar."""
    @intrinsic
    def cast(typing_context, value):
        def codegen(context, builder, signature, args):
            return builder.bitcast(args[0], context.get_value_type(target))
        return target(source), codegen
    cast.__doc__ = f"Bits of a {source} as {llvm_name}."
    return cast


bits_of = _bitcast(types.float32, types.uint32, "uint32")
float_of = _bitcast(types.uint32, types.float32, "float32")


@njit(error_model="numpy", fastmath={"contract"})
def exp2(x):
    """2**x, float32, relative error below 2e-7; 0 for x < -126, +inf for x >= 128, NaN for NaN.

    Range reduction to [-0.5, 0.5] and a polynomial, J.-M. Muller, "Elementary Functions", 3rd ed., sections
    11.1-11.2. The power of two is applied in two factors so that x in [127.5, 128) does not overflow early.
    """
    low = np.float32(-150.0) if x < np.float32(-150.0) else x
    clamped = np.float32(150.0) if low > np.float32(150.0) else low
    shifted = clamped + _ROUND_TO_INTEGER
    f = clamped - (shifted - _ROUND_TO_INTEGER)
    p = _EXP2[5]
    p = p * f + _EXP2[4]
    p = p * f + _EXP2[3]
    p = p * f + _EXP2[2]
    p = p * f + _EXP2[1]
    p = p * f + _EXP2[0]
    p = p * f + np.float32(1.0)
    exponent = bits_of(shifted) - bits_of(_ROUND_TO_INTEGER)
    half = uint32(exponent + uint32(256)) >> uint32(1)
    half -= uint32(128)
    first = float_of(uint32(uint32(half + uint32(127)) << uint32(23)))
    second = float_of(uint32(uint32(exponent - half + uint32(127)) << uint32(23)))
    return np.float32(0.0) if x < np.float32(-126.0) else p * first * second


@njit(error_model="numpy")
def float32_to_float32(x):
    """The identity, where the stored dtype is float32 already."""
    return x


@njit(error_model="numpy")
def bfloat16_to_float32(h):
    """float32 value of a bfloat16 bit pattern (uint16)."""
    return float_of(uint32(uint32(h) << uint32(16)))


@njit(error_model="numpy")
def float32_to_bfloat16(x):
    """bfloat16 bit pattern (uint16) nearest to x; NaN stays NaN, quiet."""
    bits = bits_of(x)
    rounded = uint32(bits + uint32(0x7FFF) + uint32((bits >> uint32(16)) & uint32(1)))
    is_nan = (bits & ~SIGN_BITS) > INFINITY_BITS
    return uint16((bits | QUIET_BIT if is_nan else rounded) >> uint32(16))


@njit(error_model="numpy")
def float16_to_float32(h):
    """float32 value of a binary16 bit pattern (uint16)."""
    wide = uint32(h)
    exponent = wide & uint32(0x7C00)
    magnitude = uint32((wide & uint32(0x7FFF)) << uint32(13))
    rebias = uint32(224) if exponent == uint32(0x7C00) else uint32(112)
    normal = uint32(magnitude + uint32(rebias << uint32(23)))
    # A subnormal is m * 2**-24: as 2**-14 + m * 2**-24 it is a normal float32, and the subtraction is exact.
    subnormal = float_of(uint32(magnitude + uint32(113 << 23))) - np.float32(2.0**-14)
    absolute = bits_of(subnormal) if exponent == uint32(0) else normal
    return float_of(uint32(absolute | uint32((wide & uint32(0x8000)) << uint32(16))))


@njit(error_model="numpy")
def float32_to_float16(x):
    """binary16 bit pattern (uint16) nearest to x; overflow gives infinity, NaN stays NaN, quiet."""
    bits = bits_of(x)
    sign = uint32((bits & SIGN_BITS) >> uint32(16))
    magnitude = uint32(bits & ~SIGN_BITS)
    odd = uint32((magnitude >> uint32(13)) & uint32(1))
    normal = uint32(magnitude - uint32(112 << 23) + uint32(0xFFF) + odd) >> uint32(13)
    # Below 2**-14 the unit is 2**-24, the last place of a float32 in [0.5, 1): adding 0.5 rounds there.
    subnormal = uint32(bits_of(float_of(magnitude) + np.float32(0.5)) - bits_of(np.float32(0.5)))
    finite = subnormal if magnitude < uint32(113 << 23) else normal
    half = uint32(0x7C00) if magnitude >= uint32(0x477FF000) else finite
    payload = uint32(magnitude >> uint32(13)) & uint32(0x1FF)
    half = uint32(0x7E00) | payload if magnitude > INFINITY_BITS else half
    return uint16(sign | half)


TO_FLOAT32 = {"fp32": float32_to_float32, "fp16": float16_to_float32, "bf16": bfloat16_to_float32}
FROM_FLOAT32 = {"fp32": float32_to_float32, "fp16": float32_to_float16, "bf16": float32_to_bfloat16}
