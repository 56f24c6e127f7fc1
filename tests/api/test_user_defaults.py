"""Functions with defaults, which lambdas made in a loop have: filled in where no argument is given."""

import numpy as np
import pytest

import numba_fa
from numba_fa.build.compiler import compile_kernel
from numba_fa.kernels.sm90.variant import FORWARD
from numba_fa.testing.inputs import random_qkv

Q, K, V = random_qkv(1, 40, 50, 2, 1, 16, "float32")


def scaled(score, b, h, q_idx, kv_idx, gain=2.0, shift=1):
    return score * gain + shift * h


def masks():
    return [numba_fa.MaskMod(lambda b, h, q_idx, kv_idx, limit=limit: kv_idx < limit) for limit in (7, 20)]


def padded(limit):
    return numba_fa.KeyPadding(np.array([limit], np.int32))


def test_a_mask():
    for mask, limit in zip(masks(), (7, 20)):
        np.testing.assert_allclose(numba_fa.attention(Q, K, V, mask=mask), numba_fa.attention(Q, K, V, mask=padded(limit)))


@pytest.mark.parametrize("given", [(), (2.0,), (2.0, 1), (3.0,)])
def test_a_score_function_and_its_gradient(given):
    def plain(score, b, h, q_idx, kv_idx, gain):
        return score * gain + 1 * h

    bias, same = numba_fa.ScoreMod(scaled, *given), numba_fa.ScoreMod(plain, *given[:1] or (2.0,))
    found = [numba_fa.attention(Q, K, V, bias=one, return_lse=True) for one in (bias, same)]
    np.testing.assert_allclose(*[out for out, _ in found], rtol=1e-6)
    ours, theirs = [
        numba_fa.attention_backward(np.ones_like(Q), Q, K, V, *pair, bias=one) for pair, one in zip(found, (bias, same))
    ]
    np.testing.assert_allclose(ours.dq, theirs.dq, rtol=1e-5, atol=1e-6)


def test_kernels_for_a_gpu():
    mask, bias = masks()[0], numba_fa.ScoreMod(scaled)
    assert compile_kernel(FORWARD.key_for("bf16", 64, mask.name, bias.name), FORWARD.factory(), "sm_90a").registers


def test_a_parameter_without_a_default_is_asked_for():
    with pytest.raises(numba_fa.ProblemError, match="it takes 6 to 7 arguments, and is called with 5"):
        numba_fa.ScoreMod(lambda score, b, h, q_idx, kv_idx, gain, shift=1: score * gain + shift)
