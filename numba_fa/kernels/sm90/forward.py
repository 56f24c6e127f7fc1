"""Hopper forward: FlashAttention-3's schedule (Shah et al. 2024, algorithms 1 and 2).

One producer thread feeds tiles of Q, K and V to shared memory by TMA; each consumer warpgroup owns 64 queries. A
consumer issues the scores of the next key tile before the output product of this one, so that its softmax runs while
the tensor cores work, and two consumers take turns at issuing (ping-pong). Blocks are persistent: a block takes tile
after tile, and the next tile's loads run under this one's epilogue.
"""

from numba_fa.dispatch.key import DispatchKey
from numba_fa.flash.line import make_line
from numba_fa.flash.program import make_program
from numba_fa.jit import KernelSource, cuda, device, int32, int64, uint8
from numba_fa.kernels.sm90.consumer import make_consumer
from numba_fa.kernels.sm90.producer import make_producer
from numba_fa.kernels.sm90.shape import Shape
from numba_fa.kernels.sm90.variant import SIGNATURE
from numba_fa.problem.tokens import tokens_of
from numba_fa.ptx.mbarrier import fence_mbarrier_init, mbarrier_init
from numba_fa.ptx.memory import shared_address
from numba_fa.ptx.tma import tensor_map
from numba_fa.ptx.warp import make_setmaxnreg, warp_uniform
from numba_fa.tile.layout import SWIZZLE_ALIGNMENT
from numba_fa.tile.pipeline import EMPTY, HELD, HELD_EMPTY, HELD_SLOT, SECOND, SLOT, ring_offset
from numba_fa.tile.scheduler import locate, turn_of


def make_forward(key: DispatchKey) -> KernelSource:
    """The forward kernel for `key`.

    Its parameters: tensor maps of q, k, v, out; lse (float32 pointer, 0 when not wanted); heads, heads_kv, batch,
    seqlen_q, seqlen_k (at least 1); how many heads go together (`tile/scheduler.py`); the scale, times log2(e) where
    there is no bias; the program's launch arguments.
    """
    shape = Shape(key)
    program, line = make_program(key.mask, key.bias, device), make_line(key.mask, key.bias, device)
    schedule = device(turn_of), device(locate)
    produce, consume = make_producer(shape, program, line, schedule), make_consumer(shape, program, line, schedule)
    BLOCK_M, STAGES, CONSUMERS = key.block_m, key.stages, shape.warpgroups
    BARRIERS, RING, SLOTS, ALIGN = shape.barrier_offset, ring_offset(shape.held), shape.held, SWIZZLE_ALIGNMENT - 1
    shrink = make_setmaxnreg(shape.registers[0], "dec")
    grow = make_setmaxnreg(shape.registers[1], "inc")

    def forward_sm90(q, k, v, out, lse, heads, heads_kv, batch, seqlen_q, seqlen_k, together, scale, aux):
        memory = cuda.shared.array(0, uint8)
        base = int32((shared_address(memory) + ALIGN) & ~ALIGN)
        barriers = int32(base + BARRIERS)
        thread = int32(cuda.threadIdx.x)
        warpgroup = int32(warp_uniform(thread >> 7))
        if thread == 0:
            for slot in range(SLOTS):
                mbarrier_init(barriers + HELD + HELD_SLOT * slot, 1)
                mbarrier_init(barriers + HELD + HELD_SLOT * slot + HELD_EMPTY, 1)
            for stage in range(STAGES):
                full = barriers + RING + SLOT * stage
                mbarrier_init(full, 1)
                mbarrier_init(full + SECOND, 1)
                mbarrier_init(full + EMPTY, 4 * CONSUMERS)  # every warp has read the message
                mbarrier_init(full + SECOND + EMPTY, CONSUMERS)
            fence_mbarrier_init()
        cuda.syncthreads()
        tiles = int32((seqlen_q + BLOCK_M - 1) // BLOCK_M)
        if warpgroup == 0:
            shrink()
            if thread == 0:
                produce(tensor_map(q), tensor_map(k), tensor_map(v), base, barriers, tiles, heads, heads_kv, batch,
                        seqlen_q, seqlen_k, together, aux)  # fmt: skip
        else:
            grow()
            consume(tensor_map(out), int64(lse), base, barriers, int32(warpgroup - 1), tiles, heads, batch,
                    seqlen_q, seqlen_k, together, scale, aux)  # fmt: skip

    return KernelSource(forward_sm90, SIGNATURE, shape.threads, shape.shared_bytes, tokens_of(key.mask, key.bias))
