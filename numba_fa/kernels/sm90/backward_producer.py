"""The Hopper backward's producer: one thread that decides which query tiles are visited and keeps the ring full of them."""

from typing import Any

from numba_fa.flash.program import Program
from numba_fa.jit import cuda, device, int32, int64
from numba_fa.kernels.sm90.backward_shape import EMPTY, K_FULL, KV_EMPTY, RING, SECOND, SLOT, V_FULL, BackwardShape
from numba_fa.ptx.bulk import bulk_load
from numba_fa.ptx.elementwise import index as position
from numba_fa.ptx.elementwise import scalars, to_int32
from numba_fa.ptx.integer import opaque, quotient
from numba_fa.ptx.mbarrier import mbarrier_expect_tx, mbarrier_wait
from numba_fa.ptx.memory import st_shared_u32
from numba_fa.ptx.tma import prefetch_tensormap, tma_load

# A message's first word says of a query tile: bits 0 and 1, whether consumer 0, 1 must mask it; whether it is the last of
# its tile of keys; whether nothing is seen of it; from TILE up, its number. The second word is its number among the tiles
# of all heads and batch indices, the third its head.
LAST, GHOST, TILE = 4, 8, 4


def place(turn, tiles, heads_kv):
    """The (tile of keys, key head, batch index) of a turn: a head's tiles one after another, the first ones first.

    Under a causal mask the first keys have the most queries, so that within a head the longest work starts earliest.
    """
    head = quotient(turn, tiles)
    index = quotient(head, heads_kv)
    return int32(turn - head * tiles), int32(head - index * heads_kv), index


def make_backward_producer(shape: BackwardShape, program: Program) -> Any:
    """produce(q, k, v, do, rows, base, barriers, heads, heads_kv, batch, seqlen_q, seqlen_k, aux) loads all tiles."""
    key = shape.key
    BLOCK_M, BLOCK_N, STAGES, ATOMS = key.block_m, key.block_n, key.stages, shape.atoms
    Q_BYTES, KV_BYTES, Q_ATOM, KV_ATOM, ROW_BYTES = (
        shape.q_bytes, shape.kv_bytes, shape.q_atom, shape.kv_atom, shape.row_bytes
    )  # fmt: skip
    V_OFFSET, Q_OFFSET, DO_OFFSET = shape.v_offset, shape.q_offset, shape.do_offset
    LSE_OFFSET, DELTA_OFFSET, MESSAGES = shape.lse_offset, shape.delta_offset, shape.message_offset
    CONSUMERS = BLOCK_N // 64  # that own keys of their own
    LOG_M = BLOCK_M.bit_length() - 1
    EVERY, CAUSAL, WINDOW = program.full, key.mask == "causal", key.mask == "window"
    BEHIND = 1 if WINDOW else 0  # where in aux it says how far behind a query its last key may lie
    visible_up_to, seen_whole, locate = program.reach, program.whole, device(place)

    @device
    def whole(index, head, first, last, start, end, aux):
        return seen_whole(position(index), position(head), position(first), position(last), position(start),
                          position(end), scalars(aux))  # fmt: skip

    @device
    def reach(index, head, first, last, kv_idx, aux):
        return to_int32(visible_up_to(position(index), position(head), position(first), position(last), position(kv_idx),
                                      scalars(aux)))  # fmt: skip

    @device
    def to_mask(index, head, first, last, start, seqlen_k, aux):
        """One bit a consumer: whether one of the queries may not see a key of its 64."""
        bits = int32(0)
        for c in range(CONSUMERS):
            top = int32(opaque(start) + 64 * c)
            if top + 64 > seqlen_k or not whole(index, head, first, last, top, top + 63, aux):
                bits |= int32(1 << c)
        return bits

    @device
    def next_tile(index, head, tile, tiles, start, seqlen_q, seqlen_k, aux):
        """The first tile of queries from `tile` on of which one may see a key of this tile; `tiles` when there is none."""
        if EVERY or CAUSAL:
            return tile
        end = int32(min(start + BLOCK_N, seqlen_k) - 1)
        if WINDOW:
            behind = int32(tile * BLOCK_M) > int32(end - aux[0]) and start >= aux[2]
            return tiles if behind else tile
        while tile < tiles:
            first = int32(tile * BLOCK_M)
            last = int32(min(first + BLOCK_M, seqlen_q) - 1)
            if reach(index, head, first, last, end, aux) >= start:
                break
            tile = int32(tile + 1)
        return tile

    @device
    def first_tile(index, head, tiles, start, seqlen_q, seqlen_k, aux):
        """The first of a head, from where on next_tile has to look."""
        tile = int32(0)
        if CAUSAL or WINDOW:  # the first query that sees the first key
            tile = int32(max(int32(start - aux[BEHIND]), int32(0)) >> LOG_M)
        return next_tile(index, head, tile, tiles, start, seqlen_q, seqlen_k, aux)

    @device
    def load(room, tensor, full, row_room, vector, first, head, index):
        """A tile of Q or dO with its rows' LSE or delta."""
        mbarrier_expect_tx(full, Q_BYTES + ROW_BYTES)
        for atom in range(ATOMS):
            tma_load(room + atom * Q_ATOM, tensor, full, 64 * atom, first, head, index)
        bulk_load(row_room, vector, ROW_BYTES, full)

    @device
    def load_keys(room, tensor, full, start, head, index):
        mbarrier_expect_tx(full, KV_BYTES)
        for atom in range(ATOMS):
            tma_load(room + atom * KV_ATOM, tensor, full, 64 * atom, start, head, index)

    @device
    def produce(q, k, v, do, rows, base, barriers, heads, heads_kv, batch, seqlen_q, seqlen_k, aux):
        prefetch_tensormap(q)
        prefetch_tensormap(k)
        prefetch_tensormap(v)
        prefetch_tensormap(do)
        group = quotient(heads, heads_kv)
        tiles = int32((seqlen_q + BLOCK_M - 1) // BLOCK_M)
        tiles_k = int32((seqlen_k + BLOCK_N - 1) // BLOCK_N)
        total = int32(tiles_k * heads_kv * batch)
        stage = int32(0)
        phase = int32(1)
        phase_kv = int32(1)  # the first wait for room must pass: nothing was there before
        turn = int32(cuda.blockIdx.x)
        while turn < total:
            tile_k, head_kv, index = locate(turn, tiles_k, heads_kv)
            start = int32(tile_k * BLOCK_N)
            mbarrier_wait(barriers + KV_EMPTY, phase_kv)
            phase_kv ^= 1
            load_keys(base, k, barriers + K_FULL, start, head_kv, index)
            load_keys(base + V_OFFSET, v, barriers + V_FULL, start, head_kv, index)
            left = group
            head = int32(head_kv * group)
            tile = first_tile(index, head, tiles, start, seqlen_q, seqlen_k, aux)
            while left > 0:
                ghost = int32(GHOST) if tile >= tiles else int32(0)
                tile = min(tile, int32(tiles - 1))  # one tile even where nothing is seen: masked away, no special case
                visited = tile
                first = int32(tile * BLOCK_M)
                row_head = head
                last = int32(min(first + BLOCK_M, seqlen_q) - 1)
                word = int32(tile << TILE) | ghost | to_mask(index, head, first, last, start, seqlen_k, aux)
                tile = next_tile(index, head, int32(tile + 1), tiles, start, seqlen_q, seqlen_k, aux)
                if tile >= tiles:
                    head = int32(head + 1)
                    left = int32(left - 1)
                    if left == 0:
                        word |= int32(LAST)
                    else:
                        tile = first_tile(index, head, tiles, start, seqlen_q, seqlen_k, aux)
                room = opaque(base)
                full = int32(barriers + RING + SLOT * stage)
                number = int32(int32(index * heads + row_head) * tiles + visited)
                vector = rows + int64(number) * (2 * ROW_BYTES)
                mbarrier_wait(full + EMPTY, phase)
                st_shared_u32(barriers + MESSAGES + 16 * stage, word)
                st_shared_u32(barriers + MESSAGES + 16 * stage + 4, number)
                st_shared_u32(barriers + MESSAGES + 16 * stage + 8, row_head)
                load(room + Q_OFFSET + stage * Q_BYTES, q, full, room + LSE_OFFSET + stage * ROW_BYTES, vector,
                     first, row_head, index)  # fmt: skip
                mbarrier_wait(full + SECOND + EMPTY, phase)
                load(room + DO_OFFSET + stage * Q_BYTES, do, full + SECOND, room + DELTA_OFFSET + stage * ROW_BYTES,
                     vector + ROW_BYTES, first, row_head, index)  # fmt: skip
                stage = int32(stage + 1)
                if stage == STAGES:
                    stage = int32(0)
                    phase ^= 1
            turn = int32(turn + cuda.gridDim.x)

    return produce
