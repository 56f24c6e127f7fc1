"""Where the Hopper backward's blocks work: the tile of keys of each turn, and the tiles of queries that see one."""

from typing import Any

from numba_fa.flash.program import Program
from numba_fa.jit import cuda, device, int32
from numba_fa.kernels.sm90.backward_shape import BackwardShape
from numba_fa.kernels.sm90.questions import make_reach
from numba_fa.ptx.integer import opaque, quotient
from numba_fa.ptx.warp import NOBODY, bar_warp_sync, first_lane


def make_count_tiles(shape: BackwardShape) -> Any:
    """count_tiles(seqlen_k) -> tiles of keys of a head; counted anew at each use, for registers are dear in loops."""
    BLOCK_N = shape.key.block_n
    LOG_N = BLOCK_N.bit_length() - 1

    @device
    def count_tiles(seqlen_k):
        return int32(opaque(seqlen_k) + (BLOCK_N - 1)) >> LOG_N

    return count_tiles


def make_place(shape: BackwardShape) -> Any:
    """place(turn, tiles, heads_kv, batch, together) -> (tile of keys, key head, batch index) of a turn.

    The first tile of `together` heads, then the second of each: under a causal mask the first keys have the most queries,
    so that the longest work starts earliest. Where dQ is summed up in an order (`backward_order.py`), the last tile first.
    It is `tile/scheduler.py: locate` by divisions of 32 bits: consumers here have no registers for longer ones.
    """
    LAST_FIRST = shape.ordered

    @device
    def place(turn, tiles, heads_kv, batch, together):
        group = int32(quotient(turn, int32(together * tiles)) * together)
        here = min(together, int32(heads_kv * batch - group))
        rest = int32(turn - group * tiles)
        row = quotient(rest, here)
        head = int32(group + rest - row * here)
        index = quotient(head, heads_kv)
        return int32(tiles - 1 - row) if LAST_FIRST else row, int32(head - index * heads_kv), index

    return place


def make_visits(shape: BackwardShape, program: Program) -> tuple[Any, Any, Any]:
    """Which tiles of queries a block visits, of one head: (first_tile, next_tile, visited).

    first_tile(index, head, tiles, start, seqlen_q, seqlen_k, aux) and next_tile(index, head, tile, tiles, start, ...): the
    first there is, and the first from `tile` on; `tiles` when there is none. Called by a whole warp where `looks` says so.
    visited(index, head, tile, start, ...): whether a tile is one of them. start: the block's first key.
    """
    BLOCK_M, BLOCK_N = shape.key.block_m, shape.key.block_n
    LOG_M = BLOCK_M.bit_length() - 1
    CAUSAL, WINDOW, LOOKS = shape.key.mask == "causal", shape.key.mask == "window", looks(shape, program)
    BEHIND = 1 if WINDOW else 0  # where in aux it says how far behind a query its last key may lie
    reach = make_reach(program)

    @device
    def sees(index, head, tile, start, seqlen_q, seqlen_k, aux):
        """Whether a query of a tile, not before `begin`, may see a key of this block's."""
        end = int32(min(start + BLOCK_N, seqlen_k) - 1)
        first = int32(tile * BLOCK_M)
        if WINDOW:
            return first <= int32(end - aux[0]) or start < aux[2]
        if LOOKS:
            last = int32(min(first + BLOCK_M, seqlen_q) - 1)
            return reach(index, head, first, last, end, aux) >= start
        return True

    @device
    def seen_at(tile, index, head, start, seqlen_q, seqlen_k, aux):
        return sees(index, head, tile, start, seqlen_q, seqlen_k, aux)

    look = make_look(seen_at)

    @device
    def next_tile(index, head, tile, tiles, start, seqlen_q, seqlen_k, aux):
        if WINDOW:
            return tile if sees(index, head, tile, start, seqlen_q, seqlen_k, aux) else tiles
        return look(tile, tiles, index, head, start, seqlen_q, seqlen_k, aux) if LOOKS else tile

    @device
    def begin(start, aux):
        """The tile of the first query that sees the first key, where it is known; from there on next_tile has to look."""
        return int32(max(int32(start - aux[BEHIND]), int32(0)) >> LOG_M) if CAUSAL or WINDOW else int32(0)

    @device
    def first_tile(index, head, tiles, start, seqlen_q, seqlen_k, aux):
        return next_tile(index, head, begin(start, aux), tiles, start, seqlen_q, seqlen_k, aux)

    @device
    def visited(index, head, tile, start, seqlen_q, seqlen_k, aux):
        return tile >= begin(start, aux) and sees(index, head, tile, start, seqlen_q, seqlen_k, aux)

    return first_tile, next_tile, visited


def looks(shape: BackwardShape, program: Program) -> bool:
    """Whether a mask has to be asked of each tile of queries, since arithmetic does not say where they begin and end."""
    return not program.full and shape.key.mask not in ("causal", "window")


def make_look(seen_at: Any) -> Any:
    """look(at, end, index, head, other, seqlen_q, seqlen_k, aux) -> the first number from `at` on of which
    seen_at(number, index, head, other, ...) holds; `end` when there is none before it.

    By a whole warp, each lane a number: 32 looks take about as long as one, which is a load from a table away.
    """

    @device
    def look(at, end, index, head, other, seqlen_q, seqlen_k, aux):
        looked = int32(NOBODY)
        while looked == NOBODY and at < end:
            mine = int32(at + (cuda.threadIdx.x & 31))
            there = mine < end and seen_at(mine, index, head, other, seqlen_q, seqlen_k, aux)
            looked = int32(first_lane(int32(there)))
            at = int32(at + looked)
        return min(at, end)

    return look


def make_lockstep(warp: bool) -> tuple[Any, Any]:
    """(speaks() -> whether this lane waits, writes and arrives for all; meet() of all lanes) of a warp, or of a thread."""

    @device
    def speaks():
        return not warp or cuda.threadIdx.x & 31 == 0

    @device
    def meet():
        if warp:
            bar_warp_sync(-1)

    return speaks, meet
