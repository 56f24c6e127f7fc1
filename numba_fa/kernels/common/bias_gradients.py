"""The gradients of biases' parameters, on any GPU beside any family's backward: float32 sums in a fixed order.

A dense bias has an element a score, or one for a row of scores that it is broadcast along: a block owns a tile of the
gradient and visits all tiles of scores that add to it. The other biases depend on how far key and query are apart alone: a
block sums up the diagonals of the tiles that one tile of queries sees, and another kernel adds up what the blocks found.
"""

from typing import Any

from numba_fa.dispatch.key import DispatchKey
from numba_fa.flash.online_softmax import ZERO
from numba_fa.flash.program import BiasSlice
from numba_fa.jit import KernelSource, cuda, device, float32, int32, uint64
from numba_fa.kernels.common.bias_tile import make_bias_tile
from numba_fa.kernels.common.gradient_variant import bias_number, parameter_count
from numba_fa.kernels.common.scalar_tile import SIDE, THREADS, make_store_weights
from numba_fa.kernels.common.signatures import SUM_SIGNATURE, dense_signature, relative_signature
from numba_fa.problem.tokens import tokens_of
from numba_fa.ptx.elementwise import index as position
from numba_fa.ptx.elementwise import scalars, to_float32
from numba_fa.ptx.warp import shfl_bfly

WARP = 32


@device
def part_of(axis, number, size, own):
    """(first, end) of what a block visits along an axis: part `number`, or all where the array is broadcast."""
    first, end = int32(0), int32(axis)
    if own == axis:
        first, end = int32(number * size), int32(min(number * size + size, axis))
    return first, end


def make_dense_gradient(key: DispatchKey) -> KernelSource:
    """The gradient of a dense bias; parameters in `kernels/common/signatures.py`, key as of `make_bias_tile`."""
    tile = make_bias_tile(key)
    BLOCK_M, BLOCK_N, ROWS, KEYS, ROOM_AT = tile.block_m, tile.block_n, tile.rows, tile.columns, tile.room_at
    reach, compute, store_weights = tile.program.reach, tile.compute, make_store_weights(ROWS, KEYS)

    def dense_gradient(
        q, k, v, do, rows, result, q_batch, q_seq, q_head, k_batch, k_seq, k_head, v_batch, v_seq, v_head,
        do_batch, do_seq, do_head, r_batch, r_head, r_query, r_key, heads, heads_kv, seqlen_q, seqlen_k,
        head_dim, head_dim_v, batch, own_batch, own_heads, own_queries, own_keys, scale, aux,
    ):  # fmt: skip
        shared = cuda.shared.array(0, float32)
        gradients = cuda.local.array((ROWS, KEYS), float32)
        products = cuda.local.array((ROWS, KEYS), float32)
        totals = cuda.local.array((ROWS, KEYS), float32)
        arrays, sizes = (q, k, v, do, rows), (heads, heads_kv, seqlen_q, seqlen_k, head_dim, head_dim_v)
        strides = (
            q_batch, q_seq, q_head, k_batch, k_seq, k_head, v_batch, v_seq, v_head, do_batch, do_seq, do_head,
        )  # fmt: skip
        thread = int32(cuda.threadIdx.x)
        x, y = thread % SIDE, thread // SIDE
        across = max((own_keys + BLOCK_N - 1) // BLOCK_N, 1)
        m, n = cuda.blockIdx.x // across, cuda.blockIdx.x % across
        index_first, index_end = part_of(batch, cuda.blockIdx.z, 1, own_batch)
        head_first, head_end = part_of(heads, cuda.blockIdx.y, 1, own_heads)
        q_first, q_end = part_of(seqlen_q, m, BLOCK_M, own_queries)
        kv_first, kv_end = part_of(seqlen_k, n, BLOCK_N, own_keys)
        for r in range(ROWS):
            for c in range(KEYS):
                totals[r, c] = ZERO

        for index in range(index_first, index_end):
            for head in range(head_first, head_end):
                for first in range(q_first, q_end, BLOCK_M):
                    last = min(first + BLOCK_M, seqlen_q) - 1
                    for start in range(kv_first, kv_end, BLOCK_N):
                        if reach(index, head, first, last, min(start + BLOCK_N, seqlen_k) - 1, aux) < start:
                            continue
                        compute(gradients, products, shared, arrays, strides, sizes, index, head, first, start, scale, aux,
                                thread)  # fmt: skip
                        for r in range(ROWS):
                            for c in range(KEYS):
                                totals[r, c] += gradients[r, c]

        # A tile of totals becomes one of the array: a row, a column or a number where that is broadcast.
        store_weights(totals, shared[ROOM_AT:], x, y)
        cuda.syncthreads()
        high, wide = BLOCK_M if own_queries == seqlen_q else 1, BLOCK_N if own_keys == seqlen_k else 1
        for i in range(thread, high * wide, THREADS):
            row, column = i // wide, i % wide
            total = ZERO
            for r in range(row, row + BLOCK_M // high):
                for c in range(column, column + BLOCK_N // wide):
                    total += shared[uint64(ROOM_AT + r * (BLOCK_N + 1) + c)]
            q_idx, kv_idx = m * BLOCK_M + row, n * BLOCK_N + column
            if q_idx < own_queries and kv_idx < own_keys:
                at = cuda.blockIdx.z * r_batch + cuda.blockIdx.y * r_head + q_idx * r_query + kv_idx * r_key
                result[at] = total

    shared_bytes = 4 * (ROOM_AT + BLOCK_M * (BLOCK_N + 1))
    return KernelSource(dense_gradient, dense_signature(key.dtype), THREADS, shared_bytes, tokens_of(key.mask, key.bias))


def make_relative_gradient(key: DispatchKey) -> KernelSource:
    """What each tile of queries adds to the gradients of ALiBi's slopes or T5's table: (batch, heads, tiles, parameters).

    Parameters in `kernels/common/signatures.py`, key as of `make_bias_tile`.
    """
    tile = make_bias_tile(key)
    BLOCK_M, BLOCK_N, ROWS, KEYS, ROOM_AT = tile.block_m, tile.block_n, tile.rows, tile.columns, tile.room_at
    DIAGONALS, COUNT = BLOCK_M + BLOCK_N - 1, parameter_count(key.bias.split("+")[bias_number(key)])
    SUMS_AT = ROOM_AT + BLOCK_M * (BLOCK_N + 1)
    PLACES_AT = SUMS_AT + DIAGONALS
    reach, compute, store_weights = tile.program.reach, tile.compute, make_store_weights(ROWS, KEYS)
    effect = make_effect(tile.bias, COUNT)

    @device
    def sum_diagonals(shared, index, head, first, start, aux, thread):
        """Of each diagonal the sum of gradients times the bias's derivative by its parameter; and which parameter."""
        for i in range(thread, DIAGONALS, THREADS):
            apart = i - (BLOCK_M - 1)  # columns that the diagonal's keys are ahead of its queries
            total = ZERO
            for row in range(BLOCK_M):
                if 0 <= row + apart < BLOCK_N:
                    total += shared[uint64(ROOM_AT + row * (BLOCK_N + 1) + row + apart)]
            factor, place = effect(index, head, first + max(-apart, 0), start + max(apart, 0), aux)
            shared[uint64(SUMS_AT + i)] = ZERO if total == ZERO else total * factor
            shared[uint64(PLACES_AT + i)] = place

    def relative_gradient(
        q, k, v, do, rows, parts, q_batch, q_seq, q_head, k_batch, k_seq, k_head, v_batch, v_seq, v_head,
        do_batch, do_seq, do_head, heads, heads_kv, seqlen_q, seqlen_k, head_dim, head_dim_v, scale, aux,
    ):  # fmt: skip
        shared = cuda.shared.array(0, float32)
        gradients = cuda.local.array((ROWS, KEYS), float32)
        products = cuda.local.array((ROWS, KEYS), float32)
        arrays, sizes = (q, k, v, do, rows), (heads, heads_kv, seqlen_q, seqlen_k, head_dim, head_dim_v)
        strides = (
            q_batch, q_seq, q_head, k_batch, k_seq, k_head, v_batch, v_seq, v_head, do_batch, do_seq, do_head,
        )  # fmt: skip
        thread = int32(cuda.threadIdx.x)
        x, y = thread % SIDE, thread // SIDE
        first = cuda.blockIdx.x * BLOCK_M
        head, index = cuda.blockIdx.y, cuda.blockIdx.z
        mine = ((index * heads + head) * cuda.gridDim.x + cuda.blockIdx.x) * COUNT
        for i in range(thread, COUNT, THREADS):
            parts[mine + i] = ZERO

        last = min(first + BLOCK_M, seqlen_q) - 1
        kv_idx = reach(index, head, first, last, seqlen_k - 1, aux)
        while kv_idx >= 0:
            start = kv_idx // BLOCK_N * BLOCK_N
            compute(gradients, products, shared, arrays, strides, sizes, index, head, first, start, scale, aux, thread)
            store_weights(gradients, shared[ROOM_AT:], x, y)
            cuda.syncthreads()
            sum_diagonals(shared, index, head, first, start, aux, thread)
            cuda.syncthreads()
            for i in range(thread, COUNT, THREADS):
                total = parts[mine + i]
                for diagonal in range(DIAGONALS):
                    if shared[uint64(PLACES_AT + diagonal)] == float32(i):
                        total += shared[uint64(SUMS_AT + diagonal)]
                parts[mine + i] = total
            kv_idx = reach(index, head, first, last, start - 1, aux) if start > 0 else -1

    signature, tokens = relative_signature(key.dtype), tokens_of(key.mask, key.bias)
    return KernelSource(relative_gradient, signature, THREADS, 4 * (PLACES_AT + DIAGONALS), tokens)


def make_effect(bias: BiasSlice, count: int) -> Any:
    """effect(index, head, q_idx, kv_idx, aux) -> (factor, which of a head's `count` parameters), both float32."""
    factor, place = bias.factor, bias.place

    @device
    def effect(index, head, q_idx, kv_idx, aux):
        at = position(index), position(head), position(q_idx), position(kv_idx)
        which = to_float32(place(*at, scalars(aux))[0]) if count > 1 else ZERO
        return to_float32(factor(*at, scalars(aux))), which

    return effect


def make_bias_sum(key: DispatchKey) -> KernelSource:
    """The gradients of a relative bias's parameters, of what its tiles of queries added; a warp makes one of them.

    Parameters in `kernels/common/signatures.py`; the grid is (parameters, heads, batch indices that have their own).
    """

    def bias_sum(parts, result, r_batch, r_head, r_place, batch, tiles):
        lane = int32(cuda.threadIdx.x)
        i, head, index = cuda.blockIdx.x, cuda.blockIdx.y, cuda.blockIdx.z
        heads, together = cuda.gridDim.y, batch // cuda.gridDim.z  # batch indices that share their parameters
        total = ZERO
        for part in range(lane, together * tiles, WARP):
            number = ((index * together + part // tiles) * heads + head) * tiles + part % tiles
            total += parts[number * cuda.gridDim.x + i]
        for bit in (1, 2, 4, 8, 16):
            total = total + shfl_bfly(total, bit)
        if lane == 0:
            result[index * r_batch + head * r_head + i * r_place] = total

    return KernelSource(bias_sum, SUM_SIGNATURE, WARP, 0)
