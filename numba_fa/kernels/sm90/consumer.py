"""The Hopper forward's consumer: a warpgroup that owns 64 queries of each tile."""

from typing import Any

import numpy as np

from numba_fa.flash.line import Line
from numba_fa.flash.program import Program
from numba_fa.flash.sink import make_join_sink
from numba_fa.jit import cuda, device, int32
from numba_fa.kernels.sm90.epilogue import make_epilogue
from numba_fa.kernels.sm90.judge import make_exponent_scale, make_judge
from numba_fa.kernels.sm90.producer import BLOCK, LAST
from numba_fa.kernels.sm90.shape import Shape
from numba_fa.kernels.sm90.softmax import make_softmax
from numba_fa.ptx.fragment import make_pack, make_pack_nothing, make_scale_rows, make_zeros
from numba_fa.ptx.mbarrier import mbarrier_arrive, mbarrier_wait
from numba_fa.ptx.memory import float_to_bits, ld_shared_u32
from numba_fa.ptx.tma import bulk_wait_group
from numba_fa.ptx.warp import bar_arrive, bar_sync, bar_warp_sync, warp_uniform
from numba_fa.ptx.wgmma import OPERAND, make_gemm_rs, make_gemm_ss, make_wait
from numba_fa.tile.layout import k_major_descriptor, k_major_step, mn_major_descriptor, mn_major_step
from numba_fa.tile.pipeline import EMPTY, HELD, HELD_EMPTY, HELD_SLOT, MESSAGE, SECOND, SLOT, message_offset, ring_offset


def make_consumer(shape: Shape, program: Program, line: Line | None, schedule: tuple[Any, Any]) -> Any:
    """consume(out, lse, base, barriers, consumer, tiles, heads, batch, seqlen_q, seqlen_k, together, scale, aux)."""
    key = shape.key
    BLOCK_M, BLOCK_N, STAGES, TOLD = key.block_m, key.block_n, key.stages, shape.told
    SCORES, OUTPUTS = key.block_n // 2, key.head_dim_v // 2
    RING, MESSAGES = ring_offset(shape.held), message_offset(shape.held, key.stages)
    Q_SLOTS, CONSUMERS, Q_STEP = shape.q_slots, shape.warpgroups, np.int64(shape.q_bytes >> 4)
    K_OFFSET, V_OFFSET, KV_ATOM, Q_ATOM = shape.k_offset, shape.v_offset, shape.kv_atom, shape.q_atom
    K_STEP, V_STEP = np.int64(shape.k_bytes >> 4), np.int64(shape.v_bytes >> 4)
    # Where consumers take turns, waiting for the output product before the exponentials is 3% quicker (findings 0006). The
    # assembler does that by itself, but not where it would take the wait out of a branch.
    AHEAD = shape.pingpong and line is not None
    PINGPONG, O_IN_Q, EARLY, HASTY = shape.pingpong, shape.o_in_q, shape.early, shape.hasty
    K_MAJOR, V_MAJOR = np.int64(k_major_descriptor()), np.int64(mn_major_descriptor(KV_ATOM))
    operand = OPERAND[key.dtype]
    gemm_qk = make_gemm_ss(
        BLOCK_N, key.head_dim // 16, operand, lambda k: k_major_step(k, Q_ATOM), lambda k: k_major_step(k, KV_ATOM)
    )
    gemm_pv = make_gemm_rs(key.head_dim_v, BLOCK_N // 16, operand, mn_major_step)
    wait_scores, wait_first, wait_output = make_wait(SCORES, 1), make_wait(SCORES, 0), make_wait(OUTPUTS, 0)
    wait_last = make_wait(OUTPUTS, 1 if EARLY else 0)
    zeros, scale_rows = make_zeros(OUTPUTS), make_scale_rows(OUTPUTS)
    judge_first, judge = [
        make_judge(SCORES, program, line, ragged=ragged, fast=key.dtype == "bf16") for ragged in (True, False)
    ]
    pack, pack_nothing = make_pack(SCORES, key.dtype), make_pack_nothing(SCORES)
    first_softmax, measure, weigh, quad_sum = make_softmax(SCORES, lifted=line is not None)
    write_out, write_lse = make_epilogue(shape)
    exponent_scale, join_sink = make_exponent_scale(program, line), make_join_sink(program)
    turn_at, place = schedule

    @device
    def held(barriers, consumer, number):
        """The FULL barrier of this consumer's slot for its number-th tile."""
        return barriers + HELD + HELD_SLOT * ((number % Q_SLOTS) * CONSUMERS + consumer)

    @device
    def after(stage, phase):
        """The ring's next slot and its parity. Carried along: dividing a step count delays every product's start."""
        last = stage == STAGES - 1
        return int32(0) if last else int32(stage + 1), int32(phase ^ 1) if last else phase

    @device
    def begin(barriers, consumer, q_tile, k_tile, number, stage, phase, more):
        """Start the first scores product of a tile, if there is one more; of what lies there, if not, for nobody."""
        if more:
            mbarrier_wait(held(barriers, consumer, number), (number // Q_SLOTS) & 1)
            mbarrier_wait(barriers + RING + SLOT * stage, phase)
        return gemm_qk(q_tile + np.int64(number % Q_SLOTS) * Q_STEP, k_tile + np.int64(stage) * K_STEP)

    @device
    def place_of(message, turn, tiles, heads, batch, together):
        """(first query, head, batch index) of a tile: as the producer says, or by four divisions."""
        if TOLD:
            first, head, index = ld_shared_u32(message + 4), ld_shared_u32(message + 8), ld_shared_u32(message + 12)
            return int32(warp_uniform(first)), int32(warp_uniform(head)), int32(warp_uniform(index))
        tile, head, index = place(turn, tiles, heads, batch, together)
        return int32(tile * BLOCK_M), head, index

    @device
    def consume(out, lse, base, barriers, consumer, tiles, heads, batch, seqlen_q, seqlen_k, together, scale, aux):
        total = int32(tiles * heads * batch)
        thread = int32(cuda.threadIdx.x & 127)
        leader = thread == 0
        lane_0 = thread & 31 == 0
        row = int32(consumer * 64 + (thread >> 5) * 16 + ((thread & 31) >> 2))
        column = int32((thread & 3) * 2)
        mine = int32(1 << consumer)
        scale_log2 = exponent_scale(scale)
        if PINGPONG and consumer == 1:
            bar_arrive(1, 256)  # the first turn is consumer 0's
        q_tile = K_MAJOR | np.int64(((base + consumer * 8192) & 0x3FFFF) >> 4)
        k_tile = K_MAJOR | np.int64(((base + K_OFFSET) & 0x3FFFF) >> 4)
        v_tile = V_MAJOR | np.int64(((base + V_OFFSET) & 0x3FFFF) >> 4)
        stage, phase = int32(0), int32(0)
        wave = int32(0)
        turn = int32(turn_at(wave, cuda.blockIdx.x, cuda.gridDim.x))
        scores = begin(barriers, consumer, q_tile, k_tile, wave, stage, phase, turn < total)
        while turn < total:
            top, head, index = place_of(barriers + MESSAGES + MESSAGE * stage, turn, tiles, heads, batch, together)
            q_mine = q_tile + np.int64(wave % Q_SLOTS) * Q_STEP
            first = int32(top + row)
            # Rows past the end compute like the last one and are not stored; a user's arrays end there.
            q0 = int32(min(first, seqlen_q - 1))
            q1 = int32(min(first + 8, seqlen_q - 1))

            full = barriers + RING + SLOT * stage
            word = int32(ld_shared_u32(barriers + MESSAGES + MESSAGE * stage))
            q_empty = held(barriers, consumer, wave) + HELD_EMPTY
            scores = wait_first(scores)
            if lane_0:
                mbarrier_arrive(full + EMPTY)
            if HASTY and leader and word & LAST:
                mbarrier_arrive(q_empty)
            start = int32((word >> BLOCK) * BLOCK_N + column)
            scores, _, _ = judge_first(scores, scale, word & mine, index, head, q0, q1, start, seqlen_k - 1, aux)
            scores, max0, max1, sum0, sum1 = first_softmax(scores, scale_log2)
            weights = pack(scores)
            output = zeros()
            while word & LAST == 0:
                v_stage = np.int64(stage) * V_STEP
                v_full = full + SECOND
                v_phase = phase
                stage, phase = after(stage, phase)
                full = barriers + RING + SLOT * stage
                mbarrier_wait(full, phase)
                word = int32(ld_shared_u32(barriers + MESSAGES + MESSAGE * stage))
                if PINGPONG:
                    bar_sync(1 + consumer, 256)
                scores = gemm_qk(q_mine, k_tile + np.int64(stage) * K_STEP)
                mbarrier_wait(v_full, v_phase)
                output = gemm_pv(output, weights, v_tile + v_stage)
                if PINGPONG:
                    bar_arrive(2 - consumer, 256)
                scores = wait_scores(scores)
                if lane_0:
                    mbarrier_arrive(full + EMPTY)
                if HASTY and leader and word & LAST:
                    mbarrier_arrive(q_empty)
                start = int32((word >> BLOCK) * BLOCK_N + column)
                scores, lift0, lift1 = judge(scores, scale, word & mine, index, head, q0, q1, start, seqlen_k - 1, aux)
                low0, low1, max0, max1, sum0, sum1, moved, keep0, keep1, seen = measure(
                    scores, lift0, lift1, max0, max1, sum0, sum1, scale_log2
                )
                if AHEAD:
                    output = wait_output(output)
                    if leader:
                        mbarrier_arrive(v_full + EMPTY)
                if seen:
                    scores, sum0, sum1 = weigh(scores, low0, low1, sum0, sum1, scale_log2)
                if not PINGPONG:  # else the assembler waits before the exponentials: 0.90x at head_dim 64, seqlen 8192
                    bar_warp_sync(~(float_to_bits(sum0 + sum1) & (word >> 31)))
                if not AHEAD:
                    output = wait_output(output)
                    if leader:
                        mbarrier_arrive(v_full + EMPTY)
                if seen:
                    weights = pack(scores)
                else:
                    weights = pack_nothing(scores, word >> 31)
                if moved:
                    output = scale_rows(output, keep0, keep1)
            if leader and not O_IN_Q and not HASTY:
                mbarrier_arrive(q_empty)
            if PINGPONG and EARLY:  # its first product is part of a turn, or it would push in before the other's
                bar_sync(1 + consumer, 256)
            mbarrier_wait(full + SECOND, phase)
            output = gemm_pv(output, weights, v_tile + np.int64(stage) * V_STEP)
            stage, phase = after(stage, phase)
            wave = int32(wave + 1)
            turn = int32(turn_at(wave, cuda.blockIdx.x, cuda.gridDim.x))
            if EARLY:
                scores = begin(barriers, consumer, q_tile, k_tile, wave, stage, phase, turn < total)
            if PINGPONG and EARLY:
                bar_arrive(2 - consumer, 256)
            sum0 = quad_sum(sum0)
            sum1 = quad_sum(sum1)
            output = wait_last(output)
            if leader:
                mbarrier_arrive(full + SECOND + EMPTY)
            top0, sum0, factor0 = join_sink(max0, sum0, scale_log2, head, aux)
            top1, sum1, factor1 = join_sink(max1, sum1, scale_log2, head, aux)
            output = scale_rows(output, factor0, factor1)
            write_out(out, output, base, q_empty, consumer, top, head, index)
            if lse != 0 and column == 0:
                row_lse = lse + (np.int64(index * heads + head) * seqlen_q + first) * 4
                write_lse(row_lse, first, seqlen_q, top0, sum0)
                write_lse(row_lse + 32, first + 8, seqlen_q, top1, sum1)
            if not EARLY:
                scores = begin(barriers, consumer, q_tile, k_tile, wave, stage, phase, turn < total)
        scores = wait_first(scores)
        if leader:
            bulk_wait_group()  # shared memory must outlive the last store that reads it

    return consume
