"""The Hopper kernels for gradients of biases' parameters as dispatch sees them, beside those of any GPU."""

from __future__ import annotations

from typing import Any

from numba_fa.dispatch.device import Device
from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.variant import GradientArrays, TensorMap
from numba_fa.kernels.common.gradient_variant import (
    BiasKernels,
    dense_grid,
    owned,
    parameter_part,
    parts_of,
    result_of,
    tiles_of,
)
from numba_fa.kernels.sm90.bias_shape import QUERIES, bias_key
from numba_fa.problem.problem import Problem
from numba_fa.tile.layout import ATOM_COLUMNS

# Tensor maps of q, k, v, dO; pointer to rows; the result in float32: here a bias's gradient with its four strides; heads,
# heads_kv, seqlen_q, seqlen_k, batch, and how many of batch, heads, queries and keys have elements of their own; scale.
DENSE_SIGNATURE = (*["tensor_map"] * 4, "pointer", "float32*", *["int64"] * 4, *["int32"] * 9, "float32")
# The same, and parts, (batch, heads, tiles, parameters); heads, heads_kv, seqlen_q, seqlen_k; scale.
RELATIVE_SIGNATURE = (*["tensor_map"] * 4, "pointer", "float32*", *["int32"] * 4, "float32")

HOPPER = BiasKernels(key_of=bias_key, queries=lambda key: QUERIES)


def _inputs(arrays: GradientArrays, key: DispatchKey) -> tuple[Any, ...]:
    boxes = ((arrays.q, QUERIES), (arrays.k, key.block_n), (arrays.v, key.block_n), (arrays.dout, QUERIES))
    return *[TensorMap(view, rows, ATOM_COLUMNS) for view, rows in boxes], arrays.rooms["rows"]


def _sizes(problem: Problem) -> tuple[int, ...]:
    return problem.heads, problem.heads_kv, problem.seqlen_q, problem.seqlen_k


def _dense(problem: Problem, key: DispatchKey, device: Device, arrays: GradientArrays) -> tuple[Any, ...]:
    result = result_of(arrays, key)
    return (
        *_inputs(arrays, key), result.pointer, *result.strides, *_sizes(problem), problem.batch, *owned(problem, key, 4),
        problem.scale,
    )  # fmt: skip


def _dense_grid(problem: Problem, key: DispatchKey, device: Device) -> tuple[int, int, int]:
    tiles, heads, batch = dense_grid(problem, key, (QUERIES, key.block_n))
    return min(tiles * heads * batch, device.multiprocessors), 1, 1


def _relative_grid(problem: Problem, key: DispatchKey, device: Device) -> tuple[int, int, int]:
    return tiles_of(problem.seqlen_q, QUERIES) * problem.heads * problem.batch, 1, 1


def _relative(problem: Problem, key: DispatchKey, device: Device, arrays: GradientArrays) -> tuple[Any, ...]:
    return *_inputs(arrays, key), parts_of(arrays, key), *_sizes(problem), problem.scale


PARAMETERS = (
    parameter_part(
        "bwd_dense", "sm90", "bias_gradients:make_dense_gradient", signature=lambda dtype: DENSE_SIGNATURE,
        grid=_dense_grid, arguments=_dense, programmed=True,
    ),
    parameter_part(
        "bwd_relative", "sm90", "bias_gradients:make_relative_gradient", signature=lambda dtype: RELATIVE_SIGNATURE,
        grid=_relative_grid, arguments=_relative, programmed=True,
    ),
)  # fmt: skip
