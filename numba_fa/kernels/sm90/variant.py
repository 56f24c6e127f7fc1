"""The Hopper forward as dispatch sees it."""

from __future__ import annotations

import math

from numba_fa.dispatch.device import Device
from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.tuning import for_length, key_for
from numba_fa.dispatch.variant import BIASES, MASKS, Arrays, TensorMap, Variant, position_limits
from numba_fa.problem.problem import Problem
from numba_fa.tile.arrangement import Arrangement, arrange
from numba_fa.tile.layout import ATOM_COLUMNS, round_up

SIGNATURE = (*["tensor_map"] * 4, "pointer", *["int32"] * 6, "float32")
# Where tiles are alike: keys and values of the heads that blocks work on together; of the 50 MB L2 of an H100 or H200, for
# Q and O flow through. Of short sequences a head by itself, all of whose few tiles want them at once: 1.00 to 1.02 times as
# fast (H200, 2026-11-27).
_L2_BYTES, _SHORT = 12 << 20, 2048
_LOG2_E = math.log2(math.e)
# Biases may be divided by the scale (`judge.py`), which must not overflow. Below this no score shows beside a bias.
_LEAST_SCALE = 1e-28


def _key_for(dtype: str, head_dim: int, mask: str, bias: str, head_dim_v: int = 0) -> DispatchKey:
    # wgmma sums 16 at a time; TMA fills with zeros what a narrower head lacks.
    return key_for("fwd", "sm90", dtype, round_up(head_dim, 16), mask, bias, round_up(head_dim_v, 16))


def _grid(problem: Problem, key: DispatchKey, device: Device) -> tuple[int, int, int]:
    """Persistent blocks, one an SM, or one tile a block, which the hardware balances."""
    tiles = -(-problem.seqlen_q // key.block_m) * problem.heads * problem.batch
    persistent = _arrangement(problem, key, device).persistent
    return (min(tiles, device.multiprocessors) if persistent else tiles, 1, 1)


def _arrangement(problem: Problem, key: DispatchKey, device: Device) -> Arrangement:
    """How much a mask hides, and where, only its arrays and functions may know; what is best under a causal one, whose
    tiles differ most, is taken to be best under any but those that make tiles alike."""
    heads, sharing = problem.heads * problem.batch, problem.heads // problem.heads_kv
    kv_bytes = 2 * problem.seqlen_k * (problem.head_dim + problem.head_dim_v)
    if key.mask in ("full", "window"):
        room = 0 if problem.seqlen_k <= _SHORT else _L2_BYTES
        return Arrangement(min(max(room // kv_bytes, 1) * sharing, heads), True)
    # Beside its tiles of keys each tile of queries costs about 1.5 more: its loads, its epilogue.
    first = 2.5 + max(0, problem.seqlen_k - problem.seqlen_q) / key.block_m
    return arrange(-(-problem.seqlen_q // key.block_m), heads, sharing, kv_bytes, first, device.multiprocessors)


def _arguments(problem: Problem, key: DispatchKey, device: Device, arrays: Arrays) -> tuple[object, ...]:
    return (
        TensorMap(arrays.q, 64, ATOM_COLUMNS),
        TensorMap(arrays.k, key.block_n, ATOM_COLUMNS),
        TensorMap(arrays.v, key.block_n, ATOM_COLUMNS),
        TensorMap(arrays.out, 64, ATOM_COLUMNS),
        arrays.lse_pointer,
        problem.heads,
        problem.heads_kv,
        problem.batch,
        problem.seqlen_q,
        problem.seqlen_k,
        _arrangement(problem, key, device).together,
        max(problem.scale, _LEAST_SCALE) if problem.biases else problem.scale * _LOG2_E,
    )


def _limits(problem: Problem) -> list[str]:
    empty = [] if problem.seqlen_k else ["seqlen_k is 0, and no tensor map describes an empty array"]
    return empty + position_limits(problem)


FORWARD = Variant(
    name="forward-sm90",
    op="fwd",
    family="sm90",
    dtypes=("fp16", "bf16"),
    head_dims=range(8, 257, 8),
    masks=MASKS,
    alignment=16,
    source="numba_fa.kernels.sm90.forward:make_forward",
    signature=lambda dtype: SIGNATURE,
    key_for=_key_for,
    grid=_grid,
    arguments=_arguments,
    limits=_limits,
    for_length=for_length,
    biases=BIASES,
    sink=True,
    programmed=True,
)
