"""The Hopper backward's producer: one thread that decides which query tiles are visited and keeps the ring full of them."""

from typing import Any

from numba_fa.flash.program import Program
from numba_fa.jit import cuda, device, int32, int64
from numba_fa.kernels.sm90.backward_shape import EMPTY, K_FULL, KV_EMPTY, RING, SECOND, SLOT, V_FULL, BackwardShape
from numba_fa.ptx.bulk import bulk_load
from numba_fa.ptx.mbarrier import mbarrier_expect_tx, mbarrier_wait
from numba_fa.ptx.memory import st_shared_u32
from numba_fa.ptx.tma import prefetch_tensormap, tma_load

# A message's first word says of a query tile: bits 0 and 1, whether consumer 0, 1 must mask it; whether it is the last of
# its tile of keys; from TILE up, its number. The second word is its head.
LAST, TILE = 4, 3


def place(turn, tiles, heads_kv):
    """The (tile of keys, key head, batch index) of a turn: a head's tiles one after another, the first ones first.

    Under a causal mask the first keys have the most queries, so that within a head the longest work starts earliest.
    """
    head = turn // tiles
    return turn - head * tiles, head % heads_kv, head // heads_kv


def make_backward_producer(shape: BackwardShape, program: Program) -> Any:
    """produce(q, k, v, do, lse, delta, base, barriers, heads, heads_kv, batch, seqlen_q, seqlen_k, aux) loads all tiles."""
    key = shape.key
    BLOCK_M, BLOCK_N, STAGES, ATOMS = key.block_m, key.block_n, key.stages, shape.atoms
    Q_BYTES, KV_BYTES, Q_ATOM, KV_ATOM, ROW_BYTES = (
        shape.q_bytes, shape.kv_bytes, shape.q_atom, shape.kv_atom, shape.row_bytes
    )  # fmt: skip
    V_OFFSET, Q_OFFSET, DO_OFFSET = shape.v_offset, shape.q_offset, shape.do_offset
    LSE_OFFSET, DELTA_OFFSET, MESSAGES = shape.lse_offset, shape.delta_offset, shape.message_offset
    CAUSAL = key.mask == "causal"
    reach, whole, locate = program.reach, program.whole, device(place)

    @device
    def to_mask(index, head, tile, start, seqlen_q, seqlen_k, aux):
        """One bit a consumer: whether a query of the tile may not see a key of its 64."""
        first = tile * BLOCK_M
        last = min(first + BLOCK_M, seqlen_q) - 1
        bits = 0
        for c in range(2):
            top = start + 64 * c
            if top + 64 > seqlen_k or not whole(index, head, first, last, top, top + 63, aux):
                bits |= 1 << c
        return bits

    @device
    def next_tile(index, head, tile, tiles, start, seqlen_q, seqlen_k, aux):
        """The first tile of queries from `tile` on of which one may see a key of this tile; `tiles` when there is none."""
        end = min(start + BLOCK_N, seqlen_k) - 1
        if CAUSAL:  # the same, without a look at each
            return max(tile, max(start - aux[0], 0) // BLOCK_M)
        while tile < tiles:
            first = tile * BLOCK_M
            if reach(index, head, first, min(first + BLOCK_M, seqlen_q) - 1, end, aux) >= start:
                break
            tile += 1
        return tile

    @device
    def load(room, tensor, full, rows, vector, row, first, head, index):
        """A tile of Q or dO with its rows' LSE or delta."""
        mbarrier_expect_tx(full, Q_BYTES + ROW_BYTES)
        for atom in range(ATOMS):
            tma_load(room + atom * Q_ATOM, tensor, full, 64 * atom, first, head, index)
        bulk_load(rows, vector + (row + first) * 4, ROW_BYTES, full)

    @device
    def produce(q, k, v, do, lse, delta, base, barriers, heads, heads_kv, batch, seqlen_q, seqlen_k, aux):
        prefetch_tensormap(q)
        prefetch_tensormap(k)
        prefetch_tensormap(v)
        prefetch_tensormap(do)
        group = heads // heads_kv
        tiles = int32((seqlen_q + BLOCK_M - 1) // BLOCK_M)
        tiles_k = int32((seqlen_k + BLOCK_N - 1) // BLOCK_N)
        total = int32(tiles_k * heads_kv * batch)
        step = int32(0)
        phase_kv = int32(1)  # the first wait for room must pass: nothing was there before
        turn = int32(cuda.blockIdx.x)
        while turn < total:
            tile_k, head_kv, index = locate(turn, tiles_k, heads_kv)
            start = int32(tile_k * BLOCK_N)
            mbarrier_wait(barriers + KV_EMPTY, phase_kv)
            phase_kv ^= 1
            mbarrier_expect_tx(barriers + K_FULL, KV_BYTES)
            for atom in range(ATOMS):
                tma_load(base + atom * KV_ATOM, k, barriers + K_FULL, 64 * atom, start, head_kv, index)
            fresh = True
            head = int32(head_kv * group)
            end = head + group
            tile = int32(next_tile(index, head, 0, tiles, start, seqlen_q, seqlen_k, aux))
            while head < end:
                if tile >= tiles:
                    # One tile even where nothing is seen: masked away, no special case.
                    tile = int32(tiles - 1)
                word = tile << TILE | to_mask(index, head, tile, start, seqlen_q, seqlen_k, aux)
                stage = step % STAGES
                phase = (step // STAGES) & 1 ^ 1
                full = barriers + RING + SLOT * stage
                row = int64(index * heads + head) * (tiles * BLOCK_M)
                first = tile * BLOCK_M
                row_head = head
                tile = int32(next_tile(index, head, tile + 1, tiles, start, seqlen_q, seqlen_k, aux))
                if tile >= tiles:
                    head = int32(head + 1)
                    tile = int32(next_tile(index, head, 0, tiles, start, seqlen_q, seqlen_k, aux) if head < end else 0)
                if head >= end:
                    word |= LAST
                mbarrier_wait(full + EMPTY, phase)
                st_shared_u32(barriers + MESSAGES + 8 * stage, word)
                st_shared_u32(barriers + MESSAGES + 8 * stage + 4, row_head)
                load(base + Q_OFFSET + stage * Q_BYTES, q, full, base + LSE_OFFSET + stage * ROW_BYTES, lse, row,
                     first, row_head, index)  # fmt: skip
                if fresh:
                    mbarrier_expect_tx(barriers + V_FULL, KV_BYTES)
                    for atom in range(ATOMS):
                        tma_load(base + V_OFFSET + atom * KV_ATOM, v, barriers + V_FULL, 64 * atom, start, head_kv, index)
                    fresh = False
                mbarrier_wait(full + SECOND + EMPTY, phase)
                load(base + DO_OFFSET + stage * Q_BYTES, do, full + SECOND, base + DELTA_OFFSET + stage * ROW_BYTES,
                     delta, row, first, row_head, index)  # fmt: skip
                step = int32(step + 1)
            turn = int32(turn + cuda.gridDim.x)

    return produce
