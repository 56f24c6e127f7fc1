"""The Hopper forward's epilogue: O through shared memory and TMA, which clips rows past the end; LSE by plain stores."""

from typing import Any

from numba_fa.flash.online_softmax import natural_lse
from numba_fa.jit import cuda, device, int32
from numba_fa.kernels.sm90.shape import Shape
from numba_fa.ptx.fragment import make_stmatrix
from numba_fa.ptx.mbarrier import mbarrier_arrive
from numba_fa.ptx.memory import st_global_f32
from numba_fa.ptx.tma import bulk_commit_group, bulk_wait_group_read, fence_proxy_async, tma_store
from numba_fa.ptx.warp import bar_sync


def make_epilogue(shape: Shape) -> tuple[Any, Any]:
    """(write_out, write_lse) for `shape`.

    write_out(map, output, base, q_empty, consumer, top, head, index) starts the store of 64 normalised rows of the tile
    whose first query is `top`; where O lies in Q's room, it arrives at q_empty once the store has read it.
    write_lse(address, q_idx, seqlen_q, shift, row_sum) stores one row's LSE if the row exists.
    """
    O_IN_Q, ATOMS = shape.o_in_q, shape.o_atoms or shape.v_atoms
    HALVES = shape.v_atoms > ATOMS
    write_first, write_rest = _make_write(shape, 0, ATOMS), _make_write(shape, ATOMS if HALVES else 0, shape.v_atoms)

    @device
    def write_out(out, output, base, q_empty, consumer, top, head, index):
        write_first(out, output, base, consumer, top, head, index)
        if HALVES:
            write_rest(out, output, base, consumer, top, head, index)
        if O_IN_Q and cuda.threadIdx.x & 127 == 0:
            bulk_wait_group_read()
            mbarrier_arrive(q_empty)

    @device
    def write_lse(address, q_idx, seqlen_q, shift, row_sum):
        if q_idx < seqlen_q:
            st_global_f32(address, natural_lse(shift, row_sum))

    return write_out, write_lse


def _make_write(shape: Shape, first: int, last: int) -> Any:
    """write(map, output, base, consumer, top, head, index): start the store of atoms `first` up to `last`."""
    ATOMS, O_ATOM, O_OFFSET = last - first, shape.o_atom, shape.o_offset
    # In Q's room a consumer's rows lie in the middle of each atom; in O's own room they are atoms of 64 rows.
    O_CONSUMER = 64 * 128 if shape.o_in_q else shape.o_atoms * shape.o_atom
    FIRST = first
    # 32 registers hold 64 columns; the last atom may be narrower.
    stmatrix = make_stmatrix(min(32 * last, shape.key.head_dim_v // 2) - 32 * first, shape.key.dtype, 32 * first)

    @device
    def write(out, output, base, consumer, top, head, index):
        thread = int32(cuda.threadIdx.x & 127)
        lane = thread & 31
        room = int32(base + O_OFFSET + consumer * O_CONSUMER)
        # stmatrix: lane l addresses row l % 8 of matrix l // 8; matrices 0, 1 are rows 0-7, 8-15; 2, 3 the next columns
        row = (thread >> 5) * 16 + ((lane >> 3) & 1) * 8 + (lane & 7)
        if thread == 0:
            bulk_wait_group_read()  # the store before has left the room
        bar_sync(4 + consumer, 128)
        stmatrix(output, room + row * 128, O_ATOM, row & 7, lane >> 4)
        fence_proxy_async()
        bar_sync(4 + consumer, 128)
        if thread == 0:
            for atom in range(ATOMS):
                tma_store(out, room + atom * O_ATOM, 64 * (FIRST + atom), top + consumer * 64, head, index)
            bulk_commit_group()

    return write
