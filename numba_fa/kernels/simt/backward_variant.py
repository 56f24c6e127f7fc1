"""The portable backward as dispatch sees it: its kernels with their tiles, grids and arguments."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from numba_fa.dispatch.device import Device
from numba_fa.dispatch.key import NO_BIAS, DispatchKey
from numba_fa.dispatch.variant import GradientArrays, Variant, Wanted
from numba_fa.kernels.common.gradient_variant import parameter_rooms, parameter_stages
from numba_fa.kernels.common.signatures import PREPROCESS_SIGNATURE, keys_signature, queries_signature
from numba_fa.kernels.simt.variant import FORWARD
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.problem import Problem

# head_dim up to -> queries, keys of a tile, of both kernels: what 64 KB of shared memory hold, without spills.
TILES = {64: (32, 64), 128: (32, 32), 192: (16, 32), 256: (16, 16)}
_QKV = frozenset("qkv")


def main_key(
    dtype: str, head_dim: int, mask: str, bias: str = NO_BIAS, head_dim_v: int = 0, op: str = "bwd"
) -> DispatchKey:
    """The key of a kernel with the tile for a head_dim, the wider where values have another; by default of the one that
    computes dK and dV."""
    tile = next(tile for most, tile in TILES.items() if max(head_dim, head_dim_v) <= most)
    return DispatchKey(op, "simt", dtype, head_dim, mask, *tile, 1, bias, head_dim_v)


def stages(key: DispatchKey, wanted: Wanted = _QKV) -> tuple[DispatchKey, ...]:
    """The keys of the kernels in order: the preprocess, and those that make what is wanted."""
    before = replace(key, op="bwd_pre", mask="full", bias=NO_BIAS)
    queries = (replace(key, op="bwd_dq"),) if "q" in wanted else ()
    return (before, *queries, *((key,) if wanted & {"k", "v"} else ()), *parameter_stages(key, wanted))


def rooms(problem: Problem, key: DispatchKey, wanted: Wanted = _QKV) -> dict[str, int]:
    """rows: LSE and delta of every query; and what the parameters' gradients take."""
    tiles = problem.batch * problem.heads * -(-problem.seqlen_q // key.block_m)
    return {"rows": tiles * 8 * key.block_m, **parameter_rooms(problem, key, wanted)}


def _query_grid(problem: Problem, key: DispatchKey, device: Device) -> tuple[int, int, int]:
    return (-(-problem.seqlen_q // key.block_m), problem.heads, problem.batch)


def _key_grid(problem: Problem, key: DispatchKey, device: Device) -> tuple[int, int, int]:
    return (max(-(-problem.seqlen_k // key.block_n), 1), problem.heads_kv, problem.batch)


def _strides(views: tuple[ArrayView, ...]) -> list[int]:
    return [stride for view in views for stride in view.strides[:3]]


def _preprocess(problem: Problem, key: DispatchKey, device: Device, arrays: GradientArrays) -> tuple[Any, ...]:
    strides = [stride * arrays.out.itemsize for stride in _strides((arrays.out, arrays.dout))]
    return (
        arrays.out.pointer, arrays.dout.pointer, arrays.lse.pointer, arrays.dlse_pointer, arrays.rooms["rows"], 0,
        *strides, problem.heads, problem.seqlen_q, problem.head_dim_v, 0, 0,
    )  # fmt: skip


def _queries(problem: Problem, key: DispatchKey, device: Device, arrays: GradientArrays) -> tuple[Any, ...]:
    assert arrays.dq is not None
    views = (arrays.q, arrays.k, arrays.v, arrays.dout, arrays.dq)
    return (
        *[view.pointer for view in views], arrays.rooms["rows"], *_strides(views), problem.heads, problem.heads_kv,
        problem.seqlen_q, problem.seqlen_k, problem.scale,
    )  # fmt: skip


def _keys(problem: Problem, key: DispatchKey, device: Device, arrays: GradientArrays) -> tuple[Any, ...]:
    # What is not wanted is not written: k and v stand in.
    views = (arrays.q, arrays.k, arrays.v, arrays.dout, arrays.dk or arrays.k, arrays.dv or arrays.v)
    return (
        *[view.pointer for view in views], arrays.rooms["rows"], *_strides(views), problem.heads, problem.heads_kv,
        problem.seqlen_q, problem.seqlen_k, int(arrays.dk is not None), int(arrays.dv is not None), problem.scale,
    )  # fmt: skip


def _part(op: str, source: str, **facts: Any) -> Variant:
    """A kernel that nobody asks for by itself."""
    return Variant(
        name=f"{op.replace('_', '-')}-simt", op=op, family="simt", dtypes=(), head_dims=range(0), masks=(), alignment=1,
        source=f"numba_fa.kernels.{source}", key_for=partial(main_key, op=op), grid=_query_grid, **facts,
    )  # fmt: skip


PREPROCESS = _part(
    "bwd_pre", "common.preprocess:make_preprocess", signature=lambda dtype: PREPROCESS_SIGNATURE, arguments=_preprocess
)
QUERIES = _part(
    "bwd_dq", "simt.backward_queries:make_backward_queries", signature=queries_signature, arguments=_queries,
    programmed=True,
)  # fmt: skip

BACKWARD = replace(
    FORWARD,
    name="backward-simt",
    op="bwd",
    task="bwd",
    source="numba_fa.kernels.simt.backward_keys:make_backward_keys",
    signature=keys_signature,
    key_for=main_key,
    grid=_key_grid,
    arguments=_keys,
    stages=stages,
    rooms=rooms,
)
