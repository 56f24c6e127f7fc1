"""The gradients of biases' parameters on Hopper: float32 sums in a fixed order, scores and their gradients by tensor cores.

What a block visits is as in `kernels/common/bias_gradients.py`. Two warpgroups compute, 64 queries of a tile each; a thread
of the first loads by TMA.
"""

from typing import Any

from numba_fa.dispatch.key import DispatchKey
from numba_fa.flash.online_softmax import ZERO
from numba_fa.flash.program import make_bias_slice, make_program
from numba_fa.jit import KernelSource, cuda, device, float32, int32
from numba_fa.kernels.common.bias_gradients import make_effect, part_of
from numba_fa.kernels.common.gradient_variant import bias_number
from numba_fa.kernels.sm90.bias_shape import (
    CONSUMERS,
    EMPTY,
    Q_FULL,
    QUERIES,
    RING,
    SECOND,
    SLOT,
    THREADS,
    BiasShape,
)
from numba_fa.kernels.sm90.bias_tile import make_add_tile, make_bias_producer, make_bias_walk
from numba_fa.kernels.sm90.gradient_variant import DENSE_SIGNATURE, RELATIVE_SIGNATURE
from numba_fa.problem.tokens import tokens_of
from numba_fa.ptx.fragment import make_zeros
from numba_fa.ptx.fragment_gradients import make_store_rows
from numba_fa.ptx.integer import opaque, quotient
from numba_fa.ptx.mbarrier import fence_mbarrier_init, mbarrier_init
from numba_fa.ptx.memory import shared_address
from numba_fa.ptx.tma import tensor_map
from numba_fa.ptx.warp import NOBODY, bar_sync, bar_warp_sync, first_lane, make_setmaxnreg, shfl_bfly, warp_uniform
from numba_fa.tile.layout import SWIZZLE_ALIGNMENT

# Registers a thread of the first warpgroup and of the others; in all what 384 threads are launched with, 168.
_REGISTERS = (40, 232)
_TOGETHER, _APART = 1, 2  # named barriers: of all that compute; and of one warpgroup, the next of the other


class _Parts:
    """Of a key: its functions, and what both kernels do alike."""

    def __init__(self, key: DispatchKey, frame: Any) -> None:
        self.shape = BiasShape(key)
        program = make_program(key.mask, key.bias, device)
        bias = make_bias_slice(key.mask, key.bias, bias_number(key), device)
        assert bias is not None, f"{key.slug}: no parameter to learn"
        self.effect = make_effect(bias, self.shape.buckets)
        self.walk = make_bias_walk(self.shape, program, frame)
        self.add_tile, self.produce = make_add_tile(self.shape, program, bias), make_bias_producer(self.shape, self.walk)
        self.prepare, self.put_tile = _make_prepare(self.shape), _make_put_tile(self.shape)
        self.zeros = make_zeros(key.block_n // 2)
        self.shrink, self.grow = make_setmaxnreg(_REGISTERS[0], "dec"), make_setmaxnreg(_REGISTERS[1], "inc")


def make_dense_gradient(key: DispatchKey) -> KernelSource:
    """The gradient of a dense bias; parameters in `kernels/sm90/gradient_variant.py`, key as of `bias_key`."""
    BLOCK_N = key.block_n

    @device
    def place(own_keys):
        """Numbers of the block's tile of the array, along queries and along keys."""
        across = max(int32(opaque(own_keys) + BLOCK_N - 1) // BLOCK_N, int32(1))
        m = quotient(cuda.blockIdx.x, across)
        return m, int32(cuda.blockIdx.x - m * across)

    @device
    def frame(sizes):
        heads, _, seqlen_q, seqlen_k, batch, own_batch, own_heads, own_queries, own_keys = sizes
        m, n = place(own_keys)
        index, indices_end = part_of(batch, cuda.blockIdx.z, 1, opaque(own_batch))
        head, heads_end = part_of(heads, cuda.blockIdx.y, 1, opaque(own_heads))
        first, queries_end = part_of(seqlen_q, m, QUERIES, opaque(own_queries))
        start, keys_end = part_of(seqlen_k, n, BLOCK_N, opaque(own_keys))
        tiles_q = int32(queries_end - first + (QUERIES - 1)) // QUERIES
        tiles_k = int32(keys_end - start + (BLOCK_N - 1)) // BLOCK_N
        return (index, head, first, start), (
            int32(indices_end - index), int32(heads_end - head), int32(tiles_q), int32(tiles_k),
        )  # fmt: skip

    parts = _Parts(key, frame)
    shape, walk, add_tile, produce, prepare, zeros, shrink, grow, put_tile = (
        parts.shape, parts.walk, parts.add_tile, parts.produce, parts.prepare, parts.zeros, parts.shrink, parts.grow,
        parts.put_tile,
    )  # fmt: skip
    PITCH, BARRIERS = shape.row_bytes // 4, shape.barrier_offset

    @device
    def put(totals, shared, base, result, strides, sizes):
        """A tile of totals becomes one of the array: a row, a column or a number where that is broadcast."""
        own_queries, own_keys = sizes[7], sizes[8]
        m, n = place(own_keys)
        thread = int32(cuda.threadIdx.x - 128)
        bar_sync(_TOGETHER, CONSUMERS)  # all operands have been read
        put_tile(totals, base)
        bar_sync(_TOGETHER, CONSUMERS)
        room = (base - shared_address(shared)) // 4
        high, wide = QUERIES if own_queries == sizes[2] else 1, BLOCK_N if own_keys == sizes[3] else 1
        for i in range(thread, high * wide, CONSUMERS):
            row, column = i // wide, i % wide
            total = ZERO
            for r in range(row, row + QUERIES // high):
                for c in range(column, column + BLOCK_N // wide):
                    total += shared[room + r * PITCH + c]
            q_idx, kv_idx = m * QUERIES + row, n * BLOCK_N + column
            if q_idx < own_queries and kv_idx < own_keys:
                at = cuda.blockIdx.z * strides[0] + cuda.blockIdx.y * strides[1] + q_idx * strides[2] + kv_idx * strides[3]
                result[at] = total

    def dense_gradient_sm90(
        q, k, v, do, rows, result, r_batch, r_head, r_query, r_key, heads, heads_kv, seqlen_q, seqlen_k, batch, own_batch,
        own_heads, own_queries, own_keys, scale, aux,
    ):  # fmt: skip
        shared = cuda.shared.array(0, float32)
        base = prepare(shared)
        barriers = int32(base + BARRIERS)
        sizes = (heads, heads_kv, seqlen_q, seqlen_k, batch, own_batch, own_heads, own_queries, own_keys)
        if warp_uniform(cuda.threadIdx.x >> 7) == 0:
            shrink()
            if cuda.threadIdx.x == 0:
                produce(tensor_map(q), tensor_map(k), tensor_map(v), tensor_map(do), base, barriers, sizes, aux)
        else:
            grow()
            totals = zeros()
            step = int32(0)
            number, index, head, first, start = walk(int32(0), sizes, aux)
            while number >= 0:
                totals = add_tile(totals, rows, base, barriers, step, index, head, first, start, sizes, scale, aux)
                step = int32(step + 1)
                number, index, head, first, start = walk(number + 1, sizes, aux)
            put(totals, shared, base, result, (r_batch, r_head, r_query, r_key), sizes)

    return KernelSource(dense_gradient_sm90, DENSE_SIGNATURE, THREADS, shape.shared_bytes, tokens_of(key.mask, key.bias))


def make_relative_gradient(key: DispatchKey) -> KernelSource:
    """What each tile of queries adds to the gradients of ALiBi's slopes or T5's table: (batch, heads, tiles, parameters).

    Parameters in `kernels/sm90/gradient_variant.py`, key as of `bias_key`.
    """
    BLOCK_N = key.block_n

    @device
    def frame(sizes):
        places = int32(cuda.blockIdx.z), int32(cuda.blockIdx.y), int32(cuda.blockIdx.x * QUERIES), int32(0)
        return places, (int32(1), int32(1), int32(1), int32(sizes[3] + (BLOCK_N - 1)) // BLOCK_N)

    parts = _Parts(key, frame)
    shape, walk, add_tile, produce, prepare, zeros, shrink, grow, put_tile = (
        parts.shape, parts.walk, parts.add_tile, parts.produce, parts.prepare, parts.zeros, parts.shrink, parts.grow,
        parts.put_tile,
    )  # fmt: skip
    BARRIERS, COUNT = shape.barrier_offset, shape.buckets
    TILE_AT, SUMS_AT = shape.tile_offset, shape.sums_offset
    sum_diagonals = _make_sum_diagonals(shape, parts.effect)

    def relative_gradient_sm90(q, k, v, do, rows, result, heads, heads_kv, seqlen_q, seqlen_k, scale, aux):
        shared = cuda.shared.array(0, float32)
        base, sizes = prepare(shared), (heads, heads_kv, seqlen_q, seqlen_k)
        barriers = int32(base + BARRIERS)
        if warp_uniform(cuda.threadIdx.x >> 7) == 0:
            shrink()
            if cuda.threadIdx.x == 0:
                produce(tensor_map(q), tensor_map(k), tensor_map(v), tensor_map(do), base, barriers, sizes, aux)
        else:
            grow()
            thread = int32(cuda.threadIdx.x - 128)
            group = int32(_APART + (thread >> 7))
            room = (base - shared_address(shared)) // 4
            sums = room + SUMS_AT // 4
            for i in range(thread & 31, COUNT, 32):
                shared[sums + (thread >> 5) * COUNT + i] = ZERO
            step = int32(0)
            number, index, head, first, start = walk(int32(0), sizes, aux)
            while number >= 0:
                gradients = add_tile(zeros(), rows, base, barriers, step, index, head, first, start, sizes, scale, aux)
                put_tile(gradients, base + TILE_AT)
                bar_sync(group, 128)
                sum_diagonals(shared, room, index, head, first, start, thread, aux)
                bar_sync(group, 128)
                step = int32(step + 1)
                number, index, head, first, start = walk(number + 1, sizes, aux)
            bar_sync(_TOGETHER, CONSUMERS)
            mine = ((cuda.blockIdx.z * heads + cuda.blockIdx.y) * cuda.gridDim.x + cuda.blockIdx.x) * COUNT
            for i in range(thread, COUNT, CONSUMERS):
                total = ZERO
                for warp in range(8):
                    total += shared[sums + warp * COUNT + i]
                result[mine + i] = total

    return KernelSource(
        relative_gradient_sm90, RELATIVE_SIGNATURE, THREADS, shape.shared_bytes, tokens_of(key.mask, key.bias)
    )


def _make_prepare(shape: BiasShape) -> Any:
    """prepare(shared) -> the address of the first operand; barriers are ready then."""
    ALIGN, BARRIERS, STAGES, ARRIVALS = SWIZZLE_ALIGNMENT - 1, shape.barrier_offset, shape.key.stages, shape.resident

    @device
    def prepare(shared):
        base = int32((shared_address(shared) + ALIGN) & ~ALIGN)
        if cuda.threadIdx.x == 0:
            barriers = int32(base + BARRIERS)
            mbarrier_init(barriers + Q_FULL, 2)
            for stage in range(STAGES):
                slot = int32(barriers + RING + SLOT * stage)
                mbarrier_init(slot, 1 if ARRIVALS else 2)
                mbarrier_init(slot + SECOND, 1 if ARRIVALS else 2)
                mbarrier_init(slot + EMPTY, 8)
                mbarrier_init(slot + SECOND + EMPTY, 8)
            fence_mbarrier_init()
        cuda.syncthreads()
        return base

    return prepare


def _make_put_tile(shape: BiasShape) -> Any:
    """put_tile(gradients, room): a thread's part of a tile of all queries."""
    ROW_BYTES, store_rows = shape.row_bytes, make_store_rows(shape.key.block_n // 2, shape.row_bytes)

    @device
    def put_tile(gradients, room):
        thread = int32(cuda.threadIdx.x - 128)
        lane = thread & 31
        store_rows(gradients, room + ((thread >> 5) * 16 + (lane >> 2)) * ROW_BYTES + (lane & 3) * 8)

    return put_tile


def _make_sum_diagonals(shape: BiasShape, effect: Any) -> Any:
    """sum_diagonals(shared, room, index, head, first, start, thread, aux): add a warpgroup's gradients to its warps' sums.

    A thread has a diagonal of its 64 queries by the keys: of it the sum of gradients, times the bias's derivative by the
    parameter. A warp then adds up what is of one parameter, parameter by parameter; far from the queries there is one.
    """
    BLOCK_N, PITCH, COUNT = shape.key.block_n, shape.row_bytes // 4, shape.buckets
    TILE_AT, PLACES_AT, SUMS_AT = shape.tile_offset // 4, shape.place_offset // 4, shape.sums_offset // 4

    @device
    def warp_sum(value):
        for bit in (1, 2, 4, 8, 16):
            value = value + shfl_bfly(value, bit)
        return value

    @device
    def sum_diagonals(shared, room, index, head, first, start, thread, aux):
        apart = int32((thread & 127) - 63)  # columns that the diagonal's keys are ahead of its queries
        top = int32(thread >> 7 << 6)
        tile = room + TILE_AT + top * PITCH + apart
        total = ZERO
        for row in range(max(-apart, int32(0)), min(int32(64), BLOCK_N - apart)):
            total += shared[tile + row * (PITCH + 1)]
        factor, place = effect(index, head, first + top + max(-apart, int32(0)), start + max(apart, int32(0)), aux)
        total = ZERO if total == ZERO else total * factor
        places, sums = room + PLACES_AT + (thread & ~31), room + SUMS_AT + (thread >> 5) * COUNT
        shared[places + (thread & 31)] = place
        bar_warp_sync(-1)
        left = int32(total != ZERO)
        lane = first_lane(left)
        while lane != NOBODY:
            wanted = shared[places + lane]
            mine = left != 0 and place == wanted
            found = warp_sum(total if mine else ZERO)
            if thread & 31 == 0:
                shared[sums + int32(wanted)] += found
            left = int32(0) if mine else left
            lane = first_lane(left)

    return sum_diagonals
