"""What raises in a user's function on the CPU: told by one error, on whatever thread it happens, never lost."""

import numba
import numpy as np
import pytest

import numba_fa
from numba_fa.testing.inputs import random_qkv

Q, K, V = random_qkv(1, 300, 300, 4, 2, 16, "float32")
OUT, LSE = numba_fa.attention(Q, K, V, return_lse=True)


def outside(score, b, h, q_idx, kv_idx, first):
    return score * (1.0, 2.0)[2 if q_idx == first and h == 3 else 1]


def no_step(score, b, h, q_idx, kv_idx):
    for i in range(0, 3, h):
        score += i
    return score


def outside_too(b, h, q_idx, kv_idx):
    return (kv_idx < 9, True)[2 * (q_idx // 200)]


MEETING = {
    "an index": (numba_fa.ScoreMod(outside, 290), r"the score function outside \(.*\) raised IndexError: tuple index"),
    "a step of 0": (numba_fa.ScoreMod(no_step), r"the score function no_step \(.*\) raised ValueError: range"),
    "a mask": (numba_fa.MaskMod(outside_too), r"the mask function outside_too \(.*\) raised IndexError: tuple index"),
}


@pytest.fixture(params=[1, 2])
def threads(request):
    before = numba.get_num_threads()
    numba.set_num_threads(min(request.param, before))
    yield
    assert numba.get_num_threads() == min(request.param, before)
    numba.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("case", list(MEETING))
def test_forward_and_backward(case):
    declared, message = MEETING[case]
    given = {"mask" if isinstance(declared, numba_fa.MaskMod) else "bias": declared}
    for _ in range(5):  # which thread meets it is chance
        with pytest.raises(numba_fa.FunctionError, match=message) as caught:
            numba_fa.attention(Q, K, V, **given)
        assert isinstance(caught.value.__cause__, IndexError | ValueError)
        with pytest.raises(numba_fa.FunctionError, match=message):
            numba_fa.attention_backward(np.ones_like(Q), Q, K, V, OUT, LSE, **given)


def test_a_block_mask():
    declared, message = MEETING["a mask"]
    with pytest.raises(numba_fa.FunctionError, match=message):
        numba_fa.block_mask(declared, seqlen_q=300, seqlen_k=300)


def test_what_is_not_met_changes_nothing():
    found = numba_fa.attention(Q, K, V, bias=numba_fa.ScoreMod(outside, -1))
    np.testing.assert_allclose(found, numba_fa.attention(Q, K, V, bias=numba_fa.ScoreMod(lambda s, b, h, i, j: s * 2.0)))
    assert np.isfinite(numba_fa.attention(Q, K, V)).all()
