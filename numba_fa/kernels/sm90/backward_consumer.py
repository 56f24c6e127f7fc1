"""The Hopper backward's consumer: a warpgroup that owns 64 keys, with their dK and dV in registers."""

from typing import Any

import numpy as np

from numba_fa.flash.line import Line
from numba_fa.flash.program import Program
from numba_fa.jit import cuda, device, int32, int64
from numba_fa.kernels.sm90.backward_epilogue import make_write_keys
from numba_fa.kernels.sm90.backward_judge import make_exponent_scale_t, make_judge_t
from numba_fa.kernels.sm90.backward_order import make_ordered
from numba_fa.kernels.sm90.backward_scout import LAST, TILE
from numba_fa.kernels.sm90.backward_shape import (
    DQ_EMPTY,
    DQ_FULL,
    DQ_MESSAGE,
    DS_EMPTY,
    DS_FULL,
    EMPTY,
    K_FULL,
    KV_EMPTY,
    RING,
    SECOND,
    SLOT,
    V_FULL,
    BackwardShape,
)
from numba_fa.kernels.sm90.backward_visits import make_count_tiles, make_place
from numba_fa.ptx.fragment import make_pack, make_scale_rows, make_zeros
from numba_fa.ptx.fragment_columns import (
    make_column_exponential,
    make_column_gradient,
    make_column_values,
    make_stmatrix_words,
    make_store_quads,
)
from numba_fa.ptx.integer import opaque
from numba_fa.ptx.mbarrier import mbarrier_arrive, mbarrier_wait
from numba_fa.ptx.memory import ld_shared_u32, st_shared_u32
from numba_fa.ptx.tma import fence_proxy_async
from numba_fa.ptx.vector import make_add_quads
from numba_fa.ptx.warp import bar_warp_sync
from numba_fa.ptx.wgmma import OPERAND, make_gemm_rs, make_gemm_ss, make_gemm_tt, make_wait
from numba_fa.tile.layout import k_major_descriptor, k_major_step, mn_major_descriptor, mn_major_step


def make_backward_consumer(shape: BackwardShape, program: Program, level: Line | None) -> Any:
    """consume(dk, dv, sums, base, barriers, consumer, heads_kv, batch, seqlen_q, seqlen_k, together, scale, aux).

    Step by step of the ring it starts S^T = K Q^T and dP^T = V dO^T, makes P^T while dP^T runs and dS^T while
    dV += P^T dO runs, and hands dS to both consumers. The product dQ = dS K is of the step before, so that neither
    consumer waits for the other's dS; it is left to a writer to add to global memory.
    """
    key = shape.key
    BLOCK_M, BLOCK_N, STAGES = key.block_m, key.block_n, key.stages
    DIRECT, HEADS = shape.direct, shape.asks_head
    SCORES, DQ = BLOCK_M // 2, shape.dq_columns[0] // 2
    Q_ATOM, KV_ATOM, DS_ATOM = shape.q_atom, shape.kv_atom, BLOCK_N * 128
    V_OFFSET, Q_OFFSET, DO_OFFSET, DS_OFFSET = shape.v_offset, shape.q_offset, shape.do_offset, shape.ds_offset
    LSE_OFFSET, DELTA_OFFSET, ROW_BYTES = shape.lse_offset, shape.delta_offset, shape.row_bytes
    ROOM_BYTES = shape.room_bytes
    # Whether registers suffice to have the rows' LSE and delta before the products that they go with.
    EARLY = SCORES <= 32 and program.modify is None
    DS_BYTES, DQ_BYTES, DQ_OFFSET, MESSAGES = shape.ds_bytes, shape.dq_bytes[0], shape.dq_offset, shape.message_offset
    Q_STEP, DO_STEP, DS_STEP = np.int64(shape.q_bytes >> 4), np.int64(shape.do_bytes >> 4), np.int64(DS_BYTES >> 4)
    # Where a consumer's half of dQ begins in dS (queries) and in K (columns).
    DS_HALF, K_HALF = (DS_ATOM, 0) if shape.by_rows else (0, shape.second_columns)
    K_MAJOR, Q_COLUMNS = np.int64(k_major_descriptor()), np.int64(mn_major_descriptor(Q_ATOM))
    DS_QUERIES, K_COLUMNS = np.int64(mn_major_descriptor(DS_ATOM)), np.int64(mn_major_descriptor(KV_ATOM))
    operand = OPERAND[key.dtype]
    gemm_scores, gemm_products = shape.of_both(lambda dim: make_gemm_ss(
        BLOCK_M, dim // 16, operand, lambda k: k_major_step(k, KV_ATOM), lambda k: k_major_step(k, Q_ATOM)
    ))  # fmt: skip
    gemm_keys, gemm_values = shape.of_both(lambda dim: make_gemm_rs(dim, BLOCK_M // 16, operand, mn_major_step))
    gemm_queries = make_gemm_tt(shape.dq_columns[0], BLOCK_N // 16, operand, mn_major_step, mn_major_step)
    wait_scores, wait_dq, wait_dq_last = make_wait(SCORES, 1), make_wait(DQ, 1), make_wait(DQ, 0)
    wait_keys, wait_values = shape.of_both(lambda dim: make_wait(dim // 2, 0))
    values, exponential, gradient, pack = (
        make_column_values(SCORES), make_column_exponential(SCORES), make_column_gradient(SCORES),
        make_pack(SCORES, key.dtype),
    )  # fmt: skip
    store_ds, store_quads, add_quads = make_stmatrix_words(SCORES // 2), make_store_quads(DQ), make_add_quads(DQ)
    (zeros_k, zeros_v), scale_rows = shape.of_both(lambda dim: make_zeros(dim // 2)), make_scale_rows(key.head_dim // 2)
    write_keys, write_values = shape.of_both(lambda dim: make_write_keys(dim, key.dtype))
    take_turn, end_turn = make_ordered(shape)
    judge_t, chain_t = make_judge_t(SCORES, program, level, key.mask, fast=key.dtype == "bf16")
    exponent_scale, locate, count_tiles = make_exponent_scale_t(program), make_place(shape), make_count_tiles(shape)

    @device
    def share_dq(barriers, consumer):
        """Tell the writer that this warp's part is there; after other work, since a fence waits for stores."""
        if not DIRECT:
            fence_proxy_async()
            bar_warp_sync(-1)
            if cuda.threadIdx.x & 31 == 0:
                mbarrier_arrive(barriers + DQ_FULL + 8 * consumer)

    @device
    def gradients(dv, waiting, base, barriers, consumer, step, index, kv_first, seqlen_q, seqlen_k, scale, aux):
        """One step up to dS: (message, tile of dQ, dV with this step's product under way, dS as an operand)."""
        thread = opaque(cuda.threadIdx.x) & 127
        lane = thread & 31
        column = (lane & 3) * 2
        stage = step % STAGES
        phase = (step // STAGES) & 1
        full = barriers + RING + SLOT * stage
        offset = np.int64(stage) * Q_STEP
        rows = base + consumer * 8192
        mbarrier_wait(full, phase)
        word = int32(ld_shared_u32(barriers + MESSAGES + 16 * stage))
        number = int32(ld_shared_u32(barriers + MESSAGES + 16 * stage + 4))
        head = int32(ld_shared_u32(barriers + MESSAGES + 16 * stage + 8)) if HEADS else int32(0)
        queries = K_MAJOR | np.int64(((base + Q_OFFSET) & 0x3FFFF) >> 4)
        scores = gemm_scores(K_MAJOR | np.int64((rows & 0x3FFFF) >> 4), queries + offset)
        mbarrier_wait(full + SECOND, phase)
        outputs = np.int64(((base + DO_OFFSET) & 0x3FFFF) >> 4) + np.int64(stage) * DO_STEP
        products = gemm_products(K_MAJOR | np.int64(((rows + V_OFFSET) & 0x3FFFF) >> 4), K_MAJOR | outputs)
        if waiting:
            share_dq(barriers, consumer)
        if EARLY:
            lse = values(base + LSE_OFFSET + stage * ROW_BYTES + column * 4)
        scores = wait_scores(scores)
        kv0 = kv_first + (thread >> 5) * 16 + (lane >> 2)
        start = (word >> TILE) * BLOCK_M + column
        scores, slopes = judge_t(scores, scale, word & (1 << consumer), index, head, kv0, kv0 + 8, start, seqlen_q, seqlen_k,
                                 aux)  # fmt: skip
        if not EARLY:
            lse = values(base + LSE_OFFSET + stage * ROW_BYTES + column * 4)
        weights = exponential(scores, exponent_scale(scale), lse)
        if EARLY:
            delta = values(base + DELTA_OFFSET + stage * ROW_BYTES + column * 4)
        dv = gemm_values(dv, pack(weights), Q_COLUMNS | outputs)
        weights = chain_t(weights, slopes)
        products = wait_scores(products)
        if not EARLY:
            delta = values(base + DELTA_OFFSET + stage * ROW_BYTES + column * 4)
        ds = pack(gradient(weights, products, delta))
        buffer = step & 1
        # stmatrix: lane l addresses row l % 8 of matrix l // 8; matrices 0, 1 are rows 0-7, 8-15; 2, 3 the next columns
        row = (thread >> 5) * 16 + ((lane >> 3) & 1) * 8 + (lane & 7)
        mbarrier_wait(barriers + DS_EMPTY + 8 * buffer, (step >> 1) & 1 ^ 1)
        room = base + DS_OFFSET + buffer * DS_BYTES + (consumer * 64 + row) * 128
        store_ds(ds, room, DS_ATOM, row & 7, lane >> 4)
        return word, number, dv, ds

    @device
    def share_ds(barriers, step):
        """Tell both consumers that this warp's part of dS is there; after other work, since a fence waits for stores."""
        fence_proxy_async()
        bar_warp_sync(-1)
        if cuda.threadIdx.x & 31 == 0:
            mbarrier_arrive(barriers + DS_FULL + 8 * (step & 1))

    @device
    def begin_dq(base, barriers, consumer, step):
        """Start the product of this step's dS, of both consumers, with K."""
        buffer = step & 1
        mbarrier_wait(barriers + DS_FULL + 8 * buffer, (step >> 1) & 1)
        queries = DS_QUERIES | np.int64(((base + DS_OFFSET + consumer * DS_HALF) & 0x3FFFF) >> 4)
        keys = K_COLUMNS | np.int64(((base + consumer * K_HALF) & 0x3FFFF) >> 4)
        return gemm_queries(queries + np.int64(buffer) * DS_STEP, keys)

    @device
    def hand_over(dq, tile, sums, base, barriers, consumer, step):
        """Leave this step's half tile of dQ, product done, to the writer, or add it up; dS may be overwritten."""
        thread = opaque(cuda.threadIdx.x) & 127
        lane_0 = thread & 31 == 0
        if lane_0:
            mbarrier_arrive(barriers + DS_EMPTY + 8 * (step & 1))
        if DIRECT:
            take_turn(barriers, step)
            add_quads(dq, sums + (int64(tile) * 2 + consumer) * DQ_BYTES + thread * 16)
            end_turn(barriers, step)
            return
        mbarrier_wait(barriers + DQ_EMPTY + 8 * consumer, step & 1 ^ 1)
        store_quads(dq, base + DQ_OFFSET + consumer * ROOM_BYTES + thread * 16)
        if thread == 0:
            st_shared_u32(barriers + DQ_MESSAGE + 4 * consumer, tile)

    @device
    def consume(dk_map, dv_map, sums, base, barriers, consumer, heads_kv, batch, seqlen_q, seqlen_k, together, scale, aux):
        thread = int32(cuda.threadIdx.x & 127)
        lane_0 = thread & 31 == 0
        columns = Q_COLUMNS | np.int64(((base + Q_OFFSET) & 0x3FFFF) >> 4)
        step = int32(0)
        phase_kv = int32(0)
        turn = int32(cuda.blockIdx.x)
        while turn < count_tiles(seqlen_k) * heads_kv * batch:
            tile_k, head_kv, index = locate(turn, count_tiles(seqlen_k), heads_kv, batch, together)
            kv_first = int32(tile_k * BLOCK_N + consumer * 64)
            mbarrier_wait(barriers + K_FULL, phase_kv)
            mbarrier_wait(barriers + V_FULL, phase_kv)
            phase_kv ^= 1
            word, number, dv, ds = gradients(zeros_v(), False, base, barriers, consumer, step, index, kv_first, seqlen_q,
                                           seqlen_k, scale, aux)  # fmt: skip
            dk = gemm_keys(zeros_k(), ds, columns + np.int64(step % STAGES) * Q_STEP)
            share_ds(barriers, step)
            waiting = False
            dv = wait_values(dv)
            dk = wait_keys(dk)
            while word & LAST == 0:
                slot = barriers + RING + SLOT * (step % STAGES)
                tile = number
                step = int32(step + 1)
                if lane_0:
                    mbarrier_arrive(slot + EMPTY)
                    mbarrier_arrive(slot + SECOND + EMPTY)
                word, number, dv, ds = gradients(dv, waiting, base, barriers, consumer, step, index, kv_first, seqlen_q,
                                               seqlen_k, scale, aux)  # fmt: skip
                dq = begin_dq(base, barriers, consumer, step - 1)
                dk = gemm_keys(dk, ds, columns + np.int64(step % STAGES) * Q_STEP)
                share_ds(barriers, step)
                hand_over(wait_dq(dq), tile, sums, base, barriers, consumer, step - 1)
                waiting = True
                dv = wait_values(dv)
                dk = wait_keys(dk)
            dq = begin_dq(base, barriers, consumer, step)
            if waiting:
                share_dq(barriers, consumer)
            dq = wait_dq_last(dq)
            if lane_0:
                slot = barriers + RING + SLOT * (step % STAGES)
                mbarrier_arrive(slot + EMPTY)
                mbarrier_arrive(slot + SECOND + EMPTY)
                mbarrier_arrive(barriers + KV_EMPTY)
            hand_over(dq, number, sums, base, barriers, consumer, step)
            share_dq(barriers, consumer)
            if not DIRECT:
                mbarrier_wait(barriers + DQ_EMPTY + 8 * consumer, step & 1)
            # Again: registers are dear in the loop.
            tile_k, head_kv, index = locate(opaque(turn), count_tiles(seqlen_k), heads_kv, batch, together)
            room = int32(base + DQ_OFFSET + consumer * ROOM_BYTES)
            kv_first = int32(tile_k * BLOCK_N + consumer * 64)
            write_values(dv_map, dv, room, consumer, kv_first, head_kv, index)
            write_keys(dk_map, scale_rows(dk, scale, scale), room, consumer, kv_first, head_kv, index)
            step = int32(step + 1)
            turn = int32(turn + cuda.gridDim.x)

    return consume
