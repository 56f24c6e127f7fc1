"""The Hopper backward's consumers beyond head_dim 128: 64 keys a block, dV one warpgroup's, dK the other's.

dK and dV of 64 keys fill the registers of two warpgroups. The consumer of dV makes P and gives it, rounded, to the
consumer of dK, which makes dS and gives it back: each has a product for the scores, one for its own gradient and a part
of dQ's columns, and neither computes what the other has. With biases P comes to the consumer of dK times their slopes.
"""

from types import SimpleNamespace
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
    DS_EMPTY,
    DS_FULL,
    EMPTY,
    K_FULL,
    KV_EMPTY,
    P_EMPTY,
    P_FULL,
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
    make_share_words,
    make_shared_values,
    make_stmatrix_words,
)
from numba_fa.ptx.integer import opaque
from numba_fa.ptx.mbarrier import mbarrier_arrive, mbarrier_wait
from numba_fa.ptx.memory import ld_shared_u32
from numba_fa.ptx.tma import fence_proxy_async
from numba_fa.ptx.vector import make_add_quads
from numba_fa.ptx.warp import bar_warp_sync
from numba_fa.ptx.wgmma import OPERAND, make_gemm_rs, make_gemm_ss, make_gemm_tt, make_wait
from numba_fa.tile.layout import k_major_descriptor, k_major_step, mn_major_descriptor, mn_major_step


def make_split_consumers(shape: BackwardShape, program: Program, level: Line | None) -> tuple[Any, Any]:
    """(consume_values, consume_keys), of the parameters (map, sums, base, barriers, heads_kv, batch, seqlen_q, seqlen_k,
    together, scale, aux): map of dV, of dK."""
    parts = _make_parts(shape)
    return _make_values(shape, program, level, parts), _make_keys(shape, parts)


def _make_parts(shape: BackwardShape) -> SimpleNamespace:
    """Products and bookkeeping that both consumers have."""
    key, operand = shape.key, OPERAND[shape.key.dtype]
    BLOCK_M, BLOCK_N = key.block_m, key.block_n
    Q_ATOM, KV_ATOM, DS_OFFSET, DS_BYTES, TILE_BYTES = (
        shape.q_atom, shape.kv_atom, shape.ds_offset, shape.ds_bytes, sum(shape.dq_bytes)
    )  # fmt: skip
    DS_QUERIES, K_COLUMNS = np.int64(mn_major_descriptor(BLOCK_N * 128)), np.int64(mn_major_descriptor(KV_ATOM))
    gemm_scores = shape.of_both(lambda dim: make_gemm_ss(
        BLOCK_M, dim // 16, operand, lambda k: k_major_step(k, KV_ATOM), lambda k: k_major_step(k, Q_ATOM)
    ))  # fmt: skip
    take_turn, end_turn = make_ordered(shape)

    @device
    def k_major(address):
        return np.int64(K_MAJOR) | np.int64((address & 0x3FFFF) >> 4)

    @device
    def q_columns(address):
        return np.int64(Q_COLUMNS) | np.int64((address & 0x3FFFF) >> 4)

    K_MAJOR, Q_COLUMNS = k_major_descriptor(), mn_major_descriptor(Q_ATOM)

    def make_dq(part: int) -> Any:
        """(begin(base, barriers, step) -> a part of dQ's columns under way, add(it, sums, number, barriers, step), wait)."""
        COLUMNS, SKIPPED = shape.dq_columns[part], part * shape.dq_bytes[0]
        FIRST = part * shape.second_columns
        gemm = make_gemm_tt(COLUMNS, BLOCK_N // 16, operand, mn_major_step, mn_major_step)
        add_quads = make_add_quads(COLUMNS // 2)

        @device
        def begin(base, barriers, step):
            buffer = step & 1
            mbarrier_wait(barriers + DS_FULL + 8 * buffer, (step >> 1) & 1)
            queries = DS_QUERIES | np.int64(((base + DS_OFFSET + buffer * DS_BYTES) & 0x3FFFF) >> 4)
            return gemm(queries, K_COLUMNS | np.int64(((base + FIRST) & 0x3FFFF) >> 4))

        @device
        def add(dq, sums, number, barriers, step):
            thread = opaque(cuda.threadIdx.x) & 127
            take_turn(barriers, step)
            add_quads(dq, sums + int64(number) * TILE_BYTES + SKIPPED + thread * 16)
            end_turn(barriers, step)

        return begin, add, make_wait(COLUMNS // 2, 0)

    return SimpleNamespace(
        count_tiles=make_count_tiles(shape), k_major=k_major, q_columns=q_columns, gemm_scores=gemm_scores, make_dq=make_dq,
        gemm_keys=shape.of_both(lambda dim: make_gemm_rs(dim, BLOCK_M // 16, operand, mn_major_step)),
        wait_scores=make_wait(BLOCK_M // 2, 0), wait_keys=shape.of_both(lambda dim: make_wait(dim // 2, 0)),
        zeros=shape.of_both(lambda dim: make_zeros(dim // 2)), pack=make_pack(BLOCK_M // 2, key.dtype),
        locate=make_place(shape), write_keys=shape.of_both(lambda dim: make_write_keys(dim, key.dtype)),
    )  # fmt: skip


def _make_values(shape: BackwardShape, program: Program, level: Line | None, parts: SimpleNamespace) -> Any:
    """The consumer of dV: S^T and P^T, dV += P^T dO, and the first part of dQ."""
    BLOCK_M, BLOCK_N, STAGES = shape.key.block_m, shape.key.block_n, shape.key.stages
    V_OFFSET, Q_OFFSET, DO_OFFSET, P_OFFSET, LSE_OFFSET, Q_BYTES, ROW_BYTES, MESSAGES = (
        shape.v_offset, shape.q_offset, shape.do_offset, shape.p_offset, shape.lse_offset, shape.q_bytes, shape.row_bytes,
        shape.message_offset,
    )  # fmt: skip
    count_tiles, k_major, q_columns, locate = parts.count_tiles, parts.k_major, parts.q_columns, parts.locate
    gemm_scores, wait_scores, pack = parts.gemm_scores[0], parts.wait_scores, parts.pack
    gemm_values, wait_values, zeros, write_values = (
        parts.gemm_keys[1], parts.wait_keys[1], parts.zeros[1], parts.write_keys[1]
    )  # fmt: skip
    begin_dq, add_dq, wait_dq = parts.make_dq(0)
    exponential, share_words = make_column_exponential(BLOCK_M // 2), make_share_words(BLOCK_M // 4)
    values = make_column_values(BLOCK_M // 2)
    judge_t, chain_t = make_judge_t(BLOCK_M // 2, program, level, shape.key.mask, fast=shape.key.dtype == "bf16")
    exponent_scale, HEADS, DO_BYTES = make_exponent_scale_t(program), shape.asks_head, shape.do_bytes

    @device
    def consume_values(dv_map, sums, base, barriers, heads_kv, batch, seqlen_q, seqlen_k, together, scale, aux):
        lane_0 = cuda.threadIdx.x & 31 == 0
        step = int32(0)
        phase_kv = int32(0)
        turn = int32(cuda.blockIdx.x)
        while turn < count_tiles(seqlen_k) * heads_kv * batch:
            tile_k, head_kv, index = locate(turn, count_tiles(seqlen_k), heads_kv, batch, together)
            mbarrier_wait(barriers + K_FULL, phase_kv)
            phase_kv ^= 1
            dv = zeros()
            word = int32(0)
            while word & LAST == 0:
                stage = step % STAGES
                phase = (step // STAGES) & 1
                slot = barriers + RING + SLOT * stage
                thread = opaque(cuda.threadIdx.x) & 127
                column = (thread & 3) * 2
                mbarrier_wait(slot, phase)
                word = int32(ld_shared_u32(barriers + MESSAGES + 16 * stage))
                number = int32(ld_shared_u32(barriers + MESSAGES + 16 * stage + 4))
                scores = gemm_scores(k_major(base), k_major(base + Q_OFFSET + stage * Q_BYTES))
                lse = values(base + LSE_OFFSET + stage * ROW_BYTES + column * 4)
                scores = wait_scores(scores)
                kv0 = tile_k * BLOCK_N + (thread >> 5) * 16 + ((thread & 31) >> 2)
                start = (word >> TILE) * BLOCK_M + column
                head = int32(ld_shared_u32(barriers + MESSAGES + 16 * stage + 8)) if HEADS else int32(0)
                scores, slopes = judge_t(scores, scale, word & 1, index, head, kv0, kv0 + 8, start, seqlen_q, seqlen_k, aux)
                scores = exponential(scores, exponent_scale(scale), lse)
                weights = pack(scores)
                mbarrier_wait(barriers + P_EMPTY, step & 1 ^ 1)
                share_words(pack(chain_t(scores, slopes)), base + P_OFFSET + thread * 16)
                bar_warp_sync(-1)
                if lane_0:
                    mbarrier_arrive(slot + EMPTY)
                    mbarrier_arrive(barriers + P_FULL)
                mbarrier_wait(slot + SECOND, phase)
                dv = gemm_values(dv, weights, q_columns(base + DO_OFFSET + stage * DO_BYTES))
                dq = wait_dq(begin_dq(base, barriers, step))
                dv = wait_values(dv)
                if lane_0:
                    mbarrier_arrive(slot + SECOND + EMPTY)
                    mbarrier_arrive(barriers + DS_EMPTY + 8 * (step & 1))
                add_dq(dq, sums, number, barriers, step)
                step = int32(step + 1)
            # V is no longer read: the other consumer's last dS was made from it.
            tile_k, head_kv, index = locate(opaque(turn), count_tiles(seqlen_k), heads_kv, batch, together)
            write_values(dv_map, dv, base + V_OFFSET, int32(0), tile_k * BLOCK_N, head_kv, index)
            if lane_0:
                mbarrier_arrive(barriers + KV_EMPTY)
            turn = int32(turn + cuda.gridDim.x)

    return consume_values


def _make_keys(shape: BackwardShape, parts: SimpleNamespace) -> Any:
    """The consumer of dK: dP^T and dS^T, dK += dS^T Q, and the second part of dQ."""
    BLOCK_M, BLOCK_N, STAGES = shape.key.block_m, shape.key.block_n, shape.key.stages
    V_OFFSET, Q_OFFSET, DO_OFFSET, DS_OFFSET, P_OFFSET, DELTA_OFFSET, Q_BYTES, DS_BYTES, ROW_BYTES, MESSAGES = (
        shape.v_offset, shape.q_offset, shape.do_offset, shape.ds_offset, shape.p_offset, shape.delta_offset, shape.q_bytes,
        shape.ds_bytes, shape.row_bytes, shape.message_offset,
    )  # fmt: skip
    count_tiles, k_major, q_columns, locate = parts.count_tiles, parts.k_major, parts.q_columns, parts.locate
    gemm_products, wait_scores, pack = parts.gemm_scores[1], parts.wait_scores, parts.pack
    gemm_keys, wait_keys, zeros, write_keys = parts.gemm_keys[0], parts.wait_keys[0], parts.zeros[0], parts.write_keys[0]
    begin_dq, add_dq, wait_dq = parts.make_dq(1)
    gradient, shared_values = make_column_gradient(BLOCK_M // 2), make_shared_values(BLOCK_M // 2, shape.key.dtype)
    values, DO_BYTES = make_column_values(BLOCK_M // 2), shape.do_bytes
    store_ds, scale_rows = make_stmatrix_words(BLOCK_M // 4), make_scale_rows(shape.key.head_dim // 2)

    @device
    def make_ds(products, delta, base, barriers, stage, step):
        """dS from dP and the other consumer's P, as the next product's operand; and in shared memory for dQ."""
        thread = opaque(cuda.threadIdx.x) & 127
        lane = thread & 31
        mbarrier_wait(barriers + P_FULL, step & 1)
        weights = shared_values(base + P_OFFSET + thread * 16)
        ds = pack(gradient(weights, products, delta))
        buffer = step & 1
        mbarrier_wait(barriers + DS_EMPTY + 8 * buffer, (step >> 1) & 1 ^ 1)
        # stmatrix: lane l addresses row l % 8 of matrix l // 8; matrices 0, 1 are rows 0-7, 8-15; 2, 3 the next columns
        row = (thread >> 5) * 16 + ((lane >> 3) & 1) * 8 + (lane & 7)
        store_ds(ds, base + DS_OFFSET + buffer * DS_BYTES + row * 128, BLOCK_N * 128, row & 7, lane >> 4)
        fence_proxy_async()
        bar_warp_sync(-1)
        if lane == 0:
            mbarrier_arrive(barriers + P_EMPTY)
            mbarrier_arrive(barriers + RING + SLOT * stage + SECOND + EMPTY)
            mbarrier_arrive(barriers + DS_FULL + 8 * buffer)
        return ds

    @device
    def consume_keys(dk_map, sums, base, barriers, heads_kv, batch, seqlen_q, seqlen_k, together, scale, aux):
        lane_0 = cuda.threadIdx.x & 31 == 0
        step = int32(0)
        phase_kv = int32(0)
        turn = int32(cuda.blockIdx.x)
        while turn < count_tiles(seqlen_k) * heads_kv * batch:
            mbarrier_wait(barriers + K_FULL, phase_kv)
            mbarrier_wait(barriers + V_FULL, phase_kv)
            phase_kv ^= 1
            dk = zeros()
            word = int32(0)
            while word & LAST == 0:
                stage = step % STAGES
                phase = (step // STAGES) & 1
                slot = barriers + RING + SLOT * stage
                mbarrier_wait(slot + SECOND, phase)
                products = gemm_products(k_major(base + V_OFFSET), k_major(base + DO_OFFSET + stage * DO_BYTES))
                delta = values(base + DELTA_OFFSET + stage * ROW_BYTES + (cuda.threadIdx.x & 3) * 8)
                ds = make_ds(wait_scores(products), delta, base, barriers, stage, step)
                mbarrier_wait(slot, phase)
                word = int32(ld_shared_u32(barriers + MESSAGES + 16 * stage))
                number = int32(ld_shared_u32(barriers + MESSAGES + 16 * stage + 4))
                dk = gemm_keys(dk, ds, q_columns(base + Q_OFFSET + stage * Q_BYTES))
                dq = wait_dq(begin_dq(base, barriers, step))
                dk = wait_keys(dk)
                if lane_0:
                    mbarrier_arrive(slot + EMPTY)
                    mbarrier_arrive(barriers + DS_EMPTY + 8 * (step & 1))
                add_dq(dq, sums, number, barriers, step)
                step = int32(step + 1)
            last = step - 1
            mbarrier_wait(barriers + DS_EMPTY + 8 * (last & 1), (last >> 1) & 1)  # nor does the other consumer read K
            tile_k, head_kv, index = locate(turn, count_tiles(seqlen_k), heads_kv, batch, together)
            write_keys(dk_map, scale_rows(dk, scale, scale), base, int32(1), tile_k * BLOCK_N, head_kv, index)
            if lane_0:
                mbarrier_arrive(barriers + KV_EMPTY)
            turn = int32(turn + cuda.gridDim.x)

    return consume_keys
