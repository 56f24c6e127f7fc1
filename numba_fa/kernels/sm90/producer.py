"""The Hopper forward's producer: one thread that keeps the ring of key and value tiles full."""

from collections.abc import Callable
from typing import Any

from numba_fa.jit import cuda, device, int32
from numba_fa.kernels.sm90.shape import Shape
from numba_fa.ptx.mbarrier import mbarrier_expect_tx, mbarrier_wait
from numba_fa.ptx.tma import prefetch_tensormap, tma_load
from numba_fa.tile.pipeline import EMPTY, HELD_EMPTY, HELD_FULL, RING, SECOND, SLOT


def make_producer(shape: Shape, row_end: Callable[..., Any], schedule: tuple[Any, Any]) -> Any:
    """produce(q, k, v, base, barriers, tiles, heads, heads_kv, batch, seqlen_q, seqlen_k, together) loads every tile."""
    key = shape.key
    BLOCK_M, BLOCK_N, STAGES, ATOMS = key.block_m, key.block_n, key.stages, shape.atoms
    Q_BYTES, KV_BYTES, Q_ATOM, KV_ATOM = shape.q_bytes, shape.kv_bytes, shape.q_atom, shape.kv_atom
    K_OFFSET, V_OFFSET = shape.k_offset, shape.v_offset

    turn_of, locate = schedule

    @device
    def produce(q, k, v, base, barriers, tiles, heads, heads_kv, batch, seqlen_q, seqlen_k, together):
        prefetch_tensormap(q)
        prefetch_tensormap(k)
        prefetch_tensormap(v)
        group = heads // heads_kv
        total = int32(tiles * heads * batch)
        q_full = barriers + HELD_FULL
        q_empty = barriers + HELD_EMPTY
        step = int32(0)
        q_phase = int32(1)  # the first wait for room must pass: nothing was there before
        wave = int32(0)
        turn = int32(turn_of(wave, cuda.blockIdx.x, cuda.gridDim.x))
        while turn < total:
            tile, head, index = locate(turn, tiles, heads, batch, together)
            head_kv = head // group
            last = min(tile * BLOCK_M + BLOCK_M, seqlen_q) - 1
            blocks = (row_end(last, seqlen_q, seqlen_k) + BLOCK_N - 1) // BLOCK_N
            mbarrier_wait(q_empty, q_phase)
            mbarrier_expect_tx(q_full, Q_BYTES)
            for atom in range(ATOMS):
                tma_load(base + atom * Q_ATOM, q, q_full, 64 * atom, tile * BLOCK_M, head, index)
            q_phase ^= 1
            block = int32(max(blocks, 1) - 1)  # one block even where nothing is seen: masked away, no special case
            while block >= 0:
                stage = step % STAGES
                phase = (step // STAGES) & 1 ^ 1
                full = barriers + RING + SLOT * stage
                mbarrier_wait(full + EMPTY, phase)
                mbarrier_expect_tx(full, KV_BYTES)
                for atom in range(ATOMS):
                    tma_load(base + K_OFFSET + stage * KV_BYTES + atom * KV_ATOM, k, full, 64 * atom,
                             block * BLOCK_N, head_kv, index)  # fmt: skip
                mbarrier_wait(full + SECOND + EMPTY, phase)
                mbarrier_expect_tx(full + SECOND, KV_BYTES)
                for atom in range(ATOMS):
                    tma_load(base + V_OFFSET + stage * KV_BYTES + atom * KV_ATOM, v, full + SECOND, 64 * atom,
                             block * BLOCK_N, head_kv, index)  # fmt: skip
                step = int32(step + 1)
                block = int32(block - 1)
            wave = int32(wave + 1)
            turn = int32(turn_of(wave, cuda.blockIdx.x, cuda.gridDim.x))

    return produce
