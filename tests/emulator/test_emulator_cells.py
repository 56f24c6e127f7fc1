"""Every mask and bias through the GPU families' own source, emulated, against the reference."""

import numpy as np
import pytest

import numba_fa
import reference
from numba_fa.kernels.simt.variant import FORWARD as SIMT
from numba_fa.kernels.sm90.variant import FORWARD as SM90
from numba_fa.testing.cells import programs_of
from numba_fa.testing.inputs import DTYPES, random_qkv
from numba_fa.testing.programs import PROGRAMS, Sizes
from numba_fa.testing.tolerance import assert_close
from tests.declared import truth_of
from tests.oracle import naive_float32


def check(program, sizes, head_dim, dtype, family, **options):
    q, k, v = random_qkv(sizes.batch, sizes.seqlen_q, sizes.seqlen_k, sizes.heads, 1, head_dim, dtype)
    asked = PROGRAMS[program](sizes)
    got = numba_fa.emulate(
        q, k, v, mask=asked.mask, bias=asked.biases or None, sink_logits=asked.sink_logits, family=family, **options
    )
    truth = truth_of(asked, sizes)
    out, lse = reference.attention(q, k, v, **truth)
    naive = naive_float32(q, k, v, **truth) if dtype == "float32" else (
        reference.attention_rounded(q, k, v, dtype=dtype, **truth)[0]
    )  # fmt: skip
    assert_close(got.out.astype(np.float64), got.lse, out, lse, naive, DTYPES[dtype])


@pytest.mark.parametrize("program", programs_of(SM90))
def test_sm90(program):
    check(program, Sizes(1, 140, 150, 2), 16, "bfloat16", "sm90", tile=(192, 48, 2), multiprocessors=1, seed=len(program))


@pytest.mark.parametrize("program", programs_of(SIMT))
def test_simt(program):
    check(program, Sizes(2, 18, 30, 2), 8, "float32", "simt", tile=(16, 16, 1), seed=len(program))
