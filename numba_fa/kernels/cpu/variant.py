"""The CPU kernels as dispatch sees them."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from functools import partial

import numpy as np

from numba_fa.dispatch.device import Device
from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.tuning import key_for
from numba_fa.dispatch.variant import BIASES, MASKS, Arrays, GradientArrays, Variant
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.problem import Problem

# NumPy has no bfloat16 of its own; the kernel converts the bit patterns itself.
_CARRIER = {"bfloat16": "uint16"}
# Numba has no float16 on the CPU.
_PATTERNS = {"bfloat16": "uint16", "float16": "uint16"}


def numpy_view(view: ArrayView, carrier: dict[str, str] = _CARRIER) -> np.ndarray:
    """The memory of a CPU ArrayView as a NumPy array; bfloat16 as uint16 bit patterns. Owns nothing."""
    dtype = np.dtype(carrier.get(view.dtype, view.dtype))
    strides = tuple(stride * view.itemsize for stride in view.strides)
    spans = [(length - 1) * stride for length, stride in zip(view.shape, strides, strict=True)]
    if 0 in view.shape:
        return np.empty(view.shape, dtype)
    before, after = -sum(min(span, 0) for span in spans), sum(max(span, 0) for span in spans)
    memory = (ctypes.c_char * (before + after + view.itemsize)).from_address(view.pointer - before)
    return np.ndarray(view.shape, dtype, memory, before, strides)


def numpy_arguments(arguments: tuple[object, ...]) -> tuple[object, ...]:
    """Launch arguments for the CPU: numbers as they are, arrays as NumPy's (16-bit floats as bit patterns)."""
    return tuple(numpy_view(a, _PATTERNS) if isinstance(a, ArrayView) else a for a in arguments)


def _arguments(problem: Problem, key: DispatchKey, device: Device, arrays: Arrays) -> tuple[object, ...]:
    views = [numpy_view(view) for view in (arrays.q, arrays.k, arrays.v, arrays.out)]
    return (*views, numpy_view(arrays.lse) if arrays.lse else None, problem.scale)


def _gradient_arguments(problem: Problem, key: DispatchKey, device: Device, arrays: GradientArrays) -> tuple[object, ...]:
    views = (arrays.q, arrays.k, arrays.v, arrays.out, arrays.dout, arrays.lse, arrays.dlse, arrays.dq, arrays.dk, arrays.dv)
    dbias = tuple(view and numpy_view(view) for view in arrays.dbias)
    for gradient in dbias:
        if gradient is not None:  # the kernel adds to it
            gradient[...] = 0
    dsink = arrays.dsink and numpy_view(arrays.dsink)
    return (*[view and numpy_view(view) for view in views], dsink, dbias, problem.scale)


def _grid(problem: Problem, key: DispatchKey, device: Device) -> tuple[int, int, int]:
    return (1, 1, 1)


FORWARD = Variant(
    name="forward-cpu",
    op="fwd",
    family="cpu",
    dtypes=("fp32", "fp16", "bf16"),
    head_dims=range(8, 257, 8),
    masks=MASKS,
    alignment=1,
    source="numba_fa.kernels.cpu.forward:forward_of",
    signature=lambda dtype: (),
    key_for=partial(key_for, "fwd", "cpu"),
    grid=_grid,
    arguments=_arguments,
    program=lambda problem: (numpy_arguments(problem.program_arguments),),
    programmed=True,
    biases=BIASES,
    sink=True,
)

# Measured with numba_fa.testing.cpu_speed's shapes: 2 to 8% faster than the forward's 128 x 64.
_BACKWARD_TILE = 64


def _backward_key(dtype: str, head_dim: int, mask: str, bias: str, head_dim_v: int = 0) -> DispatchKey:
    key = key_for("bwd", "cpu", dtype, head_dim, mask, bias, head_dim_v)
    return replace(key, block_m=_BACKWARD_TILE, block_n=_BACKWARD_TILE)


BACKWARD = replace(
    FORWARD,
    name="backward-cpu",
    op="bwd",
    task="bwd",
    source="numba_fa.kernels.cpu.backward:backward_of",
    key_for=_backward_key,
    arguments=_gradient_arguments,
)
