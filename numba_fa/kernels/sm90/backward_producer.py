"""The Hopper backward's producer: one thread that loads what the scout has decided on."""

from functools import cache
from typing import Any

from numba_fa.jit import cuda, device, int32, int64
from numba_fa.kernels.sm90.backward_scout import LAST, TILE
from numba_fa.kernels.sm90.backward_shape import (
    EMPTY,
    K_FULL,
    KV_EMPTY,
    RING,
    SECOND,
    SLOT,
    TOLD,
    V_FULL,
    BackwardShape,
)
from numba_fa.kernels.sm90.backward_visits import make_count_tiles, make_place
from numba_fa.kernels.sm90.load import make_load
from numba_fa.ptx.bulk import bulk_load
from numba_fa.ptx.mbarrier import mbarrier_wait
from numba_fa.ptx.memory import ld_shared_u32
from numba_fa.ptx.tma import prefetch_tensormap


def make_backward_producer(shape: BackwardShape) -> Any:
    """produce(q, k, v, do, rows, base, barriers, heads_kv, batch, seqlen_k, together) loads all tiles."""
    key = shape.key
    BLOCK_M, BLOCK_N, STAGES = key.block_m, key.block_n, key.stages
    Q_BYTES, DO_BYTES, ROW_BYTES = shape.q_bytes, shape.do_bytes, shape.row_bytes
    V_OFFSET, Q_OFFSET, DO_OFFSET = shape.v_offset, shape.q_offset, shape.do_offset
    LSE_OFFSET, DELTA_OFFSET, MESSAGES = shape.lse_offset, shape.delta_offset, shape.message_offset
    locate, count_tiles = make_place(shape), make_count_tiles(shape)
    atoms = shape.atoms, shape.v_atoms
    load_queries, load_outputs = map(cache(lambda n: _make_load(n, shape.q_atom, ROW_BYTES)), atoms)
    load_keys, load_values = map(cache(lambda n: make_load(n, shape.kv_atom)), atoms)

    @device
    def produce(q, k, v, do, rows, base, barriers, heads_kv, batch, seqlen_k, together):
        prefetch_tensormap(q)
        prefetch_tensormap(k)
        prefetch_tensormap(v)
        prefetch_tensormap(do)
        stage = int32(0)
        phase = int32(0)
        phase_kv = int32(1)  # the first wait for room must pass: nothing was there before
        turn = int32(cuda.blockIdx.x)
        # Counted again at every turn: registers are dear in the loop inside.
        while turn < count_tiles(seqlen_k) * heads_kv * batch:
            tile_k, head_kv, index = locate(turn, count_tiles(seqlen_k), heads_kv, batch, together)
            start = int32(tile_k * BLOCK_N)
            mbarrier_wait(barriers + KV_EMPTY, phase_kv)
            phase_kv ^= 1
            load_keys(base, k, barriers + K_FULL, start, head_kv, index)
            load_values(base + V_OFFSET, v, barriers + V_FULL, start, head_kv, index)
            word = int32(0)
            while word & LAST == 0:
                slot = int32(barriers + RING + SLOT * stage)
                mbarrier_wait(slot + TOLD, phase)  # the scout has waited for Q's room
                word = int32(ld_shared_u32(barriers + MESSAGES + 16 * stage))
                number = int32(ld_shared_u32(barriers + MESSAGES + 16 * stage + 4))
                head = int32(ld_shared_u32(barriers + MESSAGES + 16 * stage + 8))
                first = int32((word >> TILE) * BLOCK_M)
                vector = rows + int64(number) * (2 * ROW_BYTES)
                load_queries(base + Q_OFFSET + stage * Q_BYTES, q, slot, base + LSE_OFFSET + stage * ROW_BYTES, vector,
                             first, head, index)  # fmt: skip
                mbarrier_wait(slot + SECOND + EMPTY, phase ^ 1)
                load_outputs(base + DO_OFFSET + stage * DO_BYTES, do, slot + SECOND,
                             base + DELTA_OFFSET + stage * ROW_BYTES, vector + ROW_BYTES, first, head, index)  # fmt: skip
                stage = int32(stage + 1)
                if stage == STAGES:
                    stage = int32(0)
                    phase ^= 1
            turn = int32(turn + cuda.gridDim.x)

    return produce


def _make_load(atoms: int, atom_bytes: int, row_bytes: int) -> Any:
    """load(room, tensor, full, row_room, vector, first, head, index): a tile of Q or dO with its rows' LSE or delta."""
    load_tile = make_load(atoms, atom_bytes, row_bytes)

    @device
    def load(room, tensor, full, row_room, vector, first, head, index):
        load_tile(room, tensor, full, first, head, index)
        bulk_load(row_room, vector, row_bytes, full)

    return load
