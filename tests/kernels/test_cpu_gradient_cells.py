"""Gradients of the cells that the CPU variant declares, through the public call."""

import pytest

from numba_fa.kernels.cpu.variant import BACKWARD
from numba_fa.testing.cells import declared_cells, program_cells, value_cells
from tests.oracle import check_gradients, inputs_of
from tests.running import run_backward


@pytest.mark.parametrize("cell", list(declared_cells(BACKWARD, (8, 72))), ids=lambda cell: cell.id)
def test_cell(cell):
    check_gradients(cell, run_backward(cell, *inputs_of(cell)))


@pytest.mark.parametrize("cell", list(program_cells(BACKWARD, (64,))), ids=lambda cell: cell.id)
def test_every_mask_and_bias(cell):
    check_gradients(cell, run_backward(cell, *inputs_of(cell)))


@pytest.mark.parametrize(
    "cell",
    [*value_cells(BACKWARD, shapes=("ragged",)), *value_cells(BACKWARD, ("alibi", "dense", "sink", "window"), ("tall",))],
    ids=lambda cell: cell.id,
)
def test_values_of_their_own_head_dim(cell):
    check_gradients(cell, run_backward(cell, *inputs_of(cell)))
