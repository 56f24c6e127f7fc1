"""The Hopper backward's scout: it decides which tiles of queries are visited, and tells all others.

A thread; a warp where a mask has to be asked of every tile. A message of four words comes with each slot of the ring. The
first says of a tile of queries: bits 0 and 1, whether consumer 0, 1 must judge it by element; LAST, that it is the last of
its tile of keys; GHOST, that nothing is seen of it; from TILE up, its number. The second is its number among the tiles of
all heads and batch indices, the third its head.
"""

from typing import Any

from numba_fa.flash.line import Line
from numba_fa.flash.program import Program
from numba_fa.jit import cuda, device, int32
from numba_fa.kernels.sm90.backward_shape import EMPTY, RING, SLOT, TOLD, BackwardShape
from numba_fa.kernels.sm90.backward_visits import looks, make_count_tiles, make_lockstep, make_place, make_visits
from numba_fa.kernels.sm90.questions import make_plain
from numba_fa.ptx.integer import opaque, quotient
from numba_fa.ptx.mbarrier import mbarrier_arrive, mbarrier_wait
from numba_fa.ptx.memory import st_shared_u32

LAST, GHOST, TILE = 4, 8, 4


def make_scout(shape: BackwardShape, program: Program, level: Line | None) -> Any:
    """scout(barriers, heads, heads_kv, batch, seqlen_q, seqlen_k, together, aux): every message of the block."""
    key = shape.key
    BLOCK_M, BLOCK_N, STAGES, MESSAGES = key.block_m, key.block_n, key.stages, shape.message_offset
    CONSUMERS = BLOCK_N // 64  # that own keys of their own
    LOG_M = BLOCK_M.bit_length() - 1
    plain, locate, count_tiles = make_plain(program, level), make_place(shape), make_count_tiles(shape)
    first_tile, next_tile, _ = make_visits(shape, program)
    speaks, meet = make_lockstep(looks(shape, program))

    @device
    def to_judge(index, head, first, last, start, seqlen_k, aux):
        """One bit a consumer: whether one of the queries may not see a key of its 64, or its biases are bent there."""
        bits = int32(0)
        for c in range(CONSUMERS):
            top = int32(opaque(start) + 64 * c)
            if int32(top + 64) > seqlen_k or not plain(index, head, first, last, top, top + 63, aux):
                bits |= int32(1 << c)
        return bits

    @device
    def scout(barriers, heads, heads_kv, batch, seqlen_q, seqlen_k, together, aux):
        tiles = int32(int32(seqlen_q + BLOCK_M - 1) >> LOG_M)
        stage = int32(0)
        phase = int32(1)
        turn = int32(cuda.blockIdx.x)
        # Counted again at every turn: registers are dear in the loop inside.
        while turn < count_tiles(seqlen_k) * heads_kv * batch:
            tile_k, head_kv, index = locate(turn, count_tiles(seqlen_k), heads_kv, batch, together)
            start = int32(tile_k * BLOCK_N)
            left = quotient(opaque(heads), heads_kv)
            head = int32(head_kv * left)
            tile = first_tile(index, head, tiles, start, seqlen_q, seqlen_k, aux)
            while left > 0:
                ghost = int32(GHOST) if tile >= tiles else int32(0)
                tile = min(tile, int32(tiles - 1))  # one tile even where nothing is seen: masked away, no special case
                first = int32(tile * BLOCK_M)
                last = int32(min(first + BLOCK_M, seqlen_q) - 1)
                word = int32(tile << TILE) | ghost | to_judge(index, head, first, last, start, seqlen_k, aux)
                number = int32(int32(index * heads + head) * tiles + tile)
                of_head = head
                tile = next_tile(index, head, int32(tile + 1), tiles, start, seqlen_q, seqlen_k, aux)
                if tile >= tiles:
                    head = int32(head + 1)
                    left = int32(left - 1)
                    if left == 0:
                        word |= int32(LAST)
                    else:
                        tile = first_tile(index, head, tiles, opaque(start), seqlen_q, seqlen_k, aux)
                if speaks():
                    slot = int32(barriers + RING + SLOT * stage)
                    mbarrier_wait(slot + EMPTY, phase)
                    st_shared_u32(barriers + MESSAGES + 16 * stage, word)
                    st_shared_u32(barriers + MESSAGES + 16 * stage + 4, number)
                    st_shared_u32(barriers + MESSAGES + 16 * stage + 8, of_head)
                    mbarrier_arrive(slot + TOLD)
                meet()
                stage = int32(stage + 1)
                if stage == STAGES:
                    stage = int32(0)
                    phase ^= 1
            turn = int32(turn + opaque(cuda.gridDim.x))

    return scout
