"""What becomes of a tile of gradients of a bias's results on Hopper: sums for its parameters, or a tile of its array."""

from typing import Any

from numba_fa.flash.line import Line
from numba_fa.flash.online_softmax import ZERO
from numba_fa.flash.program import BiasSlice
from numba_fa.jit import cuda, device, int32
from numba_fa.kernels.common.bias_gradients import make_effect
from numba_fa.kernels.sm90.bias_shape import APART, CONSUMERS, QUERIES, BiasShape
from numba_fa.kernels.sm90.bias_tile import make_flat
from numba_fa.ptx.elementwise import make_map
from numba_fa.ptx.fragment import make_row_sum
from numba_fa.ptx.fragment_gradients import make_store_rows
from numba_fa.ptx.memory import shared_address
from numba_fa.ptx.warp import NOBODY, bar_sync, bar_warp_sync, first_lane, shfl_bfly

_UNROLLED = 8  # loads of a diagonal that are under way together


def make_put_tile(shape: BiasShape) -> Any:
    """put_tile(gradients, room): a thread's part of a tile of all queries."""
    ROW_BYTES, store_rows = shape.row_bytes, make_store_rows(shape.key.block_n // 2, shape.row_bytes)

    @device
    def put_tile(gradients, room):
        thread = int32(cuda.threadIdx.x - 128)
        lane = thread & 31
        store_rows(gradients, room + ((thread >> 5) * 16 + (lane >> 2)) * ROW_BYTES + (lane & 3) * 8)

    return put_tile


def make_put_array(shape: BiasShape) -> Any:
    """put_array(shared, room, result, at, r_query, r_key, queries, keys, by_query, by_key): a tile becomes one of the array.

    A row, a column or a number, where the array is broadcast along queries or keys: not by_query, not by_key. room: the
    tile's first element in `shared`; at: the first in `result`. queries, keys: how many the array has from there on.
    """
    BLOCK_N, PITCH = shape.key.block_n, shape.row_bytes // 4

    @device
    def put_array(shared, room, result, at, r_query, r_key, queries, keys, by_query, by_key):
        thread = int32(cuda.threadIdx.x - 128)
        if by_query and by_key:
            column = thread % BLOCK_N
            for row in range(thread // BLOCK_N, QUERIES, CONSUMERS // BLOCK_N):
                if row < queries and column < keys:
                    result[at + row * r_query + column * r_key] = shared[room + row * PITCH + column]
            return
        high, wide = QUERIES if by_query else 1, BLOCK_N if by_key else 1
        for i in range(thread, high * wide, CONSUMERS):
            row, column = i // wide, i % wide
            total = ZERO
            for r in range(row, row + QUERIES // high):
                for c in range(column, column + BLOCK_N // wide):
                    total += shared[room + r * PITCH + c]
            if row < queries and column < keys:
                result[at + row * r_query + column * r_key] = total

    return put_array


@device
def _warp_sum(value):
    for bit in (1, 2, 4, 8, 16):
        value = value + shfl_bfly(value, bit)
    return value


def make_collect(shape: BiasShape, bias: BiasSlice, level: Line | None) -> tuple[Any, Any]:
    """(collect, finish) of a bias whose parameters depend on positions alone: sums by warp and parameter in shared memory.

    collect(total, gradients, shared, base, index, head, first, start, seqlen_q, seqlen_k, aux) -> the thread's total.
    finish(total, shared, base): what is still in threads.
    """
    return _make_collect_one(shape, bias) if shape.buckets == 1 else _make_collect_many(shape, bias, level)


def _make_collect_one(shape: BiasShape, bias: BiasSlice) -> tuple[Any, Any]:
    """A single parameter's sum stays in registers."""
    COUNT, SUMS_AT, factor = shape.key.block_n // 2, shape.sums_offset, bias.factor

    @device
    def weighted(gradient, b, h, q_idx, kv_idx, aux):
        return gradient * factor(b, h, q_idx, kv_idx, aux)

    weigh, row_sum = make_map(COUNT, weighted, clamp=True), make_row_sum(COUNT)

    @device
    def collect(total, gradients, shared, base, index, head, first, start, seqlen_q, seqlen_k, aux):
        thread = int32(cuda.threadIdx.x - 128)
        lane = thread & 31
        q0 = int32(first + (thread >> 5) * 16 + (lane >> 2))
        places = index, head, min(q0, seqlen_q - 1), min(q0 + 8, seqlen_q - 1), int32(start + (lane & 3) * 2), seqlen_k - 1
        sums = row_sum(weigh(gradients, *places, aux))
        return total + (sums[0] + sums[1])

    @device
    def finish(total, shared, base):
        total = _warp_sum(total)
        warp = int32(cuda.threadIdx.x - 128) >> 5
        if cuda.threadIdx.x & 31 == 0:
            shared[(base + SUMS_AT - shared_address(shared)) // 4 + warp] += total

    return collect, finish


def _make_collect_many(shape: BiasShape, bias: BiasSlice, level: Line | None) -> tuple[Any, Any]:
    """A thread has a diagonal of its warpgroup's 64 queries by the keys, which reads one parameter.

    A warp then adds up what is of one parameter, parameter by parameter. Where the biases are known to add one number to
    the whole tile, that is of one parameter, and a warp adds up what it has in registers.
    """
    flat, row_sum = make_flat(level), make_row_sum(shape.key.block_n // 2)
    BLOCK_N, PITCH, COUNT = shape.key.block_n, shape.row_bytes // 4, shape.buckets
    TILE_AT, PLACES_AT, SUMS_AT = shape.tile_offset, shape.place_offset, shape.sums_offset
    put_tile, effect = make_put_tile(shape), make_effect(bias, COUNT)

    @device
    def diagonal(shared, tile, apart):
        """The sum of what lies `apart` columns ahead of its row; tile: of the row's first element, past `apart`."""
        total = ZERO
        for rows in range(0, 64, _UNROLLED):
            for more in range(_UNROLLED):
                row = rows + more
                inside = 0 <= row + apart < BLOCK_N
                value = shared[tile + (row * (PITCH + 1) if inside else -apart)]
                total += value if inside else ZERO
        return total

    @device
    def collect(total, gradients, shared, base, index, head, first, start, seqlen_q, seqlen_k, aux):
        thread = int32(cuda.threadIdx.x - 128)
        group, lane = int32(APART + (thread >> 7)), thread & 31
        room = base - shared_address(shared)
        last, end = int32(min(first + QUERIES, seqlen_q) - 1), int32(min(start + BLOCK_N, seqlen_k) - 1)
        if flat(index, head, first, last, start, end, aux):
            by_row = row_sum(gradients)
            found = _warp_sum(by_row[0] + by_row[1])
            factor, place = effect(index, head, first, start, aux)
            if lane == 0:
                shared[(room + SUMS_AT) // 4 + (thread >> 5) * COUNT + int32(place)] += found * factor
            return total
        bar_sync(group, 128)  # the tile before has been read
        put_tile(gradients, base + TILE_AT)
        bar_sync(group, 128)
        apart = int32((thread & 127) - 63)  # columns that the diagonal's keys are ahead of its queries
        top = int32(thread >> 7 << 6)
        found = diagonal(shared, (room + TILE_AT) // 4 + top * PITCH + apart, apart)
        factor, place = effect(index, head, first + top + max(-apart, int32(0)), start + max(apart, int32(0)), aux)
        found = ZERO if found == ZERO else found * factor
        places, sums = (room + PLACES_AT) // 4 + (thread & ~31), (room + SUMS_AT) // 4 + (thread >> 5) * COUNT
        shared[places + lane] = place  # those before have been read: what was added up depends on them
        bar_warp_sync(-1)
        left = int32(found != ZERO)
        leader = first_lane(left)
        while leader != NOBODY:
            wanted = shared[places + leader]
            mine = left != 0 and place == wanted
            more = _warp_sum(found if mine else ZERO)
            if lane == 0:
                shared[sums + int32(wanted)] += more
            left = int32(0) if mine else left
            leader = first_lane(left)
        return total

    @device
    def finish(total, shared, base):
        pass

    return collect, finish
