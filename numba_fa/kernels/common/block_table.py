"""Which blocks of a mask hold anything: the table that lets a kernel skip and leave unmasked what it can.

FlexAttention's block mask (Dong et al. 2024, section 4) keeps lists of blocks; this table says of each block what is the
next one to visit, so that it composes with other masks by minimum and maximum, and any kernel's tiles can ask it.
"""

from numba_fa.dispatch.key import DispatchKey
from numba_fa.flash.program import make_program
from numba_fa.jit import KernelSource, cuda, device, float32, int32
from numba_fa.kernels.common.variant import SIGNATURE
from numba_fa.problem.tokens import tokens_of
from numba_fa.ptx.elementwise import index as place
from numba_fa.ptx.elementwise import scalars
from numba_fa.ptx.warp import shfl_bfly

THREADS = 256
WARPS = THREADS // 32


def make_block_table(key: DispatchKey) -> KernelSource:
    """Fills table[b, h, m, n] with 2 * t + whole for the last key block t <= n of which a query of block m sees a key.

    whole is 1 when every query sees every key; the entry is -1 when there is no such block. One block of threads fills
    the row of one m. Parameters: table; seqlen_q, seqlen_k; block_m, block_n; the mask's launch arguments.
    """
    program = make_program(key.mask, "none", device)
    visible, reach, whole = program.visible, program.reach, program.whole

    @device
    def warp_sum(value):
        for bit in (1, 2, 4, 8, 16):
            value = value + shfl_bfly(value, bit)
        return value

    def block_table(table, seqlen_q, seqlen_k, block_m, block_n, aux):
        counts = cuda.shared.array(0, float32)
        thread = int32(cuda.threadIdx.x)
        m, head, index = cuda.blockIdx.x, cuda.blockIdx.y, cuda.blockIdx.z
        q_first = m * block_m
        q_last = min(q_first + block_m, seqlen_q) - 1
        entry = -1
        for n in range((seqlen_k + block_n - 1) // block_n):
            kv_first = n * block_n
            kv_last = min(kv_first + block_n, seqlen_k) - 1
            if reach(index, head, q_first, q_last, kv_last, aux) >= kv_first:
                if whole(index, head, q_first, q_last, kv_first, kv_last, aux):
                    entry = 2 * n + 1
                else:
                    keys = kv_last - kv_first + 1
                    total = keys * (q_last - q_first + 1)
                    seen = 0
                    for i in range(thread, total, THREADS):
                        q_idx, kv_idx = place(q_first + i // keys), place(kv_first + i % keys)
                        if visible(place(index), place(head), q_idx, kv_idx, scalars(aux)):
                            seen += 1
                    cuda.syncthreads()  # counts of the block before have been read
                    part = warp_sum(float32(seen))
                    if thread % 32 == 0:
                        counts[thread // 32] = part
                    cuda.syncthreads()
                    found = float32(0)
                    for warp in range(WARPS):
                        found += counts[warp]
                    if found == float32(total):
                        entry = 2 * n + 1
                    elif found > float32(0):
                        entry = 2 * n
            if thread == 0:
                table[index, head, m, n] = entry

    return KernelSource(block_table, SIGNATURE, THREADS, 4 * WARPS, tokens_of(key.mask, "none"))
