"""After the Hopper backward: dQ from its float32 sums, scaled and rounded, by TMA, which clips queries past the end."""

from typing import Any

from numba_fa.dispatch.key import DispatchKey
from numba_fa.jit import KernelSource, cuda, device, int32, int64, uint8
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
    BLOCK_M, BY_ROWS, ALIGN, (FIRST, SECOND) = key.block_m, shape.by_rows, SWIZZLE_ALIGNMENT - 1, shape.dq_bytes
    write_first, write_second = (_make_write(columns, key.dtype) for columns in shape.dq_columns)
    ATOMS, COLUMN = -(-max(shape.dq_columns) // 64), 0 if BY_ROWS else shape.dq_columns[0]

    def finish_sm90(dq, sums, heads, scale):
        memory = cuda.shared.array(0, uint8)
        room = int32((shared_address(memory) + ALIGN) & ~ALIGN)
        head, index = int32(cuda.blockIdx.y), int32(cuda.blockIdx.z)
        tile, part = int32(cuda.blockIdx.x >> 1), int32(cuda.blockIdx.x & 1)
        source = sums + (int64(index * heads + head) * (cuda.gridDim.x >> 1) + tile) * (FIRST + SECOND)
        first = tile * BLOCK_M
        if part == 0:
            write_first(tensor_map(dq), source, room, 0, first, head, index, scale)
        elif BY_ROWS:
            write_second(tensor_map(dq), source + FIRST, room, 0, first + 64, head, index, scale)
        else:
            write_second(tensor_map(dq), source + FIRST, room, COLUMN, first, head, index, scale)

    return KernelSource(finish_sm90, FINISH_SIGNATURE, 128, SWIZZLE_ALIGNMENT + _ATOM * ATOMS)


def _make_write(columns: int, dtype: str) -> Any:
    """write(tensor, source, room, column, row, head, index, scale): 64 rows x `columns` of dQ."""
    COUNT, ATOMS = columns // 2, -(-columns // 64)
    load_quads, scale_rows, stmatrix = make_load_quads(COUNT), make_scale_rows(COUNT), make_stmatrix(COUNT, dtype)

    @device
    def write(tensor, source, room, column, row, head, index, scale):
        thread = int32(cuda.threadIdx.x)
        lane = thread & 31
        fragment = scale_rows(load_quads(source + thread * 16), scale, scale)
        place = (thread >> 5) * 16 + ((lane >> 3) & 1) * 8 + (lane & 7)
        stmatrix(fragment, room + place * 128, _ATOM, place & 7, lane >> 4)
        fence_proxy_async()
        cuda.syncthreads()
        if thread == 0:
            for atom in range(ATOMS):
                tma_store(tensor, room + atom * _ATOM, column + 64 * atom, row, head, index)
            bulk_commit_group()
            bulk_wait_group()

    return write
