"""Running a cell through the public calls."""

import numba_fa
from numba_fa.testing.programs import PROGRAMS
from tests.oracle import upstream


def asked_of(cell, move=lambda array: array):
    """Keyword arguments of attention for a cell's mask and biases, with `move(array)` in place of each array."""
    asked = PROGRAMS[cell.program](cell.sizes).moved(move)
    return {"mask": asked.mask, "bias": asked.biases or None, "sink_logits": asked.sink_logits}


def run(cell, q, k, v, move=lambda array: array):
    """(out, lse)."""
    return numba_fa.attention(q, k, v, return_lse=True, **asked_of(cell, move))


def run_backward(cell, q, k, v, move=lambda array: array, **options):
    """The gradients of a loss of out and LSE, every one that there is."""
    batch, seqlen_q, _, _ = cell.shape
    dout, dlse = map(move, upstream(batch, seqlen_q, cell.heads[0], cell.head_dim_v or cell.head_dim, cell.dtype))
    asked = asked_of(cell, move)
    out, lse = numba_fa.attention(q, k, v, return_lse=True, **asked)
    wanted = ["q", "k", "v"] + ["bias"] * any(bias.parameter for bias in asked["bias"] or ())
    wanted += ["sink"] * (asked["sink_logits"] is not None)
    return numba_fa.attention_backward(dout, q, k, v, out, lse, dlse=dlse, wanted=wanted, **asked, **options)
