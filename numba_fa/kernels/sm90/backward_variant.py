"""The Hopper backward as dispatch sees it: its three kernels with their tiles, grids and arguments."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from numba_fa.dispatch.device import Device
from numba_fa.dispatch.key import NO_BIAS, DispatchKey
from numba_fa.dispatch.variant import GradientArrays, TensorMap, Variant, Wanted
from numba_fa.kernels.common.gradient_variant import parameter_rooms, parameter_stages
from numba_fa.kernels.common.signatures import PREPROCESS_SIGNATURE
from numba_fa.kernels.sm90.backward_shape import BackwardShape
from numba_fa.kernels.sm90.gradient_variant import HOPPER
from numba_fa.kernels.sm90.variant import FORWARD
from numba_fa.problem.arrays import ArrayView
from numba_fa.tile.layout import ATOM_COLUMNS, round_up

# head_dim up to -> block_m, block_n, stages; and where there is a bias, and where there are more or larger ones,
# whose derivatives take registers
TILES = {64: (128, 128, 2), 128: (64, 128, 2), 256: (64, 64, 2)}
BIASED_TILES = {64: (64, 128, 2), 128: (64, 128, 2), 256: (64, 64, 2)}
LADEN_TILES = {64: (64, 128, 2), 256: (64, 64, 2)}

MAIN_SIGNATURE = (*["tensor_map"] * 6, *["pointer"] * 3, *["int32"] * 6, "float32")
FINISH_SIGNATURE = ("tensor_map", "pointer", "int32", "float32")
_QKV = frozenset("qkv")


def main_key(
    dtype: str, head_dim: int, mask: str, bias: str = NO_BIAS, head_dim_v: int = 0, op: str = "bwd"
) -> DispatchKey:
    """The main kernel's key with the tile for a head_dim; for the wider, where values have another."""
    head_dim, head_dim_v = round_up(head_dim, 16), round_up(head_dim_v, 16)
    biases = [name for name in bias.split("+") if name not in (NO_BIAS, "sink")]
    bent = biases and biases[0].startswith("t5") and op != "bwd"  # with tickets its 128 keys spill 36 to 44 bytes
    laden = len(biases) > 1 or biases and mask not in ("full", "causal") or bent
    tiles = LADEN_TILES if laden else BIASED_TILES if biases else TILES
    tile = next(tile for most, tile in tiles.items() if max(head_dim, head_dim_v) <= most)
    return DispatchKey(op, "sm90", dtype, head_dim, mask, *tile, bias, head_dim_v)


def stages(key: DispatchKey, wanted: Wanted = _QKV) -> tuple[DispatchKey, ...]:
    """The keys of the kernels in order; of mask and biases all but the main one know nothing."""
    before, after = (replace(key, op=op, mask="full", bias=NO_BIAS) for op in ("bwd_pre", "bwd_fin"))
    main = (key,) if wanted & _QKV else ()
    return (before, *main, *((after,) if "q" in wanted else ()), *parameter_stages(key, wanted, HOPPER))


def rooms(problem: Any, key: DispatchKey, wanted: Wanted = _QKV) -> dict[str, int]:
    """rows: LSE and delta of every query; sums: dQ in float32; tickets: where the order of sums matters, one a tile; and
    what the parameters' gradients take."""
    tiles = problem.batch * problem.heads * -(-problem.seqlen_q // key.block_m)
    found = {"rows": tiles * 8 * key.block_m, **parameter_rooms(problem, key, wanted, HOPPER)}
    if wanted & _QKV:
        found["sums"] = tiles * sum(BackwardShape(key).dq_bytes)
        if BackwardShape(key).ordered:
            found["tickets"] = tiles * 4
    return found


def _query_grid(problem: Any, key: DispatchKey, device: Device) -> tuple[int, int, int]:
    return (-(-problem.seqlen_q // key.block_m), problem.heads, problem.batch)


def _strides(view: ArrayView) -> tuple[int, ...]:
    """Bytes from batch index to batch index, from position to position, from head to head."""
    return tuple(view.strides[axis] * view.itemsize for axis in (0, 1, 2))


def _preprocess(problem: Any, key: DispatchKey, device: Device, arrays: GradientArrays) -> tuple[Any, ...]:
    rooms = arrays.rooms
    return (
        arrays.out.pointer, arrays.dout.pointer, arrays.lse.pointer, arrays.dlse_pointer, rooms["rows"],
        rooms.get("sums", 0), *_strides(arrays.out), *_strides(arrays.dout), problem.heads, problem.seqlen_q,
        problem.head_dim_v, sum(BackwardShape(key).dq_bytes), rooms.get("tickets", 0),
    )  # fmt: skip


def _main(problem: Any, key: DispatchKey, device: Device, arrays: GradientArrays) -> tuple[Any, ...]:
    boxes = [(arrays.q, key.block_m), (arrays.k, key.block_n), (arrays.v, key.block_n), (arrays.dout, key.block_m),
             (arrays.dk, 64), (arrays.dv, 64)]  # fmt: skip
    rooms = arrays.rooms
    return (
        *[TensorMap(view, rows, ATOM_COLUMNS) for view, rows in boxes if view],
        rooms["rows"], rooms["sums"], rooms.get("tickets", 0),
        problem.heads, problem.heads_kv, problem.batch, problem.seqlen_q, problem.seqlen_k, _together(problem, key, device),
        problem.scale,
    )  # fmt: skip


def _together(problem: Any, key: DispatchKey, device: Device) -> int:
    """Key heads whose tiles of keys go side by side.

    Where dQ is summed up in an order, so many that a tile's successor starts two waves of blocks later: time for what is
    handed on to arrive, about a step. The first tiles first, a head's by themselves, took 1.2 to 2.4 times the time of sums
    in any order (H200, 2026-11-27; findings 0013). Else, where tiles differ in work, a wave, so that the last wave has
    short ones to even out with: 1.00 to 1.04 times as fast as a head by itself from 2048 keys on; 8 at most, since 33
    heads of 512 keys took 1.06 to 1.09 times the time. Where tiles are alike a head by itself is up to 1.02 times as
    fast (findings 0017).
    """
    tiles = -(-problem.seqlen_k // key.block_n)
    if BackwardShape(key).ordered:
        return max(2 * device.multiprocessors // tiles, 1)
    return 1 if key.mask in ("full", "window") else min(max(device.multiprocessors // tiles, 1), 8)


def _main_grid(problem: Any, key: DispatchKey, device: Device) -> tuple[int, int, int]:
    """Persistent blocks, one an SM, where their work is even; else a block a tile of keys, which the hardware balances."""
    blocks = -(-problem.seqlen_k // key.block_n) * problem.heads_kv * problem.batch
    even = key.mask == "full" and not BackwardShape(key).ordered
    return (min(blocks, device.multiprocessors) if even else blocks, 1, 1)


def _finish(problem: Any, key: DispatchKey, device: Device, arrays: GradientArrays) -> tuple[Any, ...]:
    assert arrays.dq is not None
    return TensorMap(arrays.dq, 64, ATOM_COLUMNS), arrays.rooms["sums"], problem.heads, problem.scale


def _part(op: str, source: str, **facts: Any) -> Variant:
    """A kernel that nobody asks for by itself."""
    return Variant(
        name=f"{op.replace('_', '-')}-sm90", op=op, family="sm90", dtypes=(), head_dims=range(0), masks=(), alignment=16,
        source=f"numba_fa.kernels.{source}", key_for=partial(main_key, op=op), **facts,
    )  # fmt: skip


PREPROCESS = _part(
    "bwd_pre", "common.preprocess:make_preprocess", signature=lambda dtype: PREPROCESS_SIGNATURE, grid=_query_grid,
    arguments=_preprocess,
)  # fmt: skip
FINISH = _part(
    "bwd_fin", "sm90.backward_finish:make_finish", signature=lambda dtype: FINISH_SIGNATURE, grid=_query_grid,
    arguments=_finish, early=True,
)  # fmt: skip

BACKWARD = replace(
    FORWARD,
    name="backward-sm90",
    op="bwd",
    task="bwd",
    source="numba_fa.kernels.sm90.backward:make_backward",
    signature=lambda dtype: MAIN_SIGNATURE,
    key_for=main_key,
    grid=_main_grid,
    arguments=_main,
    deterministic=False,
    early=True,
    along=lambda wanted: wanted | (frozenset("kv") if wanted & _QKV else frozenset()),
    stages=stages,
    rooms=rooms,
)
# The same, but for the order in which dQ is summed up.
DETERMINISTIC = replace(
    BACKWARD, name="backward-sm90-deterministic", op="bwd_det", deterministic=True,
    key_for=partial(main_key, op="bwd_det"),
)  # fmt: skip
