"""One shape of each kernel and a few of their programs, checked, to be run under compute-sanitizer on a GPU:

    compute-sanitizer --report-api-errors no python -m tests.gpu.sanitize    # and --tool initcheck, synccheck, racecheck

Lengths are no multiples of any tile; arrays end where their memory does, so that a byte too far is a byte outside.
"""

import os

import numba_fa
from numba_fa.testing.cells import Cell
from tests.gpu.arrays import gradients_to_numpy, to_numpy, to_torch
from tests.oracle import check_cell, check_gradients, inputs_of
from tests.running import run, run_backward

PROGRAMS = ("full", "causal", "everything", "window-padding-dense", "t5", "block")
CELLS = [
    Cell(family, dtype, head_dim, program, "gqa", "ragged")
    for family, dtype, head_dims in (("sm90", "bfloat16", (64, 128, 256)), ("simt", "float32", (64,)))
    for head_dim in head_dims
    for program in PROGRAMS
] + [
    Cell(family, dtype, 192, program, "gqa", "ragged", 128)
    for family, dtype in (("sm90", "bfloat16"), ("simt", "float32"))
    for program in ("causal", "everything")
]


def main() -> None:
    for cell in CELLS:
        os.environ["NUMBA_FA_BACKEND"] = cell.family
        q, k, v = map(to_torch, inputs_of(cell))
        check_cell(cell, *map(to_numpy, run(cell, q, k, v, to_torch)))
        for deterministic in (False, True):
            found = run_backward(cell, q, k, v, to_torch, deterministic=deterministic)
            check_gradients(cell, gradients_to_numpy(found))
        print(f"{cell.id}: right; numba_fa {numba_fa.__version__}", flush=True)


if __name__ == "__main__":
    main()
