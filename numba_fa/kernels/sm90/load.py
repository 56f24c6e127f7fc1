"""Loading a tile by TMA: its 64-column atoms, one after another in shared memory."""

from typing import Any

from numba_fa.jit import device
from numba_fa.ptx.mbarrier import mbarrier_expect_tx
from numba_fa.ptx.tma import tma_load


def make_load(atoms: int, atom_bytes: int, beside: int = 0) -> Any:
    """load(room, tensor, full, first, head, index): rows from `first` on; `beside`: bytes that come to `full` besides."""

    @device
    def load(room, tensor, full, first, head, index):
        mbarrier_expect_tx(full, atoms * atom_bytes + beside)
        for atom in range(atoms):
            tma_load(room + atom * atom_bytes, tensor, full, 64 * atom, first, head, index)

    return load
