"""Portable backward, the gradients of keys and values: FlashAttention-2's algorithm 2 (Dao 2023) as its outer loop has it.

A block owns BLOCK_N keys of one key head and visits the queries that see them, of every head that shares the key head: it
computes the weights P = exp(S - LSE) anew, then adds up dV = P^T dO and dK = scale * dS^T Q. All is transposed, S^T = K Q^T,
so that a thread's rows are keys. A key's gradients are one block's sums in one order, so they are the same at every run.
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
from numba_fa.kernels.common.signatures import keys_signature
from numba_fa.problem.tokens import tokens_of


def make_backward_keys(key: DispatchKey) -> KernelSource:
    """The kernel that computes dK and dV for `key`; its parameters are listed in `kernels/common/signatures.py`."""
    BLOCK_M, BLOCK_N, HEAD_DIM, HEAD_DIM_V = key.block_m, key.block_n, key.head_dim, key.head_dim_v
    ROWS, QUERIES, COLUMNS, WIDTH = BLOCK_N // SIDE, BLOCK_M // SIDE, columns_of(key.widest), width_of(key.widest)
    V_AT, Q_AT = BLOCK_N * WIDTH, 2 * BLOCK_N * WIDTH  # Q and dO take turns in one room
    P_AT = Q_AT + BLOCK_M * WIDTH  # P and dS too
    program = make_program(key.mask, key.bias, device)
    reach, whole = program.reach, program.whole
    judge, lse_and_delta = make_judge(program.visible, make_bend(program.modify)), make_lse_and_delta(BLOCK_M)
    load_tile, multiply = make_load_tile(key.dtype, key.widest), make_multiply(ROWS, QUERIES, key.widest)
    store_weights, accumulate = make_store_weights(ROWS, QUERIES), make_accumulate(ROWS, QUERIES, key.widest)
    _, _, store = CONVERSIONS[key.dtype]

    @device
    def store_rows(gradient, target, start, stride, factor, rows, columns, x, y):
        for r in range(ROWS):
            row = y + SIDE * r
            if row < rows:
                for c in range(COLUMNS):
                    if x + SIDE * c < columns:
                        target[start + row * stride + x + SIDE * c] = store(gradient[r, c] * factor)

    def backward_keys_simt(
        q, k, v, do, dk, dv, rows, q_batch, q_seq, q_head, k_batch, k_seq, k_head, v_batch, v_seq, v_head,
        do_batch, do_seq, do_head, dk_batch, dk_seq, dk_head, dv_batch, dv_seq, dv_head,
        heads, heads_kv, seqlen_q, seqlen_k, wants_dk, wants_dv, scale, aux,
    ):  # fmt: skip
        shared = cuda.shared.array(0, float32)
        products = cuda.local.array((ROWS, QUERIES), float32)
        weights = cuda.local.array((ROWS, QUERIES), float32)
        slopes = cuda.local.array((ROWS, QUERIES), float32)
        deltas = cuda.local.array(QUERIES, float32)
        k_gradient = cuda.local.array((ROWS, COLUMNS), float32)
        v_gradient = cuda.local.array((ROWS, COLUMNS), float32)
        thread = int32(cuda.threadIdx.x)
        x, y = thread % SIDE, thread // SIDE
        start = cuda.blockIdx.x * BLOCK_N
        end = min(start + BLOCK_N, seqlen_k) - 1
        head_kv, index = cuda.blockIdx.y, cuda.blockIdx.z
        group = heads // heads_kv
        k_start = index * k_batch + start * k_seq + head_kv * k_head
        v_start = index * v_batch + start * v_seq + head_kv * v_head
        load_tile(shared, k, k_start, k_seq, seqlen_k - start, HEAD_DIM, thread, BLOCK_N)
        load_tile(shared[V_AT:], v, v_start, v_seq, seqlen_k - start, HEAD_DIM_V, thread, BLOCK_N)
        for r in range(ROWS):
            for c in range(COLUMNS):
                k_gradient[r, c] = ZERO
                v_gradient[r, c] = ZERO

        for head in range(head_kv * group, head_kv * group + group):
            for first in range(0, seqlen_q, BLOCK_M):
                last = min(first + BLOCK_M, seqlen_q) - 1
                if end < start or reach(index, head, first, last, end, aux) < start:
                    continue
                inside = start + BLOCK_N <= seqlen_k and first + BLOCK_M <= seqlen_q
                seen = inside and whole(index, head, first, last, start, end, aux)
                q_start = index * q_batch + first * q_seq + head * q_head
                do_start = index * do_batch + first * do_seq + head * do_head
                load_tile(shared[Q_AT:], q, q_start, q_seq, seqlen_q - first, HEAD_DIM, thread, BLOCK_M)
                cuda.syncthreads()
                multiply(products, shared, 0, Q_AT, x, y)
                cuda.syncthreads()  # Q has been read
                load_tile(shared[Q_AT:], do, do_start, do_seq, seqlen_q - first, HEAD_DIM_V, thread, BLOCK_M)
                for n in range(QUERIES):
                    q_idx = first + x + SIDE * n
                    lse, deltas[n] = lse_and_delta(rows, index * heads + head, q_idx, seqlen_q)
                    for r in range(ROWS):
                        score, slopes[r, n] = judge(
                            products[r, n], scale, seen, index, head, q_idx, start + y + SIDE * r, seqlen_q, seqlen_k, aux
                        )
                        weights[r, n] = weight_of(score, lse)
                store_weights(weights, shared[P_AT:], x, y)
                cuda.syncthreads()
                if wants_dv != 0:
                    accumulate(v_gradient, shared, P_AT, Q_AT, x, y)
                if wants_dk != 0:
                    multiply(products, shared, V_AT, Q_AT, x, y)
                    for n in range(QUERIES):
                        for r in range(ROWS):
                            ds = gradient_of(weights[r, n], products[r, n], deltas[n])
                            weights[r, n] = chain(ds, slopes[r, n])
                    cuda.syncthreads()  # dO and P have been read
                    load_tile(shared[Q_AT:], q, q_start, q_seq, seqlen_q - first, HEAD_DIM, thread, BLOCK_M)
                    store_weights(weights, shared[P_AT:], x, y)
                    cuda.syncthreads()
                    accumulate(k_gradient, shared, P_AT, Q_AT, x, y)
                cuda.syncthreads()  # Q, dO and weights have been read

        if wants_dk != 0:
            at = index * dk_batch + start * dk_seq + head_kv * dk_head
            store_rows(k_gradient, dk, at, dk_seq, scale, seqlen_k - start, HEAD_DIM, x, y)
        if wants_dv != 0:
            at = index * dv_batch + start * dv_seq + head_kv * dv_head
            store_rows(v_gradient, dv, at, dv_seq, float32(1), seqlen_k - start, HEAD_DIM_V, x, y)

    shared_bytes = 4 * (P_AT + BLOCK_N * (BLOCK_M + 1))
    signature, tokens = keys_signature(key.dtype), tokens_of(key.mask, key.bias)
    return KernelSource(backward_keys_simt, signature, THREADS, shared_bytes, tokens)
