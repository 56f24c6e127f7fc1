"""Every cell that the GPU variants declare, on a GPU, against the reference."""

import pytest

import numba_fa
import numba_fa.api
from numba_fa.dispatch import tuning
from numba_fa.kernels.simt.variant import FORWARD as SIMT
from numba_fa.kernels.sm90.variant import FORWARD as SM90
from numba_fa.testing.cells import declared_cells, program_cells, value_cells
from tests.gpu.arrays import to_numpy, to_torch
from tests.oracle import check_cell, inputs_of
from tests.running import asked_of

WIDE = (8, 32, 64, 80, 96, 128, 192, 256)


def run(cell, monkeypatch):
    monkeypatch.setenv("NUMBA_FA_BACKEND", cell.family)
    q, k, v = (to_torch(array) for array in inputs_of(cell))
    asked = asked_of(cell, to_torch)
    assert numba_fa.explain(q, k, v, **asked).family == cell.family
    out, lse = numba_fa.attention(q, k, v, return_lse=True, **asked)
    check_cell(cell, to_numpy(out), to_numpy(lse))


@pytest.mark.hopper
@pytest.mark.parametrize("cell", list(declared_cells(SM90, WIDE)), ids=lambda cell: cell.id)
def test_sm90(cell, monkeypatch):
    run(cell, monkeypatch)


@pytest.mark.gpu
@pytest.mark.parametrize("cell", list(declared_cells(SIMT, (8, 64, 128, 256))), ids=lambda cell: cell.id)
def test_simt(cell, monkeypatch):
    run(cell, monkeypatch)


def one_class(variant):
    """Every dtype, head_dim and mask, at one class of heads and shape."""
    return [c for c in declared_cells(variant) if (c.heads_class, c.shape_class) == ("gqa", "ragged")]


@pytest.mark.hopper
@pytest.mark.parametrize("cell", one_class(SM90), ids=lambda cell: cell.id)
def test_sm90_every_head_dim(cell, monkeypatch):
    run(cell, monkeypatch)


@pytest.fixture
def long_tiles(monkeypatch):
    """Tiles that the table has for long calls, for any."""
    monkeypatch.setattr(tuning, "TABLE", tuple(row for row in tuning.TABLE if row.most is None))
    numba_fa.api.forget()
    yield
    numba_fa.api.forget()


@pytest.mark.hopper
@pytest.mark.parametrize(
    "cell",
    [*one_class(SM90), *program_cells(SM90, (64, 256), ("bf16",), ("gqa",), ("ragged",))],
    ids=lambda cell: cell.id,
)
def test_sm90_tiles_of_long_calls(cell, monkeypatch, long_tiles):
    run(cell, monkeypatch)


@pytest.mark.gpu
@pytest.mark.parametrize("cell", one_class(SIMT), ids=lambda cell: cell.id)
def test_simt_every_head_dim(cell, monkeypatch):
    run(cell, monkeypatch)


@pytest.mark.hopper
@pytest.mark.parametrize(
    "cell",
    [*program_cells(SM90, (64, 128, 256), ("bf16",)), *program_cells(SM90, (96,), ("fp16",)),
     *program_cells(SM90, (128,), ("bf16",), ("mha", "mqa"), ("one", "tiles"))],
    ids=lambda cell: cell.id,
)  # fmt: skip
def test_sm90_every_mask_and_bias(cell, monkeypatch):
    run(cell, monkeypatch)


@pytest.mark.gpu
@pytest.mark.parametrize("cell", list(program_cells(SIMT, (64,))), ids=lambda cell: cell.id)
def test_simt_every_mask_and_bias(cell, monkeypatch):
    run(cell, monkeypatch)


@pytest.mark.hopper
@pytest.mark.parametrize(
    "cell",
    [*value_cells(SM90), *value_cells(SM90, ("alibi", "softcap", "window", "sink"), ("ragged",))],
    ids=lambda cell: cell.id,
)
def test_sm90_values_of_their_own_head_dim(cell, monkeypatch):
    run(cell, monkeypatch)


@pytest.mark.gpu
@pytest.mark.parametrize("cell", list(value_cells(SIMT, shapes=("ragged",))), ids=lambda cell: cell.id)
def test_simt_values_of_their_own_head_dim(cell, monkeypatch):
    run(cell, monkeypatch)
