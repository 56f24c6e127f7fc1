"""Every cell that the CPU variant declares, through the public call."""

import pytest

import numba_fa
from numba_fa.kernels.cpu.variant import FORWARD
from numba_fa.testing.cells import declared_cells
from tests.oracle import check_cell, inputs_of

# All head_dims behave alike but for edges of vectors; these hold them all, and every class runs on each.
HEAD_DIMS = (8, 72, 256)


@pytest.mark.parametrize("cell", list(declared_cells(FORWARD, HEAD_DIMS)), ids=lambda cell: cell.id)
def test_cell(cell):
    out, lse = numba_fa.attention(*inputs_of(cell), mask=cell.mask, return_lse=True)
    check_cell(cell, out, lse)


@pytest.mark.parametrize("head_dim", FORWARD.head_dims)
def test_every_head_dim(head_dim):
    (cell,) = [
        cell
        for cell in declared_cells(FORWARD, (head_dim,))
        if (cell.dtype, cell.mask, cell.heads_class, cell.shape_class) == ("float32", "causal", "gqa", "ragged")
    ]
    check_cell(cell, *numba_fa.attention(*inputs_of(cell), mask=cell.mask, return_lse=True))
