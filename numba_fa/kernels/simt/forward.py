"""Portable forward: FlashAttention-2's algorithm 1 (Dao 2023) in shared memory and scalar arithmetic, as in a textbook.

A block of 16 x 16 threads owns BLOCK_M queries of one head. Thread (x, y) computes the scores of the queries y, y + 16,
... against the keys x, x + 16, ..., and of the output the columns x, x + 16, ... of its queries.
"""

from typing import Any

import numpy as np

from numba_fa.dispatch.key import DispatchKey
from numba_fa.flash.convert import CONVERSIONS
from numba_fa.flash.online_softmax import LOG2_E, NEG_INF, ZERO, natural_lse, shift_of
from numba_fa.flash.program import Program, make_program
from numba_fa.flash.sink import make_join_sink
from numba_fa.jit import KernelSource, cuda, device, float32, int32, uint64
from numba_fa.kernels.common.scalar_tile import (
    SIDE,
    THREADS,
    columns_of,
    make_load_tile,
    make_multiply,
    make_store_weights,
    width_of,
)
from numba_fa.kernels.simt.variant import signature
from numba_fa.problem.tokens import tokens_of
from numba_fa.ptx.elementwise import index as place
from numba_fa.ptx.elementwise import real, scalars, to_float32
from numba_fa.ptx.math import ex2_approx
from numba_fa.ptx.memory import st_global_f32


def make_judge(program: Program) -> Any:
    """judge(score, scale, seen, index, head, q_idx, kv_idx, last_key, aux) -> scaled, biased and masked score.

    seen: whether the whole tile is visible. Without biases the scale is left to the softmax.
    """
    visible, modify = program.visible, program.modify

    @device
    def mask(score, seen, index, head, q_idx, kv_idx, last_key, aux):
        if seen:
            return score
        inside = kv_idx <= last_key
        seen = inside and visible(place(index), place(head), place(q_idx), place(min(kv_idx, last_key)), scalars(aux))
        return score if seen else NEG_INF

    if modify is None:

        @device
        def judge(score, scale, seen, index, head, q_idx, kv_idx, last_key, aux):
            return mask(score, seen, index, head, q_idx, kv_idx, last_key, aux)

        return judge

    @device
    def judge_biased(score, scale, seen, index, head, q_idx, kv_idx, last_key, aux):
        score = to_float32(modify(
            real(score * scale), place(index), place(head), place(q_idx), place(min(kv_idx, last_key)), scalars(aux)
        ))  # fmt: skip
        return mask(score, seen, index, head, q_idx, kv_idx, last_key, aux)

    return judge_biased


def make_forward(key: DispatchKey) -> KernelSource:
    """The portable forward kernel for `key`; its parameters are listed in `kernels/simt/variant.py`."""
    BLOCK_M, BLOCK_N, HEAD_DIM, HEAD_DIM_V = key.block_m, key.block_n, key.head_dim, key.head_dim_v
    ROWS, KEYS, COLUMNS, WIDTH = BLOCK_M // SIDE, BLOCK_N // SIDE, columns_of(key.widest), width_of(key.widest)
    K_AT, P_AT = BLOCK_M * WIDTH, (BLOCK_M + BLOCK_N) * WIDTH  # K and V take turns in one room
    P_WIDTH = BLOCK_N + 1
    program = make_program(key.mask, key.bias, device)
    reach, whole, judge, join_sink = program.reach, program.whole, make_judge(program), make_join_sink(program)
    BIASED = program.modify is not None
    load_tile, multiply = make_load_tile(key.dtype, key.widest), make_multiply(ROWS, KEYS, key.widest)
    store_weights, (_, _, store) = make_store_weights(ROWS, KEYS), CONVERSIONS[key.dtype]

    def forward_simt(
        q, k, v, out, lse, q_batch, q_seq, q_head, k_batch, k_seq, k_head, v_batch, v_seq, v_head,
        o_batch, o_seq, o_head, heads, heads_kv, seqlen_q, seqlen_k, scale, aux,
    ):  # fmt: skip
        shared = cuda.shared.array(0, float32)
        scores = cuda.local.array((ROWS, KEYS), float32)
        output = cuda.local.array((ROWS, COLUMNS), float32)
        row_max = cuda.local.array(ROWS, float32)
        row_sum = cuda.local.array(ROWS, float32)
        thread = int32(cuda.threadIdx.x)
        x, y = thread % SIDE, thread // SIDE
        first = cuda.blockIdx.x * BLOCK_M
        head, index = cuda.blockIdx.y, cuda.blockIdx.z
        head_kv = head // (heads // heads_kv)
        for r in range(ROWS):
            row_max[r] = NEG_INF
            row_sum[r] = ZERO
            for c in range(COLUMNS):
                output[r, c] = ZERO
        q_start = index * q_batch + first * q_seq + head * q_head
        load_tile(shared, q, q_start, q_seq, seqlen_q - first, HEAD_DIM, thread, BLOCK_M)

        last = min(first + BLOCK_M, seqlen_q) - 1
        scale_log2 = LOG2_E if BIASED else scale
        kv_idx = reach(index, head, first, last, seqlen_k - 1, aux)
        while kv_idx >= 0:
            start = kv_idx // BLOCK_N * BLOCK_N
            end = start + BLOCK_N - 1
            seen = end < seqlen_k and whole(index, head, first, last, start, end, aux)
            k_start = index * k_batch + start * k_seq + head_kv * k_head
            load_tile(shared[K_AT:], k, k_start, k_seq, seqlen_k - start, HEAD_DIM, thread, BLOCK_N)
            cuda.syncthreads()
            multiply(scores, shared, 0, K_AT, x, y)
            for r in range(ROWS):
                q_idx = min(first + y + SIDE * r, seqlen_q - 1)
                for n in range(KEYS):
                    own = start + x + SIDE * n
                    scores[r, n] = judge(scores[r, n], scale, seen, index, head, q_idx, own, seqlen_k - 1, aux)
            store_weights(scores, shared[P_AT:], x, y)
            cuda.syncthreads()  # scores are there, K has been read
            v_start = index * v_batch + start * v_seq + head_kv * v_head
            load_tile(shared[K_AT:], v, v_start, v_seq, seqlen_k - start, HEAD_DIM_V, thread, BLOCK_N)
            for r in range(ROWS):
                at = P_AT + (y + SIDE * r) * P_WIDTH
                new_max = row_max[r]
                for n in range(BLOCK_N):
                    new_max = max(new_max, shared[uint64(at + n)])
                shift = shift_of(new_max, scale_log2)
                rescale = ex2_approx(row_max[r] * scale_log2 - shift)
                row_max[r] = new_max
                row_sum[r] *= rescale
                for c in range(COLUMNS):
                    output[r, c] *= rescale
                for n in range(KEYS):
                    scores[r, n] = ex2_approx(scores[r, n] * scale_log2 - shift)
            cuda.syncthreads()  # every thread has its row's maximum, so scores may become weights
            store_weights(scores, shared[P_AT:], x, y)
            cuda.syncthreads()  # weights and V are there
            for n in range(BLOCK_N):
                for r in range(ROWS):
                    weight = shared[uint64(P_AT + (y + SIDE * r) * P_WIDTH + n)]
                    row_sum[r] += weight
                    for c in range(COLUMNS):
                        output[r, c] += weight * shared[uint64(K_AT + n * WIDTH + x + SIDE * c)]
            cuda.syncthreads()  # V and weights have been read
            kv_idx = reach(index, head, first, last, start - 1, aux) if start > 0 else -1

        for r in range(ROWS):
            row = first + y + SIDE * r
            if row < seqlen_q:
                shift, total, factor = join_sink(row_max[r], row_sum[r], scale_log2, head, aux)
                at = index * o_batch + row * o_seq + head * o_head
                for c in range(COLUMNS):
                    if x + SIDE * c < HEAD_DIM_V:
                        out[at + x + SIDE * c] = store(output[r, c] * factor)
                if lse != 0 and x == 0:
                    address = lse + (np.int64(index * heads + head) * seqlen_q + row) * 4
                    st_global_f32(address, natural_lse(shift, total))

    shared_bytes = 4 * (P_AT + BLOCK_M * P_WIDTH)
    return KernelSource(forward_simt, signature(key.dtype), THREADS, shared_bytes, tokens_of(key.mask, key.bias))
