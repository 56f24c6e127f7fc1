"""Conversions between float32 and 16-bit storage in a form that LLVM can vectorise.

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
