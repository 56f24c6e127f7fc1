"""The Hopper forward's producer: one thread that decides which key tiles are visited and keeps the ring full of them."""

from functools import cache
from typing import Any

from numba_fa.flash.line import Line
from numba_fa.flash.program import Program
from numba_fa.jit import cuda, device, int32
from numba_fa.kernels.sm90.load import make_load
from numba_fa.kernels.sm90.questions import make_plain, make_reach
from numba_fa.kernels.sm90.shape import Shape
from numba_fa.ptx.mbarrier import mbarrier_expect_tx, mbarrier_wait
from numba_fa.ptx.memory import st_shared_u32
from numba_fa.ptx.tma import prefetch_tensormap, tma_load
from numba_fa.tile.pipeline import EMPTY, HELD, HELD_EMPTY, HELD_SLOT, MESSAGE, SECOND, SLOT, message_offset, ring_offset

# A message's first word says of a key tile: bits 0 to 2, whether consumer 0, 1, 2 must judge it by element; whether it is
# the last of its tile of queries; from BLOCK up, its number. With the first key tile go, where consumers are told, three
# more words of that tile of queries: its first query, head and batch index.
LAST, BLOCK = 8, 4


def make_producer(shape: Shape, program: Program, line: Line | None, schedule: tuple[Any, Any]) -> Any:
    """produce(q, k, v, base, barriers, tiles, heads, heads_kv, batch, seqlen_q, seqlen_k, together, aux) loads all tiles."""
    key = shape.key
    BLOCK_M, BLOCK_N, STAGES, ATOMS, CONSUMERS = key.block_m, key.block_n, key.stages, shape.atoms, shape.warpgroups
    Q_BYTES, K_BYTES, V_BYTES, Q_ATOM, Q_SLOTS = shape.q_bytes, shape.k_bytes, shape.v_bytes, shape.q_atom, shape.q_slots
    K_OFFSET, V_OFFSET = shape.k_offset, shape.v_offset
    # Where values are as wide as keys, one function does for both.
    load_keys, load_values = map(cache(lambda atoms: make_load(atoms, shape.kv_atom)), (shape.atoms, shape.v_atoms))
    RING, MESSAGES = ring_offset(shape.held), message_offset(shape.held, key.stages)
    reach, plain, TOLD = make_reach(program), make_plain(program, line), shape.told
    # A verdict that loops over a table is asked once a tile: asked for each consumer it takes more registers than there are.
    PARTS = 1 if "block" in key.mask else CONSUMERS
    ROWS, MINE = BLOCK_M // PARTS, 1 if PARTS == CONSUMERS else (1 << CONSUMERS) - 1
    turn_at, place = schedule

    @device
    def to_judge(index, head, first, last, block, seqlen_k, aux):
        """One bit a consumer: whether a query of its 64 may not see a key of the tile, or its biases are bent there."""
        start = block * BLOCK_N
        end = start + BLOCK_N - 1
        bits = 0
        for part in range(PARTS):
            top = min(first + part * ROWS, last)
            bottom = min(first + part * ROWS + ROWS - 1, last)
            if end >= seqlen_k or not plain(index, head, top, bottom, start, end, aux):
                bits |= MINE << part
        return bits

    @device
    def load_q(q, base, barriers, number, first, head, index):
        """Each consumer's queries, as soon as that consumer has done with those before."""
        slot = number % Q_SLOTS
        phase = (number // Q_SLOTS) & 1 ^ 1
        for c in range(CONSUMERS):
            full = barriers + HELD + HELD_SLOT * (slot * CONSUMERS + c)
            mbarrier_wait(full + HELD_EMPTY, phase)
            mbarrier_expect_tx(full, Q_BYTES // CONSUMERS)
            room = base + slot * Q_BYTES + c * 64 * 128
            for atom in range(ATOMS):
                tma_load(room + atom * Q_ATOM, q, full, 64 * atom, first + 64 * c, head, index)

    @device
    def produce(q, k, v, base, barriers, tiles, heads, heads_kv, batch, seqlen_q, seqlen_k, together, aux):
        prefetch_tensormap(q)
        prefetch_tensormap(k)
        prefetch_tensormap(v)
        group = heads // heads_kv
        total = int32(tiles * heads * batch)
        stage, empty = int32(0), int32(1)  # the first waits for room must pass: nothing was there before
        wave = int32(0)
        turn = int32(turn_at(wave, cuda.blockIdx.x, cuda.gridDim.x))
        while turn < total:
            tile, head, index = place(turn, tiles, heads, batch, together)
            head_kv = head // group
            first = int32(tile * BLOCK_M)
            last = int32(min(first + BLOCK_M, seqlen_q) - 1)
            fresh = True
            v_start, v_stage, v_empty = int32(0), stage, empty
            # One tile even where nothing is seen: masked away, no special case.
            kv_idx = int32(max(reach(index, head, first, last, seqlen_k - 1, aux), 0))
            while kv_idx >= 0:
                block = int32(kv_idx // BLOCK_N)
                start = int32(block * BLOCK_N)
                word = int32(block << BLOCK | to_judge(index, head, first, last, block, seqlen_k, aux))
                kv_idx = int32(reach(index, head, first, last, start - 1, aux) if start > 0 else -1)
                if kv_idx < 0:
                    word |= LAST
                if not fresh:  # the values of the tile before: what is asked of the mask is asked while they wait for room
                    full = barriers + RING + SLOT * v_stage + SECOND
                    mbarrier_wait(full + EMPTY, v_empty)
                    load_values(base + V_OFFSET + v_stage * V_BYTES, v, full, v_start, head_kv, index)
                full = barriers + RING + SLOT * stage
                mbarrier_wait(full + EMPTY, empty)
                message = barriers + MESSAGES + MESSAGE * stage
                st_shared_u32(message, word)
                if TOLD and fresh:
                    st_shared_u32(message + 4, first)
                    st_shared_u32(message + 8, head)
                    st_shared_u32(message + 12, index)
                load_keys(base + K_OFFSET + stage * K_BYTES, k, full, start, head_kv, index)
                if fresh:  # after the first keys, whose room is free earlier
                    load_q(q, base, barriers, wave, first, head, index)
                    fresh = False
                v_start, v_stage, v_empty = start, stage, empty
                empty = int32(empty ^ 1) if stage == STAGES - 1 else empty
                stage = int32(0) if stage == STAGES - 1 else int32(stage + 1)
            full = barriers + RING + SLOT * v_stage + SECOND
            mbarrier_wait(full + EMPTY, v_empty)
            load_values(base + V_OFFSET + v_stage * V_BYTES, v, full, v_start, head_kv, index)
            wave = int32(wave + 1)
            turn = int32(turn_at(wave, cuda.blockIdx.x, cuda.gridDim.x))

    return produce
