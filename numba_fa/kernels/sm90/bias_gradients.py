"""The gradients of biases' parameters on Hopper: float32 sums in a fixed order, scores and their gradients by tensor cores.

What is visited for what is as in `kernels/common/bias_gradients.py`. Two warpgroups compute, 64 queries of a tile each; a
thread of the first loads by TMA.
"""

from typing import Any

from numba_fa.dispatch.key import DispatchKey
from numba_fa.flash.line import make_line
from numba_fa.flash.online_softmax import ZERO
from numba_fa.flash.program import make_bias_slice, make_program
from numba_fa.jit import KernelSource, cuda, device, float32, int32
from numba_fa.kernels.common.bias_gradients import part_of
from numba_fa.kernels.common.gradient_variant import bias_number
from numba_fa.kernels.sm90.bias_collect import make_collect, make_put_array, make_put_tile
from numba_fa.kernels.sm90.bias_shape import (
    CONSUMERS,
    EMPTY,
    Q_FULL,
    QUERIES,
    RING,
    SECOND,
    SLOT,
    THREADS,
    TOGETHER,
    BiasShape,
)
from numba_fa.kernels.sm90.bias_tile import make_add_tile, make_bias_producer, make_bias_walk
from numba_fa.kernels.sm90.gradient_variant import DENSE_SIGNATURE, RELATIVE_SIGNATURE
from numba_fa.problem.tokens import tokens_of
from numba_fa.ptx.fragment import make_zeros
from numba_fa.ptx.integer import opaque, quotient
from numba_fa.ptx.mbarrier import fence_mbarrier_init, mbarrier_init
from numba_fa.ptx.memory import shared_address
from numba_fa.ptx.tma import tensor_map
from numba_fa.ptx.warp import bar_sync, make_setmaxnreg, warp_uniform
from numba_fa.tile.layout import SWIZZLE_ALIGNMENT

# Registers a thread of the first warpgroup and of the others; in all what 384 threads are launched with, 168.
_REGISTERS = (40, 232)


class _Parts:
    """Of a key: its functions, and what both kernels do alike. frame: as of `make_bias_walk`."""

    def __init__(self, key: DispatchKey, frame: Any) -> None:
        self.shape = BiasShape(key)
        program = make_program(key.mask, key.bias, device)
        bias = make_bias_slice(key.mask, key.bias, bias_number(key), device)
        assert bias is not None, f"{key.slug}: no parameter to learn"
        line = make_line(key.mask, key.bias, device)
        self.bias, self.level = bias, line if line and line.level else None
        self.walk = make_bias_walk(self.shape, program, frame)
        self.add_tile = make_add_tile(self.shape, program, bias, self.level)
        self.produce, self.prepare = make_bias_producer(self.shape, self.walk), _make_prepare(self.shape)
        self.zeros = make_zeros(key.block_n // 2)
        self.shrink, self.grow = make_setmaxnreg(_REGISTERS[0], "dec"), make_setmaxnreg(_REGISTERS[1], "inc")


def make_dense_gradient(key: DispatchKey) -> KernelSource:
    """The gradient of a dense bias; parameters in `kernels/sm90/gradient_variant.py`, key as of `bias_key`.

    A turn makes a tile of the bias's own array; blocks are persistent.
    """
    BLOCK_N = key.block_n

    @device
    def tiles(count, size):
        """Tiles in a length that the compiler does not know, one at least."""
        return max(int32(opaque(count) + (size - 1)) // size, int32(1))

    @device
    def place(turn, sizes):
        """(tile of queries, tile of keys, head, batch index) of a turn, as the bias has them."""
        _, _, _, _, _, _, own_heads, own_queries, own_keys = sizes
        across, down = int32(tiles(own_keys, BLOCK_N)), int32(tiles(own_queries, QUERIES))
        rest = quotient(turn, across)
        left = quotient(rest, down)
        index = quotient(left, own_heads)
        return int32(rest - left * down), int32(turn - rest * across), int32(left - index * own_heads), index

    @device
    def frame(turn, sizes):
        heads, _, seqlen_q, seqlen_k, batch, own_batch, own_heads, own_queries, own_keys = sizes
        m, n, own_head, own_index = place(turn, sizes)
        index, indices_end = part_of(batch, own_index, 1, opaque(own_batch))
        head, heads_end = part_of(heads, own_head, 1, opaque(own_heads))
        first, queries_end = part_of(seqlen_q, m, QUERIES, opaque(own_queries))
        start, keys_end = part_of(seqlen_k, n, BLOCK_N, opaque(own_keys))
        down, across = int32(queries_end - first + (QUERIES - 1)), int32(keys_end - start + (BLOCK_N - 1))
        parts = int32(indices_end - index), int32(heads_end - head), int32(down // QUERIES), int32(across // BLOCK_N)
        return (index, head, first, start), parts

    parts = _Parts(key, frame)
    shape, walk, add_tile, produce, prepare, zeros, shrink, grow = (
        parts.shape, parts.walk, parts.add_tile, parts.produce, parts.prepare, parts.zeros, parts.shrink, parts.grow,
    )  # fmt: skip
    BARRIERS, TILE_AT = shape.barrier_offset, shape.tile_offset
    put_tile, put_array = make_put_tile(shape), make_put_array(shape)

    def dense_gradient_sm90(
        q, k, v, do, rows, result, r_batch, r_head, r_query, r_key, heads, heads_kv, seqlen_q, seqlen_k, batch, own_batch,
        own_heads, own_queries, own_keys, scale, aux,
    ):  # fmt: skip
        shared = cuda.shared.array(0, float32)
        base = prepare(shared)
        barriers = int32(base + BARRIERS)
        sizes = (heads, heads_kv, seqlen_q, seqlen_k, batch, own_batch, own_heads, own_queries, own_keys)
        turns = int32(own_batch * own_heads * tiles(own_queries, QUERIES) * tiles(own_keys, BLOCK_N))
        if warp_uniform(cuda.threadIdx.x >> 7) == 0:
            shrink()
            if cuda.threadIdx.x == 0:
                produce(tensor_map(q), tensor_map(k), tensor_map(v), tensor_map(do), base, barriers, turns, sizes, aux)
        else:
            grow()
            step = int32(0)
            turn = int32(cuda.blockIdx.x)
            while turn < turns:
                totals = zeros()
                number, index, head, first, start = walk(turn, int32(0), sizes, aux)
                while number >= 0:
                    totals = add_tile(totals, rows, base, barriers, step, index, head, first, start, sizes, scale, aux)
                    step = int32(step + 1)
                    number, index, head, first, start = walk(turn, number + 1, sizes, aux)
                m, n, head, index = place(turn, sizes)
                bar_sync(TOGETHER, CONSUMERS)  # the tile before has been read
                put_tile(totals, base + TILE_AT)
                bar_sync(TOGETHER, CONSUMERS)
                at = index * r_batch + head * r_head + int32(m * QUERIES) * r_query + int32(n * BLOCK_N) * r_key
                room = (base + TILE_AT - shared_address(shared)) // 4
                put_array(shared, room, result, at, r_query, r_key, int32(own_queries - m * QUERIES),
                          int32(own_keys - n * BLOCK_N), own_queries == seqlen_q, own_keys == seqlen_k)  # fmt: skip
                turn = int32(turn + cuda.gridDim.x)

    return KernelSource(dense_gradient_sm90, DENSE_SIGNATURE, THREADS, shape.shared_bytes, tokens_of(key.mask, key.bias))


def make_relative_gradient(key: DispatchKey) -> KernelSource:
    """What each tile of queries adds to the gradients of ALiBi's slopes or T5's table: (batch, heads, tiles, parameters).

    Parameters in `kernels/sm90/gradient_variant.py`, key as of `bias_key`. A block has one turn, a tile of queries; the last
    tiles, which see most under a causal mask, first.
    """
    BLOCK_N = key.block_n

    @device
    def tiles_of(seqlen_q):
        return int32(seqlen_q + (QUERIES - 1)) // QUERIES

    @device
    def frame(turn, sizes):
        heads, _, seqlen_q, seqlen_k = sizes
        batch = quotient(cuda.gridDim.x, int32(tiles_of(seqlen_q) * heads))
        row = quotient(turn, int32(batch * heads))
        rest = int32(turn - row * batch * heads)
        index = quotient(rest, heads)
        places = index, int32(rest - index * heads), int32((tiles_of(seqlen_q) - 1 - row) * QUERIES), int32(0)
        return places, (int32(1), int32(1), int32(1), int32(int32(seqlen_k + (BLOCK_N - 1)) // BLOCK_N))

    parts = _Parts(key, frame)
    shape, walk, add_tile, produce, prepare, zeros, shrink, grow = (
        parts.shape, parts.walk, parts.add_tile, parts.produce, parts.prepare, parts.zeros, parts.shrink, parts.grow,
    )  # fmt: skip
    BARRIERS, COUNT, SUMS_AT = shape.barrier_offset, shape.buckets, shape.sums_offset
    collect, finish = make_collect(shape, parts.bias, parts.level)

    def relative_gradient_sm90(q, k, v, do, rows, result, heads, heads_kv, seqlen_q, seqlen_k, scale, aux):
        shared = cuda.shared.array(0, float32)
        base, sizes, turn = prepare(shared), (heads, heads_kv, seqlen_q, seqlen_k), int32(cuda.blockIdx.x)
        barriers = int32(base + BARRIERS)
        if warp_uniform(cuda.threadIdx.x >> 7) == 0:
            shrink()
            if cuda.threadIdx.x == 0:
                produce(tensor_map(q), tensor_map(k), tensor_map(v), tensor_map(do), base, barriers, int32(cuda.gridDim.x),
                        sizes, aux)  # fmt: skip
        else:
            grow()
            thread = int32(cuda.threadIdx.x - 128)
            sums = (base + SUMS_AT - shared_address(shared)) // 4
            for i in range(thread & 31, COUNT, 32):
                shared[sums + (thread >> 5) * COUNT + i] = ZERO
            total = ZERO
            step = int32(0)
            number, index, head, first, start = walk(turn, int32(0), sizes, aux)
            while number >= 0:
                gradients = add_tile(zeros(), rows, base, barriers, step, index, head, first, start, sizes, scale, aux)
                total = collect(total, gradients, shared, base, index, head, first, start, seqlen_q, seqlen_k, aux)
                step = int32(step + 1)
                number, index, head, first, start = walk(turn, number + 1, sizes, aux)
            finish(total, shared, base)
            bar_sync(TOGETHER, CONSUMERS)
            (index, head, first, _), _ = frame(turn, sizes)
            mine = ((index * heads + head) * tiles_of(seqlen_q) + first // QUERIES) * COUNT
            for i in range(thread, COUNT, CONSUMERS):
                all_warps = ZERO
                for warp in range(8):
                    all_warps += shared[sums + warp * COUNT + i]
                result[mine + i] = all_warps

    return KernelSource(
        relative_gradient_sm90, RELATIVE_SIGNATURE, THREADS, shape.shared_bytes, tokens_of(key.mask, key.bias)
    )


def _make_prepare(shape: BiasShape) -> Any:
    """prepare(shared) -> the address of the first operand; barriers are ready then."""
    ALIGN, BARRIERS, STAGES = SWIZZLE_ALIGNMENT - 1, shape.barrier_offset, shape.key.stages
    LOADS = 1 if shape.resident else 2  # of tiles that come to one slot

    @device
    def prepare(shared):
        base = int32((shared_address(shared) + ALIGN) & ~ALIGN)
        if cuda.threadIdx.x == 0:
            barriers = int32(base + BARRIERS)
            mbarrier_init(barriers + Q_FULL, 2)
            for stage in range(STAGES):
                slot = int32(barriers + RING + SLOT * stage)
                mbarrier_init(slot, LOADS)
                mbarrier_init(slot + SECOND, LOADS)
                mbarrier_init(slot + EMPTY, 8)
                mbarrier_init(slot + SECOND + EMPTY, 8)
            fence_mbarrier_init()
        cuda.syncthreads()
        return base

    return prepare
