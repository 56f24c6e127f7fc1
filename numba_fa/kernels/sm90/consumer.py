"""The Hopper forward's consumer: a warpgroup that owns 64 queries of each tile."""

from collections.abc import Callable
from typing import Any

import numpy as np

from numba_fa.flash.online_softmax import NEG_INF, inverse_sum
from numba_fa.jit import cuda, device, int32
from numba_fa.kernels.sm90.epilogue import make_epilogue
from numba_fa.kernels.sm90.shape import Shape
from numba_fa.kernels.sm90.softmax import make_softmax
from numba_fa.ptx.fragment import make_keep_below, make_pack, make_scale_rows, make_zeros
from numba_fa.ptx.mbarrier import mbarrier_arrive, mbarrier_wait
from numba_fa.ptx.tma import bulk_wait_group
from numba_fa.ptx.warp import bar_arrive, bar_sync
from numba_fa.ptx.wgmma import make_gemm_rs, make_gemm_ss, make_wait
from numba_fa.tile.layout import k_major_descriptor, k_major_step, mn_major_descriptor, mn_major_step
from numba_fa.tile.pipeline import EMPTY, HELD_EMPTY, HELD_FULL, RING, SECOND, SLOT

_WGMMA_TYPE = {"fp16": "f16", "bf16": "bf16"}


def make_consumer(shape: Shape, row_end: Callable[..., Any], schedule: tuple[Any, Any], *, ragged: bool) -> Any:
    """consume(out, lse, base, barriers, consumer, tiles, heads, batch, seqlen_q, seqlen_k, together, scale_log2)."""
    key = shape.key
    BLOCK_M, BLOCK_N, STAGES = key.block_m, key.block_n, key.stages
    HEAD_DIM, SCORES, OUTPUTS = key.head_dim, key.block_n // 2, key.head_dim // 2
    K_OFFSET, V_OFFSET, KV_STEP, KV_ATOM, Q_ATOM = (
        shape.k_offset, shape.v_offset, np.int64(shape.kv_bytes >> 4), shape.kv_atom, shape.q_atom,
    )  # fmt: skip
    PINGPONG, RAGGED, O_IN_Q = shape.warpgroups == 2, ragged, shape.o_in_q
    K_MAJOR, V_MAJOR = np.int64(k_major_descriptor()), np.int64(mn_major_descriptor(KV_ATOM))
    operand = _WGMMA_TYPE[key.dtype]
    gemm_qk = make_gemm_ss(
        BLOCK_N, HEAD_DIM // 16, operand, lambda k: k_major_step(k, Q_ATOM), lambda k: k_major_step(k, KV_ATOM)
    )
    gemm_pv = make_gemm_rs(HEAD_DIM, BLOCK_N // 16, operand, mn_major_step)
    wait_scores, wait_first, wait_output = make_wait(SCORES, 1), make_wait(SCORES, 0), make_wait(OUTPUTS, 0)
    zeros, scale_rows, keep_below = make_zeros(OUTPUTS), make_scale_rows(OUTPUTS), make_keep_below(SCORES)
    pack = make_pack(SCORES, key.dtype)
    softmax, quad_sum = make_softmax(SCORES)
    write_out, write_lse = make_epilogue(shape)

    turn_of, locate = schedule

    @device
    def consume(out, lse, base, barriers, consumer, tiles, heads, batch, seqlen_q, seqlen_k, together, scale_log2):
        total = int32(tiles * heads * batch)
        thread = int32(cuda.threadIdx.x & 127)
        leader = thread == 0
        row = int32(consumer * 64 + (thread >> 5) * 16 + ((thread & 31) >> 2))
        column = int32((thread & 3) * 2)
        if PINGPONG and consumer == 1:
            bar_arrive(1, 256)  # the first turn is consumer 0's
        q_tile = K_MAJOR | np.int64(((base + consumer * 8192) & 0x3FFFF) >> 4)
        k_tile = K_MAJOR | np.int64(((base + K_OFFSET) & 0x3FFFF) >> 4)
        v_tile = V_MAJOR | np.int64(((base + V_OFFSET) & 0x3FFFF) >> 4)
        step = int32(0)
        q_phase = int32(0)
        wave = int32(0)
        turn = int32(turn_of(wave, cuda.blockIdx.x, cuda.gridDim.x))
        while turn < total:
            tile, head, index = locate(turn, tiles, heads, batch, together)
            first = int32(tile * BLOCK_M + row)
            last = min(tile * BLOCK_M + BLOCK_M, seqlen_q) - 1
            blocks = (row_end(last, seqlen_q, seqlen_k) + BLOCK_N - 1) // BLOCK_N
            block = int32(max(blocks, 1) - 1)
            end0 = int32(row_end(first, seqlen_q, seqlen_k) - column)
            end1 = int32(row_end(first + 8, seqlen_q, seqlen_k) - column)
            whole = int32(row_end(tile * BLOCK_M + consumer * 64, seqlen_q, seqlen_k))  # seen by all 64 queries

            stage = step % STAGES
            phase = (step // STAGES) & 1
            full = barriers + RING + SLOT * stage
            mbarrier_wait(barriers + HELD_FULL, q_phase)
            mbarrier_wait(full, phase)
            scores = wait_first(gemm_qk(q_tile, k_tile + np.int64(stage) * KV_STEP))
            if leader:
                mbarrier_arrive(full + EMPTY)
            scores = keep_below(scores, end0 - block * BLOCK_N, end1 - block * BLOCK_N)
            scores, max0, max1, sum0, sum1, keep0, keep1 = softmax(scores, NEG_INF, NEG_INF, scale_log2)
            weights = pack(scores)
            output = zeros()
            step = int32(step + 1)
            block = int32(block - 1)
            while block >= 0:
                v_stage = np.int64(stage) * KV_STEP
                v_full = full + SECOND
                v_phase = phase
                stage = step % STAGES
                phase = (step // STAGES) & 1
                full = barriers + RING + SLOT * stage
                mbarrier_wait(full, phase)
                if PINGPONG:
                    bar_sync(1 + consumer, 256)
                scores = gemm_qk(q_tile, k_tile + np.int64(stage) * KV_STEP)
                mbarrier_wait(v_full, v_phase)
                output = gemm_pv(output, weights, v_tile + v_stage)
                if PINGPONG:
                    bar_arrive(2 - consumer, 256)
                scores = wait_scores(scores)
                if leader:
                    mbarrier_arrive(full + EMPTY)
                if RAGGED and block * BLOCK_N + BLOCK_N > whole:
                    scores = keep_below(scores, end0 - block * BLOCK_N, end1 - block * BLOCK_N)
                scores, max0, max1, new0, new1, keep0, keep1 = softmax(scores, max0, max1, scale_log2)
                sum0 = sum0 * keep0 + new0
                sum1 = sum1 * keep1 + new1
                output = wait_output(output)
                if leader:
                    mbarrier_arrive(v_full + EMPTY)
                weights = pack(scores)
                output = scale_rows(output, keep0, keep1)
                step = int32(step + 1)
                block = int32(block - 1)
            if leader and not O_IN_Q:
                mbarrier_arrive(barriers + HELD_EMPTY)
            mbarrier_wait(full + SECOND, phase)
            output = gemm_pv(output, weights, v_tile + np.int64(stage) * KV_STEP)
            sum0 = quad_sum(sum0)
            sum1 = quad_sum(sum1)
            output = wait_output(output)
            if leader:
                mbarrier_arrive(full + SECOND + EMPTY)
            output = scale_rows(output, inverse_sum(sum0), inverse_sum(sum1))
            write_out(out, output, base, barriers, consumer, tile, head, index)
            if lse != 0 and column == 0:
                row_lse = lse + (np.int64(index * heads + head) * seqlen_q + first) * 4
                write_lse(row_lse, first, seqlen_q, max0, sum0, scale_log2)
                write_lse(row_lse + 32, first + 8, seqlen_q, max1, sum1, scale_log2)
            q_phase ^= 1
            wave = int32(wave + 1)
            turn = int32(turn_of(wave, cuda.blockIdx.x, cuda.gridDim.x))
        if leader:
            bulk_wait_group()  # shared memory must outlive the last store that reads it

    return consume
