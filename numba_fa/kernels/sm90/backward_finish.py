"""After the Hopper backward: dQ from its float32 sums, scaled and rounded, by TMA, which clips queries past the end."""

from typing import Any

from numba_fa.dispatch.key import DispatchKey
from numba_fa.jit import KernelSource, cuda, device, int32, int64, uint8
from numba_fa.kernels.sm90.backward_shape import BackwardShape
from numba_fa.kernels.sm90.backward_variant import FINISH_SIGNATURE
from numba_fa.ptx.fragment import make_scale_rows, make_stmatrix
from numba_fa.ptx.memory import shared_address
from numba_fa.ptx.order import grid_wait
from numba_fa.ptx.tma import bulk_commit_group, bulk_wait_group, fence_proxy_async, tensor_map, tma_store
from numba_fa.ptx.vector import make_load_quads
from numba_fa.tile.layout import SWIZZLE_ALIGNMENT

_ATOM = 64 * 128


def make_finish(key: DispatchKey) -> KernelSource:
    """The finish for dQ's sums as the backward of `key`'s tiles left them; a block (tile, head, batch index) each.

    Its parameters: tensor map of dQ (64 rows); pointer to the sums; heads; scale.
    """
    shape = BackwardShape(key)
    BLOCK_M, BY_ROWS, ALIGN, (FIRST, SECOND) = key.block_m, shape.by_rows, SWIZZLE_ALIGNMENT - 1, shape.dq_bytes
    put_first, put_second = (_make_put(columns, key.dtype) for columns in shape.dq_columns)
    # Where the second part begins in shared memory: rows below, or columns beside, maybe within the only atom.
    ATOMS = shape.atoms
    ROOM, CHUNK = divmod(shape.dq_columns[0], 64)
    SECOND_ROOM, SECOND_CHUNK = (ATOMS * _ATOM, 0) if BY_ROWS else (ROOM * _ATOM, CHUNK // 8)

    def finish_sm90(dq, sums, heads, scale):
        memory = cuda.shared.array(0, uint8)
        room = int32((shared_address(memory) + ALIGN) & ~ALIGN)
        thread = int32(cuda.threadIdx.x)
        # Backwards: what the main kernel added last is still in L2.
        tile, head, index = (
            int32(cuda.gridDim.x - 1 - cuda.blockIdx.x), int32(cuda.gridDim.y - 1 - cuda.blockIdx.y),
            int32(cuda.gridDim.z - 1 - cuda.blockIdx.z),
        )  # fmt: skip
        source = sums + (int64(index * heads + head) * cuda.gridDim.x + tile) * (FIRST + SECOND) + (thread & 127) * 16
        grid_wait()
        if thread < 128:
            put_first(source, room, 0, scale)
        else:
            put_second(source + FIRST, room + SECOND_ROOM, SECOND_CHUNK, scale)
        fence_proxy_async()
        cuda.syncthreads()
        if thread == 0:
            for rows in range(BLOCK_M // 64):
                for atom in range(ATOMS):
                    tma_store(tensor_map(dq), room + (rows * ATOMS + atom) * _ATOM, 64 * atom, tile * BLOCK_M + 64 * rows,
                              head, index)  # fmt: skip
            bulk_commit_group()
            bulk_wait_group()

    return KernelSource(finish_sm90, FINISH_SIGNATURE, 256, SWIZZLE_ALIGNMENT + BLOCK_M // 64 * ATOMS * _ATOM)


def _make_put(columns: int, dtype: str) -> Any:
    """put(source, room, chunk, scale): 64 rows x `columns` of dQ into shared memory; chunk: the first of 16 bytes."""
    COUNT = columns // 2
    load_quads, scale_rows, stmatrix = make_load_quads(COUNT), make_scale_rows(COUNT), make_stmatrix(COUNT, dtype)

    @device
    def put(source, room, chunk, scale):
        thread = int32(cuda.threadIdx.x & 127)
        lane = thread & 31
        # stmatrix: lane l addresses row l % 8 of matrix l // 8; matrices 0, 1 are rows 0-7, 8-15; 2, 3 the next columns
        row = (thread >> 5) * 16 + ((lane >> 3) & 1) * 8 + (lane & 7)
        stmatrix(scale_rows(load_quads(source), scale, scale), room + row * 128, _ATOM, row & 7, (lane >> 4) + chunk)

    return put
