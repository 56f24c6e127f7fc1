"""Every cell that the CPU variant declares, through the public call."""

import pytest

from numba_fa.kernels.cpu.variant import FORWARD
from numba_fa.testing.cells import declared_cells, program_cells, value_cells
from tests.oracle import check_cell, inputs_of
from tests.running import run

# All head_dims behave alike but for edges of vectors; these hold them all, and every class runs on each.
HEAD_DIMS = (8, 72, 256)


@pytest.mark.parametrize("cell", list(declared_cells(FORWARD, HEAD_DIMS)), ids=lambda cell: cell.id)
def test_cell(cell):
    out, lse = run(cell, *inputs_of(cell))
    check_cell(cell, out, lse)


@pytest.mark.parametrize("head_dim", FORWARD.head_dims)
def test_every_head_dim(head_dim):
    (cell,) = [
        cell
        for cell in declared_cells(FORWARD, (head_dim,))
        if (cell.dtype, cell.program, cell.heads_class, cell.shape_class) == ("float32", "causal", "gqa", "ragged")
    ]
    check_cell(cell, *run(cell, *inputs_of(cell)))


@pytest.mark.parametrize("cell", list(program_cells(FORWARD, (64,))), ids=lambda cell: cell.id)
def test_every_mask_and_bias(cell):
    check_cell(cell, *run(cell, *inputs_of(cell)))


@pytest.mark.parametrize("cell", list(value_cells(FORWARD)), ids=lambda cell: cell.id)
def test_values_of_their_own_head_dim(cell):
    check_cell(cell, *run(cell, *inputs_of(cell)))
