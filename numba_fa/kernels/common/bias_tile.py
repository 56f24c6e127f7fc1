"""What the result of one bias gets of a loss's gradient, on a tile of queries and keys: computed anew, on any GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numba_fa.dispatch.key import DispatchKey
from numba_fa.flash.program import BiasSlice, Program, make_bias_slice, make_program
from numba_fa.jit import cuda, device
from numba_fa.kernels.common.gradient_variant import bias_number, bias_tile
from numba_fa.kernels.common.scalar_scores import (
    chain,
    gradient_of,
    make_bend_after,
    make_judge,
    make_lse_and_delta,
    weight_of,
)
from numba_fa.kernels.common.scalar_tile import SIDE, make_load_tile, make_multiply, width_of


@dataclass(frozen=True)
class BiasTile:
    """Tiles of block_m queries by block_n keys; a thread has rows x columns of one. room_at: shared memory left free.

    compute(gradients, products, shared, arrays, strides, sizes, index, head, first, start, scale, aux, thread) fills a
    thread's `gradients`, 0 where hidden; products is room for as many. arrays: q, k, v, dO and the preprocess's rows;
    strides: of batch, seqlen and head of each of the four; sizes: heads, heads_kv, seqlen_q, seqlen_k, head_dim,
    head_dim_v. All threads call it together.
    """

    block_m: int
    block_n: int
    rows: int
    columns: int
    room_at: int
    program: Program
    bias: BiasSlice
    compute: Any


def make_bias_tile(key: DispatchKey) -> BiasTile:
    """Of bias number n of a key whose op ends in n. key.block_m: queries a tile of the preprocess's rows."""
    (BLOCK_M, BLOCK_N), WIDTH = bias_tile(key), width_of(key.widest)
    ROWS, KEYS, B_AT = BLOCK_M // SIDE, BLOCK_N // SIDE, BLOCK_M * WIDTH
    program = make_program(key.mask, key.bias, device)
    bias = make_bias_slice(key.mask, key.bias, bias_number(key), device)
    assert bias is not None, f"{key.slug}: no parameter to learn"
    whole, judge = program.whole, make_judge(program.visible, make_bend_after(bias.until, bias.after))
    lse_and_delta = make_lse_and_delta(key.block_m)
    load_tile, multiply = make_load_tile(key.dtype, key.widest), make_multiply(ROWS, KEYS, key.widest)

    @device
    def compute(gradients, products, shared, arrays, strides, sizes, index, head, first, start, scale, aux, thread):
        q, k, v, do, rows = arrays
        q_batch, q_seq, q_head, k_batch, k_seq, k_head, v_batch, v_seq, v_head, do_batch, do_seq, do_head = strides
        heads, heads_kv, seqlen_q, seqlen_k, head_dim, head_dim_v = sizes
        x, y = thread % SIDE, thread // SIDE
        head_kv = head // (heads // heads_kv)
        last, end = min(first + BLOCK_M, seqlen_q) - 1, start + BLOCK_N - 1
        inside = end < seqlen_k and first + BLOCK_M <= seqlen_q
        seen = inside and whole(index, head, first, last, start, end, aux)
        q_start = index * q_batch + first * q_seq + head * q_head
        k_start = index * k_batch + start * k_seq + head_kv * k_head
        load_tile(shared, q, q_start, q_seq, seqlen_q - first, head_dim, thread, BLOCK_M)
        load_tile(shared[B_AT:], k, k_start, k_seq, seqlen_k - start, head_dim, thread, BLOCK_N)
        cuda.syncthreads()
        multiply(gradients, shared, 0, B_AT, x, y)
        cuda.syncthreads()  # Q and K have been read
        do_start = index * do_batch + first * do_seq + head * do_head
        v_start = index * v_batch + start * v_seq + head_kv * v_head
        load_tile(shared, do, do_start, do_seq, seqlen_q - first, head_dim_v, thread, BLOCK_M)
        load_tile(shared[B_AT:], v, v_start, v_seq, seqlen_k - start, head_dim_v, thread, BLOCK_N)
        cuda.syncthreads()
        multiply(products, shared, 0, B_AT, x, y)
        for r in range(ROWS):
            q_idx = first + y + SIDE * r
            lse, delta = lse_and_delta(rows, index * heads + head, q_idx, seqlen_q)
            for n in range(KEYS):
                score, slope = judge(
                    gradients[r, n], scale, seen, index, head, q_idx, start + x + SIDE * n, seqlen_q, seqlen_k, aux
                )
                gradients[r, n] = chain(gradient_of(weight_of(score, lse), products[r, n], delta), slope)
        cuda.syncthreads()  # dO and V have been read

    room_at = (BLOCK_M + BLOCK_N) * WIDTH
    return BiasTile(BLOCK_M, BLOCK_N, ROWS, KEYS, room_at, program, bias, compute)
