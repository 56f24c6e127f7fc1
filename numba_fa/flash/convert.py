"""16-bit floats as a scalar kernel meets them: patterns in memory, float32 in registers."""

from __future__ import annotations

from numba_fa.jit import device, float32, int32, uint16
from numba_fa.ptx.memory import bits_to_float, float_to_bits, float_to_half, half_to_float


@device
def _same(value):
    return value


@device
def _from_fp16(pattern):
    return half_to_float(int32(pattern))


@device
def _to_fp16(value):
    return uint16(float_to_half(value))


@device
def _from_bf16(pattern):
    return bits_to_float(int32(pattern) << 16)


@device
def _to_bf16(value):
    """Round to nearest even by adding just under half; integer arithmetic, for GPUs before bfloat16 had instructions."""
    bits = float_to_bits(value)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return uint16((0x7FFF if value != value else rounded) & 0xFFFF)


@device
def _to_fp32(value):
    return float32(value)


# dtype name -> (pointer token, load conversion, store conversion)
CONVERSIONS = {
    "fp32": ("float32*", _same, _to_fp32),
    "fp16": ("uint16*", _from_fp16, _to_fp16),
    "bf16": ("uint16*", _from_bf16, _to_bf16),
}
