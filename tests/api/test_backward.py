"""attention_backward: the public call for gradients, its results, its faults; kernels are tested cell by cell elsewhere."""

import numpy as np
import pytest

import numba_fa
import reference
from numba_fa import ProblemError, UnsupportedError
from numba_fa.testing.inputs import random_qkv
from reference.parameters import bind
from tests.api.libraries import LIBRARIES

SIZES = (2, 19, 23, 4, 2, 16)


@pytest.fixture(scope="module")
def case():
    """q, k, v, dout, and out and lse of the causal forward."""
    q, k, v = random_qkv(*SIZES)
    dout, *_ = random_qkv(2, 19, 1, 4, 4, 16, seed=9)
    return q, k, v, dout, *numba_fa.attention(q, k, v, mask="causal", return_lse=True)


def backward(case, **options):
    q, k, v, dout, out, lse = case
    return numba_fa.attention_backward(dout, q, k, v, out, lse, **{"mask": "causal"} | options)


def faults_of(case, **options):
    with pytest.raises(ProblemError) as caught:
        backward(case, **options)
    return caught.value.faults


def test_gradients_are_the_references(case):
    q, k, v, dout, *_ = case
    found, truth = backward(case), reference.attention_backward(q, k, v, dout, mask="causal")
    for name in ("dq", "dk", "dv"):
        assert np.allclose(getattr(found, name), getattr(truth, name), atol=5e-6), name
    assert (found.dbias, found.dsink) == ((), None)


def test_only_what_is_wanted_is_there(case):
    alone = backward(case, wanted=["k"])
    assert alone.dq is alone.dv is None
    assert np.array_equal(alone.dk, backward(case).dk)


def test_a_name_alone_may_be_wanted(case):
    assert backward(case, wanted="v").dv is not None


def test_gradients_of_parameters(case):
    q, k, v, dout, *_ = case
    slopes, sink = np.array([0.5, 0.25, 0.1, 0.0], np.float32), np.array([0.0, 1.0, -1.0, 2.0], np.float32)
    options = {"mask": "causal", "bias": [numba_fa.Softcap(5.0), numba_fa.ALiBi(slopes)], "sink_logits": sink}
    out, lse = numba_fa.attention(q, k, v, return_lse=True, **options)
    found = numba_fa.attention_backward(dout, q, k, v, out, lse, wanted=("bias", "sink"), **options)
    bias = [bind(reference.softcap, 19, 23, cap=5.0), bind(reference.alibi, 19, 23, slopes=slopes)]
    truth = reference.attention_backward(q, k, v, dout, mask="causal", bias=bias, sink_logits=sink)
    assert found.dq is found.dk is found.dv is found.dbias[0] is None
    assert found.dbias[1].dtype == found.dsink.dtype == np.float32
    assert np.allclose(found.dbias[1], truth.dbias[1]["slopes"], rtol=1e-4, atol=1e-5)
    assert np.allclose(found.dsink, truth.dsink, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LIBRARIES)
def test_every_library_gets_its_own_arrays(name, case):
    library = LIBRARIES[name]()
    found = backward([library.make(array) for array in case])
    for got, expected in zip(found[:3], backward(case)[:3]):
        assert isinstance(got, library.kind)
        assert np.array_equal(library.to_numpy(got), expected)


def test_a_forward_without_its_lse(case):
    *others, _ = case
    assert faults_of((*others, None)) == ("lse is None; call attention(..., return_lse=True) and pass what it returns",)


@pytest.mark.parametrize(("at", "change", "told"), [
    (3, lambda x: x[:, :5], "dout has shape (2, 5, 4, 16); out's shape (2, 19, 4, 16) is wanted"),
    (3, lambda x: x.astype(np.float16), "dout is float16; out's dtype float32 is wanted"),
    (3, lambda x: np.repeat(x, 2, -1)[..., ::2], "dout's last axis has stride 2; it must be contiguous (stride 1)"),
    (4, lambda x: x[..., :8], "out has shape (2, 19, 4, 8); out's shape (2, 19, 4, 16) is wanted"),
    (5, lambda x: x[0], "lse has shape (4, 19); the LSE's shape (2, 4, 19) is wanted"),
    (5, lambda x: x.astype(np.float64), "lse is float64; the LSE's dtype float32 is wanted"),
    (5, lambda x: np.asfortranarray(x), "lse has strides (1, 2, 8); contiguous (76, 19, 1) is wanted"),
], ids=["dout-shape", "dout-dtype", "dout-stride", "out-shape", "lse-shape", "lse-dtype", "lse-stride"])  # fmt: skip
def test_faults_of_what_was_saved(case, at, change, told):
    changed = list(case)
    changed[at] = change(changed[at])
    assert faults_of(changed) == (told,)


def test_every_fault_is_told_at_once(case):
    changed = list(case)
    changed[3] = changed[3].astype(np.float16)
    faults = faults_of(changed, wanted=("q", "w", "bias", "sink"), dlse=case[5][0])
    assert len(faults) == 5
    assert faults[1].startswith("dlse has shape") and faults[2].startswith("wanted holds 'w'")


@pytest.mark.parametrize("wanted", [(), 3, "w"])
def test_nothing_wanted_is_a_fault(case, wanted):
    assert any(fault.startswith("wanted ") for fault in faults_of(case, wanted=wanted))


def test_a_call_made_before_is_not_examined_again(case, monkeypatch):
    """Other arrays that lie the same way give their own gradients; whatever decides more is looked at."""
    from numba_fa import backward as module

    checked, check = [], module._checked_call
    monkeypatch.setattr(module, "_checked_call", lambda *given: checked.append(1) or check(*given))
    module.forget()
    slopes = np.array([0.5, 0.25, 0.1, 0.0], np.float32)
    kinds = [
        {}, {"wanted": ("q", "k")}, {"wanted": "q"}, {"scale": 0.3}, {"deterministic": True}, {"mask": None},
        {"mask": numba_fa.SlidingWindow(5, 2)}, {"mask": numba_fa.SlidingWindow(6, 2)}, {"bias": numba_fa.ALiBi(slopes)},
        {"dlse": np.ones((2, 4, 19), np.float32)}, {"sink_logits": slopes},
        {"sink_logits": slopes, "bias": numba_fa.ALiBi(slopes)},
    ]  # fmt: skip
    for number, options in enumerate(kinds, 1):
        for change in (1.0, 0.5):
            changed = [array * np.float32(change) for array in case]
            found = backward(changed, **options)
            assert len(checked) == number, options
            with monkeypatch.context() as patch:
                patch.setattr(module, "_remembered", None)
                patch.setattr(module, "_checked_call", check)
                expected = backward(changed, **options)
            for one, other in zip(found[:3], expected[:3]):
                assert (one is None and other is None) or np.array_equal(one, other), options


def test_faults_are_told_after_a_call_without_any(case):
    backward(case, scale=0.5)
    assert list(faults_of(case, scale="0.5")) == ["scale is '0.5'; a number or None is wanted"]
    backward(case, wanted=("q", "k"))
    assert list(faults_of(case, wanted="qk")) == ["wanted holds 'qk'; allowed: 'q', 'k', 'v', 'bias', 'sink'"]
    q, k, v, dout, out, lse = case
    for wrong in (
        (q, k, v, dout, out, lse[:, :, ::-1]), (q, k, v, dout.astype(np.float16), out, lse),
        (q, k[:, :5], v, dout, out, lse), (q, k, v, dout[..., ::-1], out, lse),
    ):  # fmt: skip
        assert faults_of(wrong, wanted=("q", "k"))


def test_a_family_that_has_no_backward_says_so(case, monkeypatch):
    monkeypatch.setenv("NUMBA_FA_BACKEND", "sm90")
    with pytest.raises(UnsupportedError, match="no kernel computes the gradients of float32 causal attention"):
        backward(case)


def test_repeats_are_equal_bit_by_bit(case):
    first = backward(case, deterministic=True)
    assert all(np.array_equal(x, y) for x, y in zip(first[:3], backward(case, deterministic=True)[:3]))


def test_explain_says_which_kernel_it_is(case):
    q, k, v, *_ = case
    told = numba_fa.explain(q, k, v, mask="causal", backward=True)
    assert (told.variant.name, told.key.op) == ("backward-cpu", "bwd")
