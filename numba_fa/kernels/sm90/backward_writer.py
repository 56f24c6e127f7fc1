"""The Hopper backward's writers: of each consumer one thread that adds its halves of dQ to global memory."""

from typing import Any

from numba_fa.jit import device, int32, int64
from numba_fa.kernels.sm90.backward_shape import DQ_EMPTY, DQ_FULL, DQ_MESSAGE, BackwardShape
from numba_fa.ptx.bulk import bulk_reduce_add
from numba_fa.ptx.mbarrier import mbarrier_arrive, mbarrier_wait
from numba_fa.ptx.memory import ld_shared_u32
from numba_fa.ptx.tma import bulk_commit_group, bulk_wait_group, bulk_wait_group_read

END = -1


def make_backward_writer(shape: BackwardShape) -> Any:
    """write_queries(dq, base, barriers, consumer): until the message END."""
    DQ_OFFSET, DQ_BYTES, ROOM_BYTES = shape.dq_offset, shape.dq_bytes[0], shape.room_bytes

    @device
    def write_queries(dq, base, barriers, consumer):
        full = barriers + DQ_FULL + 8 * consumer
        phase = int32(0)
        room = base + DQ_OFFSET + consumer * ROOM_BYTES
        mbarrier_wait(full, phase)
        tile = int32(ld_shared_u32(barriers + DQ_MESSAGE + 4 * consumer))
        while tile != END:
            bulk_reduce_add(dq + (int64(tile) * 2 + consumer) * DQ_BYTES, room, DQ_BYTES)
            bulk_commit_group()
            bulk_wait_group_read()
            mbarrier_arrive(barriers + DQ_EMPTY + 8 * consumer)
            phase ^= 1
            mbarrier_wait(full, phase)
            tile = int32(ld_shared_u32(barriers + DQ_MESSAGE + 4 * consumer))
        bulk_wait_group()  # shared memory must outlive the last sum that reads it

    return write_queries
