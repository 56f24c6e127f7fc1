"""Portable backward, the gradient of the queries: FlashAttention-2's algorithm 2 (Dao 2023), a tile of queries at a time.

A block owns BLOCK_M queries of one head and visits the keys that they see, as the forward does: it computes the weights
P = exp(S - LSE) anew from S = Q K^T, then dS = P * (dO V^T - delta), and adds up dQ = scale * dS K. A query's gradient is
one block's sum in one order, so it is the same at every run.
"""

from numba_fa.dispatch.key import DispatchKey
from numba_fa.flash.convert import CONVERSIONS
from numba_fa.flash.online_softmax import ZERO
from numba_fa.flash.program import make_program
from numba_fa.jit import KernelSource, cuda, device, float32, int32
from numba_fa.kernels.common.scalar_scores import chain, gradient_of, make_bend, make_judge, make_lse_and_delta, weight_of
from numba_fa.kernels.common.scalar_tile import (
    SIDE,
    THREADS,
    columns_of,
    make_accumulate,
    make_load_tile,
    make_multiply,
    make_store_weights,
    width_of,
)
from numba_fa.kernels.common.signatures import queries_signature
from numba_fa.problem.tokens import tokens_of


def make_backward_queries(key: DispatchKey) -> KernelSource:
    """The kernel that computes dQ for `key`; its parameters are listed in `kernels/common/signatures.py`."""
    BLOCK_M, BLOCK_N, HEAD_DIM, HEAD_DIM_V = key.block_m, key.block_n, key.head_dim, key.head_dim_v
    ROWS, KEYS, COLUMNS, WIDTH = BLOCK_M // SIDE, BLOCK_N // SIDE, columns_of(key.widest), width_of(key.widest)
    DO_AT, KV_AT = BLOCK_M * WIDTH, 2 * BLOCK_M * WIDTH  # K and V take turns in one room
    DS_AT = KV_AT + BLOCK_N * WIDTH
    program = make_program(key.mask, key.bias, device)
    reach, whole = program.reach, program.whole
    judge, lse_and_delta = make_judge(program.visible, make_bend(program.modify)), make_lse_and_delta(BLOCK_M)
    load_tile, multiply = make_load_tile(key.dtype, key.widest), make_multiply(ROWS, KEYS, key.widest)
    store_weights, accumulate = make_store_weights(ROWS, KEYS), make_accumulate(ROWS, KEYS, key.widest)
    _, _, store = CONVERSIONS[key.dtype]

    def backward_queries_simt(
        q, k, v, do, dq, rows, q_batch, q_seq, q_head, k_batch, k_seq, k_head, v_batch, v_seq, v_head,
        do_batch, do_seq, do_head, dq_batch, dq_seq, dq_head, heads, heads_kv, seqlen_q, seqlen_k, scale, aux,
    ):  # fmt: skip
        shared = cuda.shared.array(0, float32)
        products = cuda.local.array((ROWS, KEYS), float32)
        weights = cuda.local.array((ROWS, KEYS), float32)
        slopes = cuda.local.array((ROWS, KEYS), float32)
        gradient = cuda.local.array((ROWS, COLUMNS), float32)
        lse = cuda.local.array(ROWS, float32)
        delta = cuda.local.array(ROWS, float32)
        thread = int32(cuda.threadIdx.x)
        x, y = thread % SIDE, thread // SIDE
        first = cuda.blockIdx.x * BLOCK_M
        head, index = cuda.blockIdx.y, cuda.blockIdx.z
        head_kv = head // (heads // heads_kv)
        q_start = index * q_batch + first * q_seq + head * q_head
        do_start = index * do_batch + first * do_seq + head * do_head
        load_tile(shared, q, q_start, q_seq, seqlen_q - first, HEAD_DIM, thread, BLOCK_M)
        load_tile(shared[DO_AT:], do, do_start, do_seq, seqlen_q - first, HEAD_DIM_V, thread, BLOCK_M)
        for r in range(ROWS):
            lse[r], delta[r] = lse_and_delta(rows, index * heads + head, first + y + SIDE * r, seqlen_q)
            for c in range(COLUMNS):
                gradient[r, c] = ZERO

        last = min(first + BLOCK_M, seqlen_q) - 1
        kv_idx = reach(index, head, first, last, seqlen_k - 1, aux)
        while kv_idx >= 0:
            start = kv_idx // BLOCK_N * BLOCK_N
            end = start + BLOCK_N - 1
            inside = end < seqlen_k and first + BLOCK_M <= seqlen_q
            seen = inside and whole(index, head, first, last, start, end, aux)
            k_start = index * k_batch + start * k_seq + head_kv * k_head
            v_start = index * v_batch + start * v_seq + head_kv * v_head
            load_tile(shared[KV_AT:], k, k_start, k_seq, seqlen_k - start, HEAD_DIM, thread, BLOCK_N)
            cuda.syncthreads()
            multiply(products, shared, 0, KV_AT, x, y)
            cuda.syncthreads()  # K has been read
            load_tile(shared[KV_AT:], v, v_start, v_seq, seqlen_k - start, HEAD_DIM_V, thread, BLOCK_N)
            for r in range(ROWS):
                q_idx = first + y + SIDE * r
                for n in range(KEYS):
                    score, slopes[r, n] = judge(
                        products[r, n], scale, seen, index, head, q_idx, start + x + SIDE * n, seqlen_q, seqlen_k, aux
                    )
                    weights[r, n] = weight_of(score, lse[r])
            cuda.syncthreads()
            multiply(products, shared, DO_AT, KV_AT, x, y)
            for r in range(ROWS):
                for n in range(KEYS):
                    weights[r, n] = chain(gradient_of(weights[r, n], products[r, n], delta[r]), slopes[r, n])
            cuda.syncthreads()  # V has been read
            load_tile(shared[KV_AT:], k, k_start, k_seq, seqlen_k - start, HEAD_DIM, thread, BLOCK_N)
            store_weights(weights, shared[DS_AT:], x, y)
            cuda.syncthreads()
            accumulate(gradient, shared, DS_AT, KV_AT, x, y)
            cuda.syncthreads()  # K and dS have been read
            kv_idx = reach(index, head, first, last, start - 1, aux) if start > 0 else -1

        for r in range(ROWS):
            row = first + y + SIDE * r
            if row < seqlen_q:
                at = index * dq_batch + row * dq_seq + head * dq_head
                for c in range(COLUMNS):
                    if x + SIDE * c < HEAD_DIM:
                        dq[at + x + SIDE * c] = store(gradient[r, c] * scale)

    shared_bytes = 4 * (DS_AT + BLOCK_M * (BLOCK_N + 1))
    signature, tokens = queries_signature(key.dtype), tokens_of(key.mask, key.bias)
    return KernelSource(backward_queries_simt, signature, THREADS, shared_bytes, tokens)
