"""The element types attention knows, and the names that array libraries give them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DType:
    """An element type. `name` is its short name in slugs, `array_name` what NumPy, torch, CuPy and JAX call it."""

    name: str
    array_name: str
    itemsize: int


FP32 = DType("fp32", "float32", 4)
FP16 = DType("fp16", "float16", 2)
BF16 = DType("bf16", "bfloat16", 2)
DTYPES = {dtype.array_name: dtype for dtype in (FP32, FP16, BF16)}

# Real formats that no kernel computes yet: asking for one is not a mistake, so it is told apart from int or complex.
LATER = {
    "float64": DType("fp64", "float64", 8),
    "float8_e4m3fn": DType("e4m3", "float8_e4m3fn", 1),
    "float8_e5m2": DType("e5m2", "float8_e5m2", 1),
}


def dtype_named(array_name: str) -> DType | None:
    """The DType that array libraries call `array_name`, or None when attention means nothing for it."""
    return DTYPES.get(array_name) or LATER.get(array_name)
