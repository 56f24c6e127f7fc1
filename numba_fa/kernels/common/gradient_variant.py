"""The gradients of biases' parameters and of sink_logits as dispatch sees them: kernels beside any GPU's backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from numba_fa.dispatch.device import Device
from numba_fa.dispatch.key import NO_BIAS, DispatchKey
from numba_fa.dispatch.variant import GradientArrays, Variant, Wanted
from numba_fa.kernels.common.signatures import SINK_SIGNATURE, SUM_SIGNATURE, dense_signature, relative_signature
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.problem import Problem

_TILES = {64: (32, 64), 224: (32, 32), 256: (32, 16)}  # head_dim up to -> queries, keys


def bias_tile(key: DispatchKey) -> tuple[int, int]:
    """Queries and keys of the tiles that the biases' kernels compute, whatever the tiles of the backward beside them."""
    return next(tile for most, tile in _TILES.items() if key.widest <= most)


def bias_number(key: DispatchKey) -> int:
    """Which bias a kernel is of: the number that its op ends in."""
    return int(key.op.lstrip("abcdefghijklmnopqrstuvwxyz_"))


def parameter_count(name: str) -> int:
    """A head's parameters in a bias that depends on positions alone: one slope, or T5's buckets."""
    return int(name.split("_")[1]) if name.startswith("t5") else 1


@dataclass(frozen=True)
class BiasKernels:
    """A family's kernels of biases' parameters, ops "bwd_dense<n>" and "bwd_relative<n>".

    key_of(main kernel's key, op): the key of one. queries(key): queries a tile of theirs, of either's key.
    """

    key_of: Callable[[DispatchKey, str], DispatchKey]
    queries: Callable[[DispatchKey], int]


PORTABLE = BiasKernels(
    key_of=lambda key, op: replace(key, op=op, family="common", block_n=1, stages=1), queries=lambda key: bias_tile(key)[0]
)


def parameter_stages(key: DispatchKey, wanted: Wanted, kernels: BiasKernels = PORTABLE) -> tuple[DispatchKey, ...]:
    """Keys of the kernels for the wanted of "bias0" ... and "sink", to run after the preprocess of a main kernel's key."""
    found = []
    for n, name in enumerate(key.bias.split("+")):
        if f"bias{n}" in wanted:
            op = "bwd_dense" if name.startswith("dense") else "bwd_relative"
            found.append(kernels.key_of(key, f"{op}{n}"))
            if op == "bwd_relative":
                found.append(_plain_key(f"bwd_sum{n}", kernels.queries(key)))
    return (*found, _plain_key("bwd_sink", key.block_m)) if "sink" in wanted else tuple(found)


def parameter_rooms(
    problem: Problem, key: DispatchKey, wanted: Wanted, kernels: BiasKernels = PORTABLE
) -> dict[str, int]:
    """Bytes of what these kernels keep between them, by name; key: the main kernel's."""
    blocks = problem.batch * problem.heads * tiles_of(problem.seqlen_q, kernels.queries(key))
    return {
        f"parts{n}": 4 * blocks * parameter_count(name)
        for n, name in enumerate(key.bias.split("+"))
        if f"bias{n}" in wanted and not name.startswith("dense")
    }


def _plain_key(op: str, block_m: int) -> DispatchKey:
    return DispatchKey(op, "common", "fp32", 0, "full", block_m, 1, 1, NO_BIAS)


def tiles_of(length: int, size: int) -> int:
    """Tiles of `size` in a length; one at least."""
    return max(-(-length // size), 1)


def owned(problem: Problem, key: DispatchKey, axes: int) -> tuple[int, ...]:
    """Lengths of the axes of a bias's own array: 1 where it is broadcast."""
    shape = problem.biases[bias_number(key)].arrays[0][1].shape
    return (1,) * (axes - len(shape)) + tuple(shape)


def _inputs(arrays: GradientArrays) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """(pointers, strides) of what scores and their gradients are computed from."""
    views = (arrays.q, arrays.k, arrays.v, arrays.dout)
    return tuple(view.pointer for view in views), tuple(stride for view in views for stride in view.strides[:3])


def _sizes(problem: Problem) -> tuple[int, ...]:
    return problem.heads, problem.heads_kv, problem.seqlen_q, problem.seqlen_k, problem.head_dim, problem.head_dim_v


def result_of(arrays: GradientArrays, key: DispatchKey) -> ArrayView:
    """The gradient of the parameter that a kernel is of."""
    view = arrays.dbias[bias_number(key)]
    assert view is not None
    return view


def dense_grid(problem: Problem, key: DispatchKey, tile: tuple[int, int]) -> tuple[int, int, int]:
    """A block a tile of queries and keys of the bias's own array, each of its heads and batch indices."""
    batch, heads, queries, keys = owned(problem, key, 4)
    return tiles_of(queries, tile[0]) * tiles_of(keys, tile[1]), heads, batch


def _dense(problem: Problem, key: DispatchKey, device: Device, arrays: GradientArrays) -> tuple[Any, ...]:
    (pointers, strides), result = _inputs(arrays), result_of(arrays, key)
    return (
        *pointers, arrays.rooms["rows"], result.pointer, *strides, *result.strides,
        *_sizes(problem), problem.batch, *owned(problem, key, 4), problem.scale,
    )  # fmt: skip


def parts_of(arrays: GradientArrays, key: DispatchKey) -> Any:
    """Where a kernel's blocks leave what they found."""
    return arrays.rooms[f"parts{bias_number(key)}"]


def _relative_grid(problem: Problem, key: DispatchKey, device: Device) -> tuple[int, int, int]:
    return tiles_of(problem.seqlen_q, bias_tile(key)[0]), problem.heads, problem.batch


def _relative(problem: Problem, key: DispatchKey, device: Device, arrays: GradientArrays) -> tuple[Any, ...]:
    pointers, strides = _inputs(arrays)
    return *pointers, arrays.rooms["rows"], parts_of(arrays, key), *strides, *_sizes(problem), problem.scale


def _sum_grid(problem: Problem, key: DispatchKey, device: Device) -> tuple[int, int, int]:
    bias = problem.biases[bias_number(key)]
    return parameter_count(bias.name), problem.heads, owned(problem, key, 2)[0] if bias.kind == "alibi" else 1


def _sum(problem: Problem, key: DispatchKey, device: Device, arrays: GradientArrays) -> tuple[Any, ...]:
    view, number = result_of(arrays, key), bias_number(key)
    # Slopes are (batch, heads), a table (buckets, heads).
    other, head = view.strides
    strides = (other, head, 0) if problem.biases[number].kind == "alibi" else (0, head, other)
    tiles = tiles_of(problem.seqlen_q, key.block_m)
    return parts_of(arrays, key), view.pointer, *strides, problem.batch, tiles


def _sink(problem: Problem, key: DispatchKey, device: Device, arrays: GradientArrays) -> tuple[Any, ...]:
    sink, result = problem.sink_logits, arrays.dsink
    assert sink is not None and result is not None
    return (
        sink.pointer, result.pointer, arrays.rooms["rows"], sink.strides[0], result.strides[0], problem.heads, problem.batch,
        problem.seqlen_q,
    )  # fmt: skip


def _unused(*_: Any) -> Any:
    raise NotImplementedError("kernels of parameters' gradients get their keys from `parameter_stages`")


def parameter_part(op: str, family: str, source: str, **facts: Any) -> Variant:
    """A kernel that nobody asks for by itself."""
    return Variant(
        name=f"{op}-{family}".replace("_", "-"), op=op, family=family, dtypes=(), head_dims=range(0), masks=(), alignment=1,
        source=f"numba_fa.kernels.{family}.{source}", key_for=_unused, **facts,
    )  # fmt: skip


PARAMETERS = (
    parameter_part(
        "bwd_dense", "common", "bias_gradients:make_dense_gradient", signature=dense_signature, arguments=_dense,
        grid=lambda problem, key, device: dense_grid(problem, key, bias_tile(key)), programmed=True,
    ),
    parameter_part(
        "bwd_relative", "common", "bias_gradients:make_relative_gradient", signature=relative_signature,
        grid=_relative_grid, arguments=_relative, programmed=True,
    ),
    parameter_part(
        "bwd_sum", "common", "bias_gradients:make_bias_sum", signature=lambda dtype: SUM_SIGNATURE, grid=_sum_grid,
        arguments=_sum,
    ),
    parameter_part(
        "bwd_sink", "common", "sink_gradient:make_sink_gradient", signature=lambda dtype: SINK_SIGNATURE,
        grid=lambda problem, key, device: (problem.heads, 1, 1), arguments=_sink,
    ),
)  # fmt: skip
