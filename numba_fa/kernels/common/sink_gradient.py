"""The gradient of sink_logits: a head's sum of -exp(sink - LSE) * delta over its queries, in a fixed order."""

from numba_fa.dispatch.key import DispatchKey
from numba_fa.flash.online_softmax import ZERO
from numba_fa.jit import KernelSource, cuda, device, float32, int32
from numba_fa.kernels.common.scalar_scores import make_lse_and_delta, weight_of
from numba_fa.kernels.common.signatures import SINK_SIGNATURE
from numba_fa.ptx.warp import shfl_bfly

THREADS = 256
WARPS = THREADS // 32


def make_sink_gradient(key: DispatchKey) -> KernelSource:
    """A block makes one head's; key.block_m: queries a tile of the preprocess's rows.

    Its parameters: sink_logits and the result (heads,); rows; the strides of the first two; heads, batch, seqlen_q.
    """
    lse_and_delta = make_lse_and_delta(key.block_m)

    @device
    def warp_sum(value):
        for bit in (1, 2, 4, 8, 16):
            value = value + shfl_bfly(value, bit)
        return value

    def sink_gradient(sink, result, rows, sink_stride, result_stride, heads, batch, seqlen_q):
        sums = cuda.shared.array(0, float32)
        thread, head = int32(cuda.threadIdx.x), cuda.blockIdx.x
        logit = sink[head * sink_stride]
        total = ZERO
        for index in range(batch):
            for q_idx in range(thread, seqlen_q, THREADS):
                lse, delta = lse_and_delta(rows, index * heads + head, q_idx, seqlen_q)
                weight = weight_of(logit, lse)
                total -= ZERO if weight == ZERO else weight * delta
        part = warp_sum(total)
        if thread % 32 == 0:
            sums[thread // 32] = part
        cuda.syncthreads()
        if thread == 0:
            total = ZERO
            for warp in range(WARPS):
                total += sums[warp]
            result[head * result_stride] = total

    return KernelSource(sink_gradient, SINK_SIGNATURE, THREADS, 4 * WARPS)
