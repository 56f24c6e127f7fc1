"""After the Hopper backward: dQ from its float32 sums, scaled and rounded, by TMA, which clips queries past the end."""

from numba_fa.dispatch.key import DispatchKey
from numba_fa.jit import KernelSource, cuda, int32, int64, uint8
from numba_fa.kernels.sm90.backward_run import FINISH_SIGNATURE
from numba_fa.kernels.sm90.backward_shape import BackwardShape
from numba_fa.ptx.fragment import make_scale_rows, make_stmatrix
from numba_fa.ptx.memory import shared_address
from numba_fa.ptx.tma import bulk_commit_group, bulk_wait_group, fence_proxy_async, tensor_map, tma_store
from numba_fa.ptx.vector import make_load_quads
from numba_fa.tile.layout import SWIZZLE_ALIGNMENT

_ATOM = 64 * 128


def make_finish(key: DispatchKey) -> KernelSource:
    """The finish for dQ's sums as the backward of `key`'s tiles left them; a block (half tile, head, batch index) each.

    Its parameters: tensor map of dQ (64 rows); pointer to the sums; heads; scale.
    """
    shape = BackwardShape(key)
    BLOCK_M, COLUMNS, BY_ROWS, ALIGN = key.block_m, shape.dq_columns, shape.by_rows, SWIZZLE_ALIGNMENT - 1
    ATOMS, BYTES = -(-COLUMNS // 64), shape.dq_bytes
    load_quads, scale_rows, stmatrix = (
        make_load_quads(COLUMNS // 2), make_scale_rows(COLUMNS // 2), make_stmatrix(COLUMNS // 2, key.dtype)
    )  # fmt: skip

    def finish_sm90(dq, sums, heads, scale):
        memory = cuda.shared.array(0, uint8)
        room = int32((shared_address(memory) + ALIGN) & ~ALIGN)
        thread = int32(cuda.threadIdx.x)
        lane = thread & 31
        half, head, index = int32(cuda.blockIdx.x), int32(cuda.blockIdx.y), int32(cuda.blockIdx.z)
        number = int64(index * heads + head) * cuda.gridDim.x + half
        fragment = scale_rows(load_quads(sums + number * BYTES + thread * 16), scale, scale)
        row = (thread >> 5) * 16 + ((lane >> 3) & 1) * 8 + (lane & 7)
        stmatrix(fragment, room + row * 128, _ATOM, row & 7, lane >> 4)
        fence_proxy_async()
        cuda.syncthreads()
        if thread == 0:
            second = half & 1
            first = (half >> 1) * BLOCK_M + (second * 64 if BY_ROWS else 0)
            column = 0 if BY_ROWS else second * COLUMNS
            for atom in range(ATOMS):
                tma_store(tensor_map(dq), room + atom * _ATOM, column + 64 * atom, first, head, index)
            bulk_commit_group()
            bulk_wait_group()

    return KernelSource(finish_sm90, FINISH_SIGNATURE, 128, SWIZZLE_ALIGNMENT + 64 * 128 * ATOMS)
