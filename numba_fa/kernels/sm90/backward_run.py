"""The Hopper backward as the host sees it: its three kernels with their tiles, grids and arguments."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from numba_fa.dispatch.device import Device
from numba_fa.dispatch.key import NO_BIAS, DispatchKey
from numba_fa.dispatch.variant import TensorMap
from numba_fa.kernels.common.signatures import PREPROCESS_SIGNATURE
from numba_fa.kernels.sm90.backward_shape import BackwardShape
from numba_fa.problem.arrays import ArrayView
from numba_fa.tile.layout import ATOM_COLUMNS, round_up

# head_dim up to -> block_m, block_n, stages; and where there is a bias, and where there are more or larger ones,
# whose derivatives take registers
TILES = {64: (128, 128, 2), 128: (64, 128, 2), 256: (64, 64, 2)}
BIASED_TILES = {64: (64, 128, 2), 128: (64, 128, 2), 256: (64, 64, 2)}
LADEN_TILES = {64: (64, 128, 2), 256: (64, 64, 2)}

MAIN_SIGNATURE = (*["tensor_map"] * 6, *["pointer"] * 3, *["int32"] * 5, "float32")
FINISH_SIGNATURE = ("tensor_map", "pointer", "int32", "float32")


@dataclass(frozen=True)
class Gradients:
    """A backward's arrays: q, k, v, out, dout and the results dq, dk, dv (batch, seqlen, heads, head_dim); lse and, if
    the LSE has a gradient, dlse: float32 (batch, heads, seqlen_q), contiguous.

    rows, sums: addresses of room for `rows_bytes` and `sums_bytes`, multiples of 16. tickets: of an int32 for each of
    `tiles_of`, where the order of sums matters, else 0.
    """

    q: ArrayView
    k: ArrayView
    v: ArrayView
    out: ArrayView
    dout: ArrayView
    lse: ArrayView
    dq: ArrayView
    dk: ArrayView
    dv: ArrayView
    rows: Any
    sums: Any
    tickets: Any = 0
    dlse: ArrayView | None = None


@dataclass(frozen=True)
class Stage:
    """One of the backward's kernels. `name` is of its key's op; signature: of its own parameters."""

    name: str
    source: str
    signature: tuple[str, ...]
    grid: Callable[[Any, DispatchKey, Device], tuple[int, int, int]]
    arguments: Callable[[Any, DispatchKey, Gradients], tuple[Any, ...]]
    programmed: bool = False

    def key(self, main: DispatchKey) -> DispatchKey:
        """The key of this kernel beside the main kernel's; of mask and biases the others know nothing."""
        return main if self.programmed else replace(main, op=self.name, mask="full", bias=NO_BIAS)

    def factory(self) -> Callable[[DispatchKey], Any]:
        """The function that makes the kernel for a key; imports the compiler."""
        module, _, name = self.source.partition(":")
        return getattr(importlib.import_module(module), name)


def main_key(dtype: str, head_dim: int, mask: str, bias: str = NO_BIAS) -> DispatchKey:
    """The main kernel's key with the tile for a head_dim."""
    head_dim = round_up(head_dim, 16)
    biases = [name for name in bias.split("+") if name not in (NO_BIAS, "sink")]
    laden = len(biases) > 1 or biases and (mask not in ("full", "causal") or biases[0].startswith("t5"))
    tiles = LADEN_TILES if laden else BIASED_TILES if biases else TILES
    tile = next(tile for most, tile in tiles.items() if head_dim <= most)
    return DispatchKey("bwd", "sm90", dtype, head_dim, mask, *tile, bias)


def tiles_of(problem: Any, key: DispatchKey) -> int:
    """Tiles of queries, of all heads and batch indices."""
    return problem.batch * problem.heads * -(-problem.seqlen_q // key.block_m)


def rows_bytes(problem: Any, key: DispatchKey) -> int:
    """Room for LSE and delta of every query, in float32."""
    return tiles_of(problem, key) * 8 * key.block_m


def sums_bytes(problem: Any, key: DispatchKey) -> int:
    """Room for dQ in float32."""
    return tiles_of(problem, key) * sum(BackwardShape(key).dq_bytes)


def _query_grid(problem: Any, key: DispatchKey, device: Device) -> tuple[int, int, int]:
    return (-(-problem.seqlen_q // key.block_m), problem.heads, problem.batch)


def _strides(view: ArrayView) -> tuple[int, ...]:
    """Bytes from batch index to batch index, from position to position, from head to head."""
    return tuple(view.strides[axis] * view.itemsize for axis in (0, 1, 2))


def _preprocess(problem: Any, key: DispatchKey, arrays: Gradients) -> tuple[Any, ...]:
    return (
        arrays.out.pointer, arrays.dout.pointer, arrays.lse.pointer, arrays.dlse.pointer if arrays.dlse else 0,
        arrays.rows, arrays.sums, *_strides(arrays.out), *_strides(arrays.dout), problem.heads, problem.seqlen_q,
        problem.head_dim, sum(BackwardShape(key).dq_bytes), arrays.tickets,
    )  # fmt: skip


def _main(problem: Any, key: DispatchKey, arrays: Gradients) -> tuple[Any, ...]:
    boxes = [(arrays.q, key.block_m), (arrays.k, key.block_n), (arrays.v, key.block_n), (arrays.dout, key.block_m),
             (arrays.dk, 64), (arrays.dv, 64)]  # fmt: skip
    return (
        *[TensorMap(view, rows, ATOM_COLUMNS) for view, rows in boxes], arrays.rows, arrays.sums, arrays.tickets,
        problem.heads, problem.heads_kv, problem.batch, problem.seqlen_q, problem.seqlen_k, problem.scale,
    )  # fmt: skip


def _main_grid(problem: Any, key: DispatchKey, device: Device) -> tuple[int, int, int]:
    """Persistent blocks, one an SM, where their work is even; else a block a tile of keys, which the hardware balances."""
    blocks = -(-problem.seqlen_k // key.block_n) * problem.heads_kv * problem.batch
    return (min(blocks, device.multiprocessors) if key.mask == "full" else blocks, 1, 1)


def _finish(problem: Any, key: DispatchKey, arrays: Gradients) -> tuple[Any, ...]:
    return TensorMap(arrays.dq, 64, ATOM_COLUMNS), arrays.sums, problem.heads, problem.scale


STAGES = (
    Stage("bwd_pre", "numba_fa.kernels.common.preprocess:make_preprocess", PREPROCESS_SIGNATURE,
          _query_grid, _preprocess),
    Stage("bwd", "numba_fa.kernels.sm90.backward:make_backward", MAIN_SIGNATURE, _main_grid, _main, programmed=True),
    Stage("bwd_fin", "numba_fa.kernels.sm90.backward_finish:make_finish", FINISH_SIGNATURE,
          _query_grid, _finish),
)  # fmt: skip
