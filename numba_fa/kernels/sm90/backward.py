"""Hopper backward: dK, dV and the sums of dQ (Dao 2023, FlashAttention-2, algorithm 2; Shah et al. 2024).

A block owns 128 keys of a key head and visits all tiles of queries that see them, of every query head that shares them:
dK and dV stay in registers. Score tiles are transposed, keys by queries, so that P and dS go from registers into the
products for dV and dK. dQ goes through shared memory, to which the other consumer's dS comes for it, and is added up in
float32 in global memory by bulk copies. `preprocess` runs before and `finish` after.
"""

from numba_fa.dispatch.key import DispatchKey
from numba_fa.flash.program import make_program
from numba_fa.jit import KernelSource, cuda, device, int32, int64, uint8
from numba_fa.kernels.sm90.backward_consumer import make_backward_consumer
from numba_fa.kernels.sm90.backward_judge import make_level
from numba_fa.kernels.sm90.backward_order import make_order
from numba_fa.kernels.sm90.backward_producer import make_backward_producer
from numba_fa.kernels.sm90.backward_scout import make_scout
from numba_fa.kernels.sm90.backward_shape import (
    ADDED,
    DONE,
    DQ_EMPTY,
    DQ_FULL,
    DQ_MESSAGE,
    DS_EMPTY,
    DS_FULL,
    EMPTY,
    K_FULL,
    KV_EMPTY,
    ORDER,
    P_EMPTY,
    P_FULL,
    RING,
    SECOND,
    SLOT,
    TOLD,
    V_FULL,
    BackwardShape,
)
from numba_fa.kernels.sm90.backward_split import make_split_consumers
from numba_fa.kernels.sm90.backward_variant import MAIN_SIGNATURE
from numba_fa.kernels.sm90.backward_visits import looks
from numba_fa.kernels.sm90.backward_writer import END, make_backward_writer
from numba_fa.problem.tokens import tokens_of
from numba_fa.ptx.mbarrier import fence_mbarrier_init, mbarrier_arrive, mbarrier_init
from numba_fa.ptx.memory import shared_address, st_shared_u32
from numba_fa.ptx.order import grid_go_ahead, grid_wait
from numba_fa.ptx.tma import tensor_map
from numba_fa.ptx.warp import make_setmaxnreg, warp_uniform
from numba_fa.tile.layout import SWIZZLE_ALIGNMENT


def make_backward(key: DispatchKey) -> KernelSource:
    """The backward's main kernel for `key`.

    Its parameters: tensor maps of q, k, v, dO (boxes of block_m, block_n, block_n, block_m rows), of dK and dV (64 rows);
    pointers to LSE in base 2 and delta, float32 (batch, heads, tiles, 2, block_m), and to dQ's sums (batch, heads, tiles,
    64 * (dq_columns[0] + dq_columns[1])), zeroed, and, for "bwd_det", to their tickets, int32 (batch, heads, tiles), zeroed;
    heads, heads_kv, batch, seqlen_q, seqlen_k; how many key heads go together (`backward_visits.py`); scale; the program's
    launch arguments.

    key.op: "bwd"; "bwd_det" sums dQ up in one order (`backward_order.py`); "bwd_red" from registers.
    """
    shape = BackwardShape(key)
    program, level = make_program(key.mask, key.bias, device), make_level(key)
    produce, scout = make_backward_producer(shape), make_scout(shape, program, level)
    wait_turns, pass_turns = make_order(shape, program)
    LOOKS = looks(shape, program)
    SPLIT, STAGED, ORDERED, DS_WARPS = shape.split, not shape.direct, shape.ordered, 4 if shape.split else 8
    Q_READERS = 9 if ORDERED else 8
    if SPLIT:
        consume_values, consume_keys = make_split_consumers(shape, program, level)
        consume = write_queries = None
    else:
        consume, write_queries = make_backward_consumer(shape, program, level), make_backward_writer(shape)
        consume_values = consume_keys = None
    STAGES, BARRIERS, ALIGN = key.stages, shape.barrier_offset, SWIZZLE_ALIGNMENT - 1
    shrink, grow = make_setmaxnreg(shape.registers[0], "dec"), make_setmaxnreg(shape.registers[1], "inc")

    def backward_sm90(q, k, v, do, dk, dv, rows, dq, tickets, heads, heads_kv, batch, seqlen_q, seqlen_k, together, scale,
                      aux):  # fmt: skip
        memory = cuda.shared.array(0, uint8)
        base = int32((shared_address(memory) + ALIGN) & ~ALIGN)
        barriers = int32(base + BARRIERS)
        thread = int32(cuda.threadIdx.x)
        warpgroup = int32(warp_uniform(thread >> 7))
        if thread == 0:
            mbarrier_init(barriers + K_FULL, 1)
            mbarrier_init(barriers + V_FULL, 1)
            mbarrier_init(barriers + KV_EMPTY, 8)
            for i in range(2):
                mbarrier_init(barriers + DS_FULL + 8 * i, DS_WARPS)
                mbarrier_init(barriers + DS_EMPTY + 8 * i, 8)
                mbarrier_init(barriers + DQ_FULL + 8 * i, 4)
                mbarrier_init(barriers + DQ_EMPTY + 8 * i, 1)
                mbarrier_init(barriers + ORDER + 8 * i, 1)
                mbarrier_init(barriers + ADDED + 8 * i, 8)
                mbarrier_init(barriers + DONE + 8 * i, 1)
            mbarrier_init(barriers + P_FULL, 4)
            mbarrier_init(barriers + P_EMPTY, 4)
            for stage in range(STAGES):
                full = barriers + RING + SLOT * stage
                mbarrier_init(full, 1)
                mbarrier_init(full + SECOND, 1)
                mbarrier_init(full + EMPTY, Q_READERS)
                mbarrier_init(full + SECOND + EMPTY, 8)
                mbarrier_init(full + TOLD, 1)
            fence_mbarrier_init()
        cuda.syncthreads()
        grid_wait()  # for what the preprocess makes
        grid_go_ahead()
        if warpgroup == 0:
            shrink()
            if thread == 0:
                produce(tensor_map(q), tensor_map(k), tensor_map(v), tensor_map(do), int64(rows), base, barriers, heads_kv,
                        batch, seqlen_k, together)  # fmt: skip
            elif thread == 96 or LOOKS and thread > 96:
                scout(barriers, heads, heads_kv, batch, seqlen_q, seqlen_k, together, aux)
            elif STAGED and (thread == 32 or thread == 64):
                write_queries(int64(dq), base, barriers, int32((thread >> 5) - 1))
            elif ORDERED and (thread == 32 or LOOKS and thread >> 5 == 1):
                wait_turns(int64(tickets), barriers, heads_kv, batch, seqlen_q, seqlen_k, together, aux)
            elif ORDERED and thread == 64:
                pass_turns(int64(tickets), barriers)
        elif SPLIT:
            grow()
            if warpgroup == 1:
                consume_values(tensor_map(dv), int64(dq), base, barriers, heads_kv, batch, seqlen_q, seqlen_k, together,
                               scale, aux)  # fmt: skip
            else:
                consume_keys(tensor_map(dk), int64(dq), base, barriers, heads_kv, batch, seqlen_q, seqlen_k, together, scale,
                             aux)  # fmt: skip
        else:
            grow()
            consumer = int32(warpgroup - 1)
            consume(tensor_map(dk), tensor_map(dv), int64(dq), base, barriers, consumer, heads_kv, batch, seqlen_q, seqlen_k,
                    together, scale, aux)  # fmt: skip
            if STAGED and thread & 31 == 0:
                if thread & 127 == 0:
                    st_shared_u32(barriers + DQ_MESSAGE + 4 * consumer, END)
                mbarrier_arrive(barriers + DQ_FULL + 8 * consumer)

    return KernelSource(backward_sm90, MAIN_SIGNATURE, shape.threads, shape.shared_bytes, tokens_of(key.mask, key.bias))
