"""The Hopper backward's order, for gradients equal bit by bit: each tile of dQ is added to by one block after another.

The last tile of keys that sees it comes first: under a causal mask its block has least to do and begins at the diagonal,
and the others follow a step behind one another without waiting. A tile's ticket in global memory holds 1 + the number of
the tile of keys that was added last, 0 before any. Of each block one thread waits for the tickets of the tiles that its
consumers will add to, and one writes them after. Blocks start in this order, so whom a block waits for runs already.
"""

from typing import Any

from numba_fa.flash.program import Program
from numba_fa.jit import cuda, device, int32, int64
from numba_fa.kernels.sm90.backward_scout import GHOST, LAST, TILE
from numba_fa.kernels.sm90.backward_shape import (
    ADDED,
    DONE,
    EMPTY,
    ORDER,
    RING,
    SLOT,
    TICKET,
    BackwardShape,
)
from numba_fa.kernels.sm90.backward_visits import looks, make_lockstep, make_look, make_place, make_visits
from numba_fa.ptx.mbarrier import mbarrier_arrive, mbarrier_wait
from numba_fa.ptx.memory import ld_shared_u32, st_shared_u32
from numba_fa.ptx.order import ticket_set, ticket_wait
from numba_fa.ptx.warp import bar_warp_sync

END = -1


def make_order(shape: BackwardShape, program: Program) -> tuple[Any, Any]:
    """(wait_turns, pass_turns) for two threads; the first for a warp where a mask has to be asked (`looks`).

    wait_turns(tickets, barriers, heads_kv, batch, seqlen_q, seqlen_k, together, aux). pass_turns(tickets, barriers).
    """
    BLOCK_N, STAGES, MESSAGES = shape.key.block_n, shape.key.stages, shape.message_offset
    CAUSAL = shape.key.mask == "causal"  # what one tile of keys is too late for, so are all that follow
    locate, (*_, visited) = make_place(shape), make_visits(shape, program)
    LOOKS = looks(shape, program)
    speaks, meet = make_lockstep(LOOKS)

    @device
    def seen_by(tile_k, index, head, tile, seqlen_q, seqlen_k, aux):
        return visited(index, head, tile, int32(tile_k * BLOCK_N), seqlen_q, seqlen_k, aux)

    look = make_look(seen_by)

    @device
    def before(index, head, tile, tile_k, tiles_k, seqlen_q, seqlen_k, aux):
        """The ticket that whoever adds to this tile before us leaves."""
        other = int32(tile_k + 1)
        if LOOKS:
            other = look(other, tiles_k, index, head, tile, seqlen_q, seqlen_k, aux)
            return int32(other + 1) if other < tiles_k else int32(0)
        while other < tiles_k:
            if seen_by(other, index, head, tile, seqlen_q, seqlen_k, aux):
                return int32(other + 1)
            other = int32(tiles_k) if CAUSAL else int32(other + 1)
        return int32(0)

    @device
    def hand_over(tickets, barriers, number, mine, first, step):
        """Once the pair of before is done, and the ticket of `number` is `first`, the consumers may add."""
        pair = step & 1
        mbarrier_wait(barriers + DONE + 8 * pair, (step >> 1) & 1 ^ 1)
        if mine != 0:
            ticket_wait(tickets + int64(number) * 4, first)
        st_shared_u32(barriers + TICKET + 8 * pair, number)
        st_shared_u32(barriers + TICKET + 8 * pair + 4, mine)
        mbarrier_arrive(barriers + ORDER + 8 * pair)

    @device
    def wait_turns(tickets, barriers, heads_kv, batch, seqlen_q, seqlen_k, together, aux):
        tiles_k = int32((seqlen_k + BLOCK_N - 1) // BLOCK_N)
        total = int32(tiles_k * heads_kv * batch)
        speaking = speaks()
        step = int32(0)
        turn = int32(cuda.blockIdx.x)
        while turn < total:
            tile_k, head_kv, index = locate(turn, tiles_k, heads_kv, batch, together)
            word = int32(0)
            while word & LAST == 0:
                stage = int32(step % STAGES)
                slot = int32(barriers + RING + SLOT * stage)
                if speaking:
                    mbarrier_wait(slot, (step // STAGES) & 1)
                meet()
                word = int32(ld_shared_u32(barriers + MESSAGES + 16 * stage))
                number = int32(ld_shared_u32(barriers + MESSAGES + 16 * stage + 4))
                head = int32(ld_shared_u32(barriers + MESSAGES + 16 * stage + 8))
                meet()
                if speaking:
                    mbarrier_arrive(slot + EMPTY)
                mine, first = int32(0), int32(0)  # no ticket for a tile to which nothing is added
                if word & GHOST == 0:
                    mine = int32(tile_k + 1)
                    first = before(index, head, word >> TILE, tile_k, tiles_k, seqlen_q, seqlen_k, aux)
                if speaking:
                    hand_over(tickets, barriers, number, mine, first, step)
                step = int32(step + 1)
            turn = int32(turn + cuda.gridDim.x)
        if speaking:
            hand_over(tickets, barriers, int32(END), int32(0), int32(0), step)

    @device
    def pass_turns(tickets, barriers):
        step = int32(0)
        number = int32(0)
        while number != END:
            pair = step & 1
            phase = (step >> 1) & 1
            mbarrier_wait(barriers + ORDER + 8 * pair, phase)
            number = int32(ld_shared_u32(barriers + TICKET + 8 * pair))
            if number != END:
                mine = int32(ld_shared_u32(barriers + TICKET + 8 * pair + 4))
                mbarrier_wait(barriers + ADDED + 8 * pair, phase)
                if mine != 0:
                    ticket_set(tickets + int64(number) * 4, mine)
                mbarrier_arrive(barriers + DONE + 8 * pair)
            step = int32(step + 1)

    return wait_turns, pass_turns


def make_ordered(shape: BackwardShape) -> tuple[Any, Any]:
    """(take_turn, end_turn)(barriers, step), around what a consumer adds; nothing where order does not matter."""
    ORDERED = shape.ordered

    @device
    def take_turn(barriers, step):
        if ORDERED:
            mbarrier_wait(barriers + ORDER + 8 * (step & 1), (step >> 1) & 1)

    @device
    def end_turn(barriers, step):
        if ORDERED:
            bar_warp_sync(-1)
            if cuda.threadIdx.x & 31 == 0:
                mbarrier_arrive(barriers + ADDED + 8 * (step & 1))

    return take_turn, end_turn
