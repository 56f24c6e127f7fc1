"""The one seam to numba.cuda: what kernels may use of it. A successor compiler replaces this file and `ptx/core.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.datamodel import models
from numba.cuda.extending import register_model

__all__ = [
    "TOKENS", "KernelSource", "TensorMapType", "cuda", "device", "float32", "int32", "int64", "uint16", "uint32", "uint8",
]  # fmt: skip

float32, int32, int64, uint16, uint32, uint8 = (
    types.float32, types.int32, types.int64, types.uint16, types.uint32, types.uint8,
)  # fmt: skip


class TensorMapType(types.Type):
    """A TMA descriptor (128 bytes) passed by value; in a kernel only its address is of use (`ptx.tensor_map`)."""

    def __init__(self) -> None:
        super().__init__("TensorMap")


@register_model(TensorMapType)
class _TensorMapModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: TensorMapType) -> None:
        super().__init__(manager, numba_type, ir.ArrayType(ir.IntType(64), 16).as_pointer())


# What a kernel's parameter may be, by the name that its KernelSource gives. The host packs arguments by the same names.
TOKENS: dict[str, Any] = {
    "tensor_map": TensorMapType(),
    "pointer": types.int64,
    "int64": types.int64,
    "int32": types.int32,
    "float32": types.float32,
    "float32*": types.CPointer(types.float32),
    "uint16*": types.CPointer(types.uint16),
}


@dataclass(frozen=True)
class KernelSource:
    """What a factory returns: the Python function and all that compiling and launching it needs.

    signature: TOKENS names of the parameters. threads: of a block. shared_bytes: dynamic shared memory of a block.
    program: kinds of the mask's and biases' arguments, "int32", "float32" or "array:<dtype>:<axes>"; the function takes
    them as one tuple after its other parameters.
    """

    function: Callable[..., None]
    signature: tuple[str, ...]
    threads: int
    shared_bytes: int
    program: tuple[str, ...] = ()


def device(function: Callable[..., Any]) -> Any:
    """Make a Python function callable from kernels, always inlined."""
    return cuda.jit(function, device=True, forceinline=True)
