"""Running a cell through the public call."""

import numba_fa
from numba_fa.testing.programs import PROGRAMS


def asked_of(cell, move=lambda array: array):
    """Keyword arguments of attention for a cell's mask and biases, with `move(array)` in place of each array."""
    asked = PROGRAMS[cell.program](cell.sizes).moved(move)
    return {"mask": asked.mask, "bias": asked.biases or None, "sink_logits": asked.sink_logits}


def run(cell, q, k, v, move=lambda array: array):
    """(out, lse)."""
    return numba_fa.attention(q, k, v, return_lse=True, **asked_of(cell, move))
