"""The Hopper forward as dispatch sees it."""

from __future__ import annotations

import math

from numba_fa.dispatch.device import Device
from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.tuning import for_length, key_for
from numba_fa.dispatch.variant import BIASES, MASKS, Arrays, TensorMap, Variant, position_limits
from numba_fa.problem.problem import Problem
from numba_fa.tile.layout import ATOM_COLUMNS, round_up
from numba_fa.tile.scheduler import balance

SIGNATURE = (*["tensor_map"] * 4, "pointer", *["int32"] * 6, "float32")
# Keys and values of the heads that blocks work on together; of the 50 MB L2 of an H100 or H200, for Q and O flow through.
_L2_BYTES = 12 << 20
# The same of short sequences, where a head's keys and values are wanted at once by all of its few tiles: 1.00 to 1.14 times
# as fast at head_dim 128 and 256 up to this length, 0.96 to 0.99 at head_dim 64 (H200, 2026-11-27).
_SHORT, _SHORT_BYTES = 2048, 1 << 20
# Below this, uneven blocks lose more than overlapping epilogues with loads gains (docs/findings/0002).
_EVEN = 0.95
_LOG2_E = math.log2(math.e)
# Biases may be divided by the scale (`judge.py`), which must not overflow. Below this no score shows beside a bias.
_LEAST_SCALE = 1e-28


def _key_for(dtype: str, head_dim: int, mask: str, bias: str, head_dim_v: int = 0) -> DispatchKey:
    # wgmma sums 16 at a time; TMA fills with zeros what a narrower head lacks.
    return key_for("fwd", "sm90", dtype, round_up(head_dim, 16), mask, bias, round_up(head_dim_v, 16))


def _grid(problem: Problem, key: DispatchKey, device: Device) -> tuple[int, int, int]:
    """Persistent blocks, one an SM, while their work is even; else one tile a block, which the hardware balances.

    How much a mask hides, and where, only its arrays and functions may know; what is even under a causal one, whose
    tiles differ most, is taken to be even under any.
    """
    tiles, heads = -(-problem.seqlen_q // key.block_m), problem.heads * problem.batch
    blocks = min(tiles * heads, device.multiprocessors)
    if key.mask not in ("full", "window"):
        # Beside its tiles of keys each tile of queries costs about 1.5 more: its loads, its epilogue.
        first = 2.5 + max(0, problem.seqlen_k - problem.seqlen_q) / key.block_m
        if balance(tiles, heads, _together(problem), blocks, first) < _EVEN:
            blocks = tiles * heads
    return (blocks, 1, 1)


def _arguments(problem: Problem, key: DispatchKey, arrays: Arrays) -> tuple[object, ...]:
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
        _together(problem),
        max(problem.scale, _LEAST_SCALE) if problem.biases else problem.scale * _LOG2_E,
    )


def _together(problem: Problem) -> int:
    """Heads whose keys and values fit their part of L2 at once; heads that share them count once."""
    kv_bytes = 2 * problem.seqlen_k * (problem.head_dim + problem.head_dim_v)
    room = _SHORT_BYTES if problem.seqlen_k <= _SHORT and problem.head_dim > 64 else _L2_BYTES
    sharing = problem.heads // problem.heads_kv
    return min(max(room // kv_bytes, 1) * sharing, problem.heads * problem.batch)


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
