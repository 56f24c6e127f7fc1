"""The one seam to numba.cuda: what kernels may use of it. A successor compiler replaces this file and `ptx/core.py`."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.datamodel import models
from numba.cuda.extending import intrinsic, make_attribute_wrapper, overload, overload_attribute, register_model

__all__ = [
    "TOKENS", "KernelSource", "TensorMapType", "cuda", "device", "float32", "int32", "int64", "uint16", "uint32",
    "uint64", "uint8",
]  # fmt: skip

float32, int32, int64, uint16, uint32, uint64, uint8 = (
    types.float32, types.int32, types.int64, types.uint16, types.uint32, types.uint64, types.uint8,
)  # fmt: skip


class TensorMapType(types.Type):
    """A TMA descriptor (128 bytes) passed by value; in a kernel only its address is of use (`ptx.tensor_map`)."""

    def __init__(self) -> None:
        super().__init__("TensorMap")


@register_model(TensorMapType)
class _TensorMapModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: TensorMapType) -> None:
        super().__init__(manager, numba_type, ir.ArrayType(ir.IntType(64), 16).as_pointer())


class HalfArrayType(types.Type):
    """An array of 16-bit floats whose elements are read as float32; in memory bit patterns, passed like any array.

    Numba's own bfloat16 calls code that is not linked here, and its float16 does not mix with float32.
    """

    def __init__(self, dtype: str, axes: int) -> None:
        self.element, self.patterns = dtype, types.Array(types.uint16, axes, "A")
        super().__init__(f"HalfArray({dtype}, {axes})")


@register_model(HalfArrayType)
class _HalfArrayModel(models.StructModel):
    def __init__(self, manager: Any, numba_type: HalfArrayType) -> None:
        super().__init__(manager, numba_type, [("patterns", numba_type.patterns)])


make_attribute_wrapper(HalfArrayType, "patterns", "patterns")


@intrinsic
def _widen(typing_context, array, pattern):
    """The float32 that a bit pattern of an array stands for."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pattern = arguments[1]
        if array.element == "float16":
            return builder.fpext(builder.bitcast(pattern, ir.HalfType()), ir.FloatType())
        high = builder.shl(builder.zext(pattern, ir.IntType(32)), ir.IntType(32)(16))
        return builder.bitcast(high, ir.FloatType())

    return types.float32(array, types.uint16), generate


@overload(operator.getitem, target="cuda")
def _read_half(array, index):
    return (lambda array, index: _widen(array, array.patterns[index])) if isinstance(array, HalfArrayType) else None


@overload_attribute(HalfArrayType, "shape", target="cuda")
def _half_shape(array):
    return lambda array: array.patterns.shape


class _Tokens(dict[str, Any]):
    """Types by token; those of "array:<NumPy's dtype name>:<axes>" are made when asked for."""

    def __missing__(self, token: str) -> Any:
        word, _, rest = token.partition(":")
        dtype, _, axes = rest.partition(":")
        if word != "array" or not axes.isdigit() or not isinstance(getattr(types, dtype, None), types.Type):
            raise KeyError(f"{token!r} is no kind of kernel parameter")
        if dtype in ("float16", "bfloat16"):
            return HalfArrayType(dtype, int(axes))
        return types.Array(getattr(types, dtype), int(axes), "A")


# What a kernel's parameter may be, by the name that its KernelSource gives. The host packs arguments by the same names.
# An array is passed as Numba lays it out: 0, 0, elements, bytes of one, address, shape, strides in bytes; 8 bytes each.
TOKENS: dict[str, Any] = _Tokens({
    "tensor_map": TensorMapType(),
    "pointer": types.int64,
    "int64": types.int64,
    "int32": types.int32,
    "float32": types.float32,
    "float32*": types.CPointer(types.float32),
    "uint16*": types.CPointer(types.uint16),
})  # fmt: skip


@dataclass(frozen=True)
class KernelSource:
    """What a factory returns: the Python function and all that compiling and launching it needs.

    signature: TOKENS names of the parameters. threads: of a block. shared_bytes: dynamic shared memory of a block.
    program: TOKENS names of what mask and biases pass, which the function takes as one tuple, its last parameter; a
    function may take an empty one.
    """

    function: Callable[..., None]
    signature: tuple[str, ...]
    threads: int
    shared_bytes: int
    program: tuple[str, ...] = ()

    @property
    def types(self) -> list[Any]:
        """The types of the parameters."""
        own = [TOKENS[token] for token in self.signature]
        takes_program = self.program or self.function.__code__.co_argcount > len(own)
        return [*own, types.Tuple([TOKENS[token] for token in self.program])] if takes_program else own


def device(function: Callable[..., Any]) -> Any:
    """Make a Python function callable from kernels, always inlined."""
    return cuda.jit(function, device=True, forceinline=True)
