"""The Hopper backward's epilogue: dK and dV through shared memory and TMA, which clips keys past the end."""

from typing import Any

from numba_fa.jit import cuda, device, int32
from numba_fa.kernels.sm90.backward_shape import BackwardShape
from numba_fa.ptx.fragment import make_scale_rows, make_stmatrix
from numba_fa.ptx.tma import bulk_commit_group, bulk_wait_group_read, fence_proxy_async, tma_store
from numba_fa.ptx.warp import bar_sync

_ATOM = 64 * 128


def make_backward_epilogue(shape: BackwardShape) -> Any:
    """write_keys(dk_map, dv_map, dk, dv, base, consumer, tile, head, index, scale): 64 keys of a consumer, dK scaled.

    Goes through the consumer's room for dQ, which must be free, and leaves it so.
    """
    ATOMS, BLOCK_N, OUTPUTS = shape.atoms, shape.key.block_n, shape.key.head_dim // 2
    DQ_OFFSET, DQ_BYTES = shape.dq_offset, shape.dq_bytes
    stmatrix, scale_rows = make_stmatrix(OUTPUTS, shape.key.dtype), make_scale_rows(OUTPUTS)

    @device
    def write(tensor, fragment, room, consumer, tile, head, index):
        thread = int32(cuda.threadIdx.x & 127)
        lane = thread & 31
        row = (thread >> 5) * 16 + ((lane >> 3) & 1) * 8 + (lane & 7)
        stmatrix(fragment, room + row * 128, _ATOM, row & 7, lane >> 4)
        fence_proxy_async()
        bar_sync(1 + consumer, 128)
        if thread == 0:
            for atom in range(ATOMS):
                tma_store(tensor, room + atom * _ATOM, 64 * atom, tile * BLOCK_N + consumer * 64, head, index)
            bulk_commit_group()
            bulk_wait_group_read()
        bar_sync(1 + consumer, 128)

    @device
    def write_keys(dk_map, dv_map, dk, dv, base, consumer, tile, head, index, scale):
        room = int32(base + DQ_OFFSET + consumer * DQ_BYTES)
        write(dv_map, dv, room, consumer, tile, head, index)
        write(dk_map, scale_rows(dk, scale, scale), room, consumer, tile, head, index)

    return write_keys
