"""The Hopper backward's epilogue: dK and dV through shared memory and TMA, which clips keys past the end."""

from typing import Any

from numba_fa.jit import cuda, device, int32
from numba_fa.ptx.fragment import make_stmatrix
from numba_fa.ptx.tma import bulk_commit_group, bulk_wait_group_read, fence_proxy_async, tma_store
from numba_fa.ptx.warp import bar_sync
from numba_fa.tile.layout import ATOM_COLUMNS, round_up

_ATOM = 64 * 128


def make_write_keys(head_dim: int, dtype: str) -> Any:
    """write_keys(tensor, fragment, room, consumer, first, head, index): 64 rows of dK or dV, `head_dim` wide, from key
    `first` on.

    Goes through `room` in shared memory, which must be free, and leaves it so.
    """
    ATOMS = round_up(head_dim, ATOM_COLUMNS) // ATOM_COLUMNS
    stmatrix = make_stmatrix(head_dim // 2, dtype)

    @device
    def write_keys(tensor, fragment, room, consumer, first, head, index):
        thread = int32(cuda.threadIdx.x & 127)
        lane = thread & 31
        # stmatrix: lane l addresses row l % 8 of matrix l // 8; matrices 0, 1 are rows 0-7, 8-15; 2, 3 the next columns
        row = (thread >> 5) * 16 + ((lane >> 3) & 1) * 8 + (lane & 7)
        stmatrix(fragment, room + row * 128, _ATOM, row & 7, lane >> 4)
        fence_proxy_async()
        bar_sync(1 + consumer, 128)
        if thread == 0:
            for atom in range(ATOMS):
                tma_store(tensor, room + atom * _ATOM, 64 * atom, first, head, index)
            bulk_commit_group()
            bulk_wait_group_read()
        bar_sync(1 + consumer, 128)

    return write_keys
