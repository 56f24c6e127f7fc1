"""Every fault of a request: found alone and beside any other, with the value met and what is allowed."""

import math
from dataclasses import replace
from itertools import permutations

import pytest

from numba_fa.errors import ProblemError
from numba_fa.problem.problem import Problem
from tests.problem.views import request, view


def changed(name, **fields):
    """A fault: some fields of one view of a request."""

    def spoil(asked):
        return asked | {name: replace(asked[name], **fields)}

    return spoil


def given(**arguments):
    """A fault: some arguments of a request."""
    return lambda asked: asked | arguments


# name: (the fault, words that its message must hold: the value met and what is allowed).
# The faultless request is q (2, 5, 6, 64) over k, v (2, 7, 3, 64), float32 on the CPU.
FAULTS = {
    "q dtype": (changed("q", dtype="int64"), ["q", "int64", "float32", "float16", "bfloat16"]),
    "dtype mix": (changed("v", dtype="float16"), ["q float32", "v float16", "one dtype"]),
    "out dtype": (changed("out", dtype="bfloat16"), ["q float32", "out bfloat16", "one dtype"]),
    "device mix": (changed("k", device="cuda:1"), ["q cpu", "k cuda:1", "one device"]),
    "out device": (changed("out", device="cuda:0"), ["q cpu", "out cuda:0", "one device"]),
    "q last axis": (changed("q", strides=(3840, 768, 128, 2)), ["q", "stride 2", "stride 1"]),
    "k last axis": (changed("k", strides=(1344, 192, 64, -1)), ["k", "stride -1", "stride 1"]),
    "v last axis": (changed("v", strides=(1344, 192, 64, 0)), ["v", "stride 0", "stride 1"]),
    "out last axis": (changed("out", strides=(3840, 768, 128, 2)), ["out", "stride 2", "stride 1"]),
    "k batch": (lambda asked: asked | {n: replace(asked[n], shape=(3, 7, 3, 64)) for n in "kv"}, ["3", "2", "batch"]),
    "v seqlen": (changed("v", shape=(2, 8, 3, 64)), ["(2, 8, 3, 64)", "(2, 7, 3, 64)", "equal"]),
    "v heads": (changed("v", shape=(2, 7, 2, 64)), ["(2, 7, 2, 64)", "(2, 7, 3, 64)", "equal"]),
    "k head_dim": (changed("k", shape=(2, 7, 3, 72)), ["k", "72", "64", "head_dim"]),
    "v head_dim": (changed("v", shape=(2, 7, 3, 72)), ["v", "72", "64", "head_dim"]),
    "out shape": (changed("out", shape=(2, 5, 6, 72)), ["out", "(2, 5, 6, 72)", "(2, 5, 6, 64)"]),
    "out batch": (changed("out", shape=(1, 5, 6, 64)), ["out", "(1, 5, 6, 64)", "(2, 5, 6, 64)"]),
    "out read-only": (changed("out", writable=False), ["out", "read-only"]),
    "out overlaps itself": (changed("out", strides=(1920, 0, 64, 1)), ["out", "(1920, 0, 64, 1)", "zero stride"]),
    "mask name": (given(mask="casual"), ["'casual'", "'full'", "'causal'", "None"]),
    "mask object": (given(mask=3.5), ["3.5", "'full'", "'causal'", "None"]),
    "scale nan": (given(scale=math.nan), ["scale", "nan", "finite"]),
    "scale inf": (given(scale=math.inf), ["scale", "inf", "finite"]),
    "scale -inf": (given(scale=-math.inf), ["scale", "-inf", "finite"]),
    "scale 0": (given(scale=0.0), ["scale", "0.0", "above 0"]),
    "scale negative": (given(scale=-0.125), ["scale", "-0.125", "above 0"]),
    "lse dtype": (given(lse=view((2, 6, 5), "float16")), ["lse", "float16", "float32", "(2, 6, 5)"]),
    "lse shape": (given(lse=view((2, 5, 6))), ["lse", "(2, 5, 6)", "(2, 6, 5)"]),
    "lse device": (given(lse=view((2, 6, 5), device="cuda:0")), ["lse", "cuda:0", "cpu"]),
    "lse strides": (given(lse=view((2, 6, 5), strides=(30, 1, 6))), ["lse", "(30, 1, 6)", "(30, 5, 1)"]),
}

# Faults that share no view and no argument, so that one does not undo or cause another.
APART = ["device mix", "v seqlen", "q last axis", "out read-only", "mask name", "scale 0", "lse shape"]


def faults_of(asked):
    """The faults of a request."""
    with pytest.raises(ProblemError) as caught:
        Problem.from_views(**asked)
    return caught.value.faults


def test_the_faultless_request_is_faultless():
    Problem.from_views(**request())


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_fault_alone(name):
    spoil, words = FAULTS[name]
    faults = faults_of(spoil(request()))
    telling = [fault for fault in faults if all(word in fault for word in words)]
    assert len(telling) == 1, faults
    # An integer dtype makes the dtypes differ too; no other fault is two.
    assert len(faults) == (2 if name == "q dtype" else 1), faults


@pytest.mark.parametrize("pair", list(permutations(APART, 2)), ids=" + ".join)
def test_two_faults_are_both_told_in_any_order(pair):
    first, second = (FAULTS[name][0] for name in pair)
    together = faults_of(second(first(request())))
    assert sorted(together) == sorted(faults_of(first(request())) + faults_of(second(request())))


def test_all_faults_at_once():
    asked, alone = request(), []
    for name in APART:
        alone += faults_of(FAULTS[name][0](request()))
        asked = FAULTS[name][0](asked)
    assert sorted(faults_of(asked)) == sorted(alone)
    assert len(alone) == len(APART)


def test_the_message_holds_every_fault():
    with pytest.raises(ProblemError, match="2 faults") as caught:
        Problem.from_views(**request(heads=12, heads_kv=5), scale=-2.0)
    assert len(caught.value.faults) == 2
    assert all(fault in str(caught.value) for fault in caught.value.faults)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(("head_dim", "following"), [(100, 104), (1, 8), (7, 8), (9, 16), (0, 8), (255, 256)])
def test_head_dim_off_the_grid_names_the_next(head_dim, following):
    (fault,) = faults_of(request(head_dim=head_dim))
    assert f"head_dim is {head_dim}" in fault
    assert fault.split()[-1] == str(following)


@pytest.mark.parametrize(("heads", "heads_kv"), [(12, 5), (2, 3), (1, 2), (7, 6)])
def test_heads_not_divisible(heads, heads_kv):
    (fault,) = faults_of(request(heads=heads, heads_kv=heads_kv))
    assert f"{heads} heads over {heads_kv}" in fault
    assert "multiple" in fault


@pytest.mark.parametrize("name", ["batch", "seqlen_q", "heads", "heads_kv"])
def test_an_empty_axis(name):
    (fault,) = faults_of(request(**{name: 0}))
    assert fault.startswith(f"{name} is 0")
    assert "at least 1" in fault


@pytest.mark.parametrize("name", ["q", "k", "v", "out"])
@pytest.mark.parametrize("shape", [(), (64,), (5, 6, 64), (1, 2, 5, 6, 64)])
def test_a_wrong_number_of_axes(name, shape):
    (fault,) = faults_of(request() | {name: view(shape)})
    assert fault.startswith(f"{name} has {len(shape)} axes")
    assert str(shape) in fault
    assert "(batch, seqlen, heads, head_dim)" in fault


def test_wrong_numbers_of_axes_are_told_together():
    faults = faults_of(request() | {"q": view((5, 64)), "v": view((64,))})
    assert [fault.split()[0] for fault in faults] == ["q", "v"]


def test_a_wrong_number_of_axes_hides_no_fault_of_other_arguments():
    """Every fault is listed at once, those that need no shape included."""
    faults = faults_of(request() | {"q": view((5, 6, 64)), "mask": "casual", "scale": -1.0})
    assert any("axes" in fault for fault in faults)
    assert any("casual" in fault for fault in faults)
    assert any("scale" in fault for fault in faults)


@pytest.mark.parametrize("scale", [1e39, 1e300])
def test_a_scale_beyond_float32(scale):
    """Kernels multiply in float32, where such a scale is infinite and every output NaN."""
    assert any("scale" in fault for fault in faults_of(request() | {"scale": scale}))


@pytest.mark.parametrize(("name", "shift"), [("k", 0), ("v", 0), ("k", 1920), ("v", 1920), ("q", 1920), ("q", -1920)])
def test_out_that_overlaps_an_input(name, shift):
    """Parts of the output are written while others still read: sharing memory gives wrong numbers. shift: in bytes."""
    asked = request(heads_kv=6, seqlen_k=5)
    out = replace(asked["out"], pointer=asked[name].pointer + shift)
    assert any("out" in fault for fault in faults_of(asked | {"out": out}))


def test_out_in_place_of_q_is_no_fault():
    """Each tile of queries is read before the same place is written."""
    asked = request()
    Problem.from_views(**asked | {"out": asked["q"]})


def test_out_between_the_inputs_of_one_packed_array_is_no_fault():
    """(batch, seqlen, 4, heads, head_dim) holding q, k, v and out: their ranges interleave, their elements do not."""
    packed = view((2, 5, 6, 64), strides=(5 * 4 * 384, 4 * 384, 64, 1))
    names = ("q", "k", "v", "out")
    Problem.from_views(**{n: replace(packed, pointer=packed.pointer + 4 * 384 * i) for i, n in enumerate(names)})


def test_out_that_overlaps_itself_without_a_zero_stride():
    out = replace(request()["out"], strides=(1920, 384, 32, 1))
    assert any("out" in fault for fault in faults_of(request() | {"out": out}))


@pytest.mark.parametrize("name", ["k", "v", "out"])
def test_an_empty_array_may_have_any_strides(name):
    """NumPy gives new empty arrays strides of 0; no element is there to lie wrong, so no stride is a fault."""
    asked = request(seqlen_q=0, seqlen_k=0)
    asked[name] = replace(asked[name], strides=(0, 0, 0, 0))
    assert [fault.split()[0] for fault in faults_of(asked)] == ["seqlen_q"]


def test_lse_that_is_read_only():
    lse = view((2, 6, 5), writable=False)
    assert any("read-only" in fault for fault in faults_of(request() | {"lse": lse}))
