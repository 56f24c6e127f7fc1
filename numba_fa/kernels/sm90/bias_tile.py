"""What the result of one bias gets of a loss's gradient, on a tile of queries and keys: computed anew, by tensor cores."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from numba_fa.flash.line import Line
from numba_fa.flash.online_softmax import LOG2_E, ONE
from numba_fa.flash.program import BiasSlice, Program
from numba_fa.jit import cuda, device, int32
from numba_fa.kernels.common.scalar_scores import make_lse_and_delta
from numba_fa.kernels.sm90.bias_shape import EMPTY, Q_FULL, QUERIES, RING, SECOND, SLOT, BiasShape
from numba_fa.kernels.sm90.load import make_load
from numba_fa.kernels.sm90.questions import make_reach, make_value, make_verdict
from numba_fa.ptx.elementwise import make_chain, make_keep, make_map, make_map_both
from numba_fa.ptx.fragment import make_exponential, make_scale_and_lift, make_scale_rows
from numba_fa.ptx.fragment_gradients import make_add_gradient
from numba_fa.ptx.integer import opaque, quotient
from numba_fa.ptx.mbarrier import mbarrier_arrive, mbarrier_wait
from numba_fa.ptx.warp import warp_uniform
from numba_fa.ptx.wgmma import OPERAND, make_gemm_ss, make_wait
from numba_fa.tile.layout import k_major_descriptor, k_major_step

INFINITY = np.float32(np.inf)


def make_bias_walk(shape: BiasShape, program: Program, frame: Any) -> Any:
    """walk(turn, number, sizes, aux) -> (number, index, head, first, start): the next of a turn's tiles.

    The first that is seen, from number `number` on: its batch index, head, first query and key; the number is -1 where there
    is none. frame(turn, sizes) -> (those of the turn's first tile, how many batch indices, heads and tiles of queries and of
    keys it has, the last changing first); asked anew at each call, for registers are dear. sizes: what the kernel is given,
    from heads, heads_kv, seqlen_q and seqlen_k on.
    """
    BLOCK_N, reach = shape.key.block_n, make_reach(program)

    @device
    def seen(index, head, first, start, seqlen_q, seqlen_k, aux):
        last, end = int32(min(first + QUERIES, seqlen_q) - 1), int32(min(start + BLOCK_N, seqlen_k) - 1)
        return reach(index, head, first, last, end, aux) >= start

    @device
    def walk(turn, number, sizes, aux):
        places, parts = frame(turn, sizes)
        index, head, first, start = places
        batch, heads, tiles_q, tiles_k = parts
        while number < batch * heads * tiles_q * tiles_k:
            rest = quotient(number, tiles_k)
            start = int32(places[3] + (number - rest * tiles_k) * BLOCK_N)
            left = quotient(rest, tiles_q)
            first = int32(places[2] + (rest - left * tiles_q) * QUERIES)
            more = quotient(left, heads)
            head = int32(places[1] + left - more * heads)
            index = int32(places[0] + more)
            if seen(index, head, first, start, sizes[2], sizes[3], aux):
                return int32(number), index, head, first, start
            number = int32(number + 1)
        return int32(-1), index, head, first, start

    return walk


def make_bias_producer(shape: BiasShape, walk: Any) -> Any:
    """produce(q, k, v, do, base, barriers, turns, sizes, aux) loads all tiles of a block's turns; one thread.

    sizes: as of `walk`.
    """
    STAGES, RESIDENT = shape.key.stages, shape.resident
    DO_OFFSET, K_OFFSET, V_OFFSET = shape.do_offset, shape.k_offset, shape.v_offset
    Q_BYTES, DO_BYTES = shape.atoms * shape.q_atom, shape.v_atoms * shape.q_atom
    K_BYTES, V_BYTES = shape.atoms * shape.kv_atom, shape.v_atoms * shape.kv_atom
    atoms = shape.atoms, shape.v_atoms
    load_q, load_do = map(cache(lambda n: make_load(n, shape.q_atom)), atoms)
    load_k, load_v = map(cache(lambda n: make_load(n, shape.kv_atom)), atoms)

    @device
    def produce(q, k, v, do, base, barriers, turns, sizes, aux):
        stage = int32(0)
        phase = int32(1)  # the first waits for room must pass: nothing was there before
        turn = int32(cuda.blockIdx.x)
        while turn < turns:
            number, index, head, first, start = walk(turn, int32(0), sizes, aux)
            if RESIDENT and number >= 0:
                load_q(base, q, barriers + Q_FULL, first, head, index)
                load_do(base + DO_OFFSET, do, barriers + Q_FULL, first, head, index)
            while number >= 0:
                slot = int32(barriers + RING + SLOT * stage)
                head_kv = quotient(head, quotient(sizes[0], sizes[1]))
                mbarrier_wait(slot + EMPTY, phase)
                if not RESIDENT:
                    load_q(base + stage * Q_BYTES, q, slot, first, head, index)
                load_k(base + K_OFFSET + stage * K_BYTES, k, slot, start, head_kv, index)
                mbarrier_wait(slot + SECOND + EMPTY, phase)
                if not RESIDENT:
                    load_do(base + DO_OFFSET + stage * DO_BYTES, do, slot + SECOND, first, head, index)
                load_v(base + V_OFFSET + stage * V_BYTES, v, slot + SECOND, start, head_kv, index)
                stage = int32(stage + 1)
                if stage == STAGES:
                    stage = int32(0)
                    phase ^= 1
                number, index, head, first, start = walk(turn, number + 1, sizes, aux)
            turn = int32(turn + cuda.gridDim.x)

    return produce


def make_flat(level: Line | None) -> Any:
    """flat(index, head, first, last, start, end, aux): whether biases are known to add one number to all scores of a tile.

    level: their line, if it is level.
    """
    if level is None:

        @device
        def never(index, head, first, last, start, end, aux):
            return False

        return never

    return make_verdict(level.straight)


def make_add_tile(shape: BiasShape, program: Program, bias: BiasSlice, level: Line | None) -> Any:
    """add_tile(totals, rows, base, barriers, step, index, head, first, start, sizes, scale, aux).

    -> totals and the gradients of the step-th tile, a warpgroup's 64 queries of it, 0 where hidden. rows: what the
    preprocess left. first, start: the tile's first query and key. sizes: as of `walk`.
    """
    key, COUNT = shape.key, shape.key.block_n // 2
    BLOCK_N, STAGES, RESIDENT = key.block_n, key.stages, shape.resident
    DO_OFFSET, K_OFFSET, V_OFFSET = shape.do_offset, shape.k_offset, shape.v_offset
    Q_STEP, DO_STEP = ((0, 0) if RESIDENT else (shape.atoms * shape.q_atom, shape.v_atoms * shape.q_atom))
    K_STEP, V_STEP = shape.atoms * shape.kv_atom, shape.v_atoms * shape.kv_atom
    K_MAJOR = np.int64(k_major_descriptor())
    gemm_scores, gemm_products = shape.of_both(lambda dim: make_gemm_ss(
        BLOCK_N, dim // 16, OPERAND[key.dtype], lambda k: k_major_step(k, shape.q_atom),
        lambda k: k_major_step(k, shape.kv_atom),
    ))  # fmt: skip
    wait, add_gradient = make_wait(COUNT, 0), make_add_gradient(COUNT)
    whole, lse_and_delta, flat = make_verdict(program.whole), make_lse_and_delta(key.block_m), make_flat(level)
    LEVEL, weigh = level is not None, _make_weigh(shape, program, bias, level)

    @device
    def descriptor(address):
        return K_MAJOR | np.int64((address & 0x3FFFF) >> 4)

    @device
    def lse_of(rows, number, q_idx, seqlen_q):
        """Past the end nothing has weight."""
        lse, _ = lse_and_delta(rows, number, q_idx, seqlen_q)
        return INFINITY if q_idx >= seqlen_q else lse

    @device
    def delta_of(rows, number, q_idx, seqlen_q):
        _, delta = lse_and_delta(rows, number, q_idx, seqlen_q)
        return delta

    @device
    def add_tile(totals, rows, base, barriers, step, index, head, first, start, sizes, scale, aux):
        heads, seqlen_q, seqlen_k = sizes[0], sizes[2], sizes[3]
        thread = int32(cuda.threadIdx.x - 128)
        consumer = int32(warp_uniform(thread >> 7))
        lane = thread & 31
        q0 = int32(first + (thread >> 5) * 16 + (lane >> 2))
        number = int32(index * heads + head)
        lse0, lse1 = lse_of(rows, number, q0, seqlen_q), lse_of(rows, number, q0 + 8, seqlen_q)
        stage = step % STAGES
        phase = (step // STAGES) & 1
        slot = int32(barriers + RING + SLOT * stage)
        queries = int32(base + consumer * 8192)
        if RESIDENT:
            mbarrier_wait(barriers + Q_FULL, 0)
        mbarrier_wait(slot, phase)
        scores = wait(gemm_scores(descriptor(queries + stage * Q_STEP), descriptor(base + K_OFFSET + stage * K_STEP)))
        if lane == 0:
            mbarrier_arrive(slot + EMPTY)
        last = int32(min(first + QUERIES, seqlen_q) - 1)
        end = int32(start + (BLOCK_N - 1))
        seen = end < seqlen_k and whole(index, head, first, last, start, end, aux)
        if LEVEL:
            seen = seen and flat(index, head, first, last, start, end, aux)
        column = int32(start + (lane & 3) * 2)
        weights = weigh(scores, seen, index, head, q0, column, seqlen_q, seqlen_k, lse0, lse1, scale, aux)
        q0 = opaque(q0)  # asks for what follows here, when registers are free
        delta0, delta1 = delta_of(rows, number, q0, seqlen_q), delta_of(rows, number, q0 + 8, seqlen_q)
        mbarrier_wait(slot + SECOND, phase)
        products = wait(gemm_products(
            descriptor(queries + DO_OFFSET + stage * DO_STEP), descriptor(base + V_OFFSET + stage * V_STEP)
        ))  # fmt: skip
        if lane == 0:
            mbarrier_arrive(slot + SECOND + EMPTY)
        return add_gradient(totals, weights, products, delta0, delta1)

    return add_tile


def _make_weigh(shape: BiasShape, program: Program, bias: BiasSlice, level: Line | None) -> Any:
    """weigh(scores, seen, index, head, q0, column, seqlen_q, seqlen_k, lse0, lse1, scale, aux) -> weights.

    Of raw scores: the weights of the softmax, times the derivative of what comes after the bias by what the bias gives.
    seen: whether nothing is hidden and no key lies past the end; and biases lie on their level, if they have one. column:
    the thread's first key.
    """
    COUNT, AFTER = shape.key.block_n // 2, bias.after is not None
    fast = shape.key.dtype == "bf16"
    until = make_map(COUNT, bias.until, clamp=True, fast=fast)
    after = make_map_both(COUNT, bias.after, clamp=True, fast=fast) if AFTER else None
    keep = make_keep(COUNT, program.visible, clamp=True, bounded=True, fast=fast)
    scale_rows, exponential, chain = make_scale_rows(COUNT), make_exponential(COUNT), make_chain(COUNT)

    @device
    def biased(scores, index, head, q0, q1, column, last_key, scale, aux):
        scores = until(scale_rows(scores, scale, scale), index, head, q0, q1, column, last_key, aux)
        if AFTER:
            return after(scores, index, head, q0, q1, column, last_key, aux)
        return scores, scores

    if level is not None:
        lift, scale_and_lift = make_value(level.base), make_scale_and_lift(COUNT)

        @device
        def weigh_level(scores, seen, index, head, q0, column, seqlen_q, seqlen_k, lse0, lse1, scale, aux):
            q1 = min(q0 + 8, seqlen_q - 1)
            q0 = min(q0, seqlen_q - 1)
            if seen:
                scores = scale_and_lift(scores, scale, lift(ONE, index, head, q0, column, aux))
            else:
                scores = until(scale_rows(scores, scale, scale), index, head, q0, q1, column, seqlen_k - 1, aux)
                scores = keep(scores, index, head, q0, q1, column, seqlen_k - 1, aux)
            return exponential(scores, LOG2_E, lse0, lse1)

        return weigh_level

    @device
    def weigh(scores, seen, index, head, q0, column, seqlen_q, seqlen_k, lse0, lse1, scale, aux):
        q1 = min(q0 + 8, seqlen_q - 1)
        q0 = min(q0, seqlen_q - 1)
        scores, slopes = biased(scores, index, head, q0, q1, column, seqlen_k - 1, scale, aux)
        if not seen:
            scores = keep(scores, index, head, q0, q1, column, seqlen_k - 1, aux)
        weights = exponential(scores, LOG2_E, lse0, lse1)
        if AFTER:
            weights = chain(weights, slopes)
        return weights

    return weigh
