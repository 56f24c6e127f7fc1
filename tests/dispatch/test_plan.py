"""Plan: what it launches, with which arguments, and which arrays it refuses. The kernel is a list that records."""

from dataclasses import replace

import pytest

import numba_fa.kernels  # noqa: F401  (registers the variants)
from numba_fa.adapters.library import Library
from numba_fa.dispatch.device import HOPPER
from numba_fa.dispatch.plan import Access, Plan
from numba_fa.dispatch.select import select
from numba_fa.dispatch.variant import Arrays, TensorMap
from numba_fa.errors import ProblemError
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.problem import Problem
from tests.problem.views import ADDRESS, request, view

STREAM = 12345
LOG2_E = 1.4426950408889634


# A library whose arrays are views.
VIEWS = Library(
    "views", lambda array: array, lambda array: STREAM, lambda like, shape, dtype: view(shape, dtype), lambda kind: True
)


@pytest.fixture(autouse=True)
def nothing_forced(monkeypatch):
    monkeypatch.delenv("NUMBA_FA_BACKEND", raising=False)


def planned(asked, **options):
    """A plan on a pretended Hopper GPU for views, and the list of its launches: (arguments, stream)."""
    problem = Problem.from_views(**asked, **options)
    chosen, launches = select(problem, HOPPER), []
    access = Access(lambda array: array, {ArrayView: VIEWS})
    return Plan(problem, chosen.variant, chosen.key, HOPPER, access, lambda *launch: launches.append(launch)), launches


def asked_of(dtype="bfloat16", **sizes):
    return request(dtype=dtype, device="cuda:0", **sizes)


LSE = view((2, 6, 5), device="cuda:0", pointer=9 * ADDRESS)


def test_sm90_arguments():
    asked = asked_of()
    plan, launches = planned(asked, scale=0.5)
    plan.run(**asked, lse=LSE)
    ((arguments, stream),) = launches
    key = plan.key
    assert key.family == "sm90"
    assert stream == STREAM
    assert arguments[:4] == (
        TensorMap(asked["q"], key.block_m, 64), TensorMap(asked["k"], key.block_n, 64),
        TensorMap(asked["v"], key.block_n, 64), TensorMap(asked["out"], 64, 64),
    )  # fmt: skip
    assert arguments[4:10] == (LSE.pointer, 6, 3, 2, 5, 7)
    assert arguments[10] == 6 * 2  # all heads of all batches together: their keys and values are small
    assert arguments[11] == pytest.approx(0.5 * LOG2_E, rel=1e-12)
    assert len(arguments) == len(plan.variant.signature("bf16"))


def test_simt_arguments():
    asked = asked_of("float32")
    asked["k"] = replace(asked["k"], strides=(0, -192, 0, 1))
    plan, launches = planned(asked)
    plan.run(**asked)
    ((arguments, _),) = launches
    assert plan.key.family == "simt"
    assert arguments[:5] == (asked["q"].pointer, asked["k"].pointer, asked["v"].pointer, asked["out"].pointer, 0)
    assert arguments[5:17] == (1920, 384, 64, 0, -192, 0, 1344, 192, 64, 1920, 384, 64)
    assert arguments[17:21] == (6, 3, 5, 7)
    assert arguments[21] == pytest.approx(LOG2_E / 8, rel=1e-12)
    assert len(arguments) == len(plan.variant.signature("fp32"))


@pytest.mark.parametrize("mask", ["full", "causal"])
@pytest.mark.parametrize("seqlen_q", [1, 127, 128, 129, 5000])
def test_grids_cover_every_query_tile(seqlen_q, mask):
    for dtype, family in (("bfloat16", "sm90"), ("float32", "simt")):
        plan, _ = planned(asked_of(dtype, seqlen_q=seqlen_q), mask=mask)
        assert plan.key.family == family
        grid = plan.variant.grid(plan.problem, plan.key, HOPPER)
        tiles = len(range(0, seqlen_q, plan.key.block_m))
        if family == "simt":
            assert grid == (tiles, 6, 2)
        elif mask == "causal":
            # persistent where that is even, else a tile a block; nothing between
            assert grid[0] in (min(tiles * 6 * 2, HOPPER.multiprocessors), tiles * 6 * 2) and grid[1:] == (1, 1)
        else:
            assert grid == (min(tiles * 6 * 2, HOPPER.multiprocessors), 1, 1)


OTHERS = {
    "batch": asked_of(batch=3),
    "seqlen_q": asked_of(seqlen_q=6),
    "seqlen_k": asked_of(seqlen_k=8),
    "heads": asked_of(heads=9),
    "heads_kv": asked_of(heads_kv=6),
    "head_dim": asked_of(head_dim=72),
    "dtype": asked_of("float16"),
    "device": request(dtype="bfloat16", device="cuda:1"),
}


@pytest.mark.parametrize("name", list(OTHERS))
def test_other_arrays_are_refused(name):
    plan, launches = planned(asked_of())
    other = OTHERS[name]
    with pytest.raises(ProblemError) as caught:
        plan.run(**other)
    (fault,) = caught.value.faults
    assert plan.problem.summary in fault
    assert Problem.from_views(**other).summary in fault
    assert launches == []


def test_faulty_arrays_are_refused_with_their_faults():
    plan, launches = planned(asked_of())
    asked = asked_of()
    asked["out"] = replace(asked["out"], writable=False)
    with pytest.raises(ProblemError) as caught:
        plan.run(**asked, lse=view((2, 5, 6), device="cuda:0"))
    assert len(caught.value.faults) == 2
    assert launches == []


@pytest.mark.parametrize("offset", [2, 8])
@pytest.mark.parametrize("name", ["q", "k", "v", "out"])
def test_less_aligned_arrays_than_the_kernel_needs_are_refused(name, offset):
    plan, launches = planned(asked_of())
    asked = asked_of()
    asked[name] = replace(asked[name], pointer=asked[name].pointer + offset)
    with pytest.raises(ProblemError, match=f"alignment 16.*alignment {offset}"):
        plan.run(**asked)
    assert launches == []


def test_alignment_that_the_kernel_does_not_need_may_differ():
    plan, launches = planned(asked_of("float32"))
    asked = asked_of("float32")
    asked["q"] = replace(asked["q"], pointer=asked["q"].pointer + 4)
    plan.run(**asked)
    assert launches[0][0][0] == asked["q"].pointer


def test_other_addresses_and_strides_of_the_same_problem_run():
    plan, launches = planned(asked_of())
    asked = asked_of()
    asked["q"] = replace(asked["q"], pointer=77 * ADDRESS, strides=(1920, 64, 320, 1))
    plan.run(**asked)
    assert launches[0][0][0].view == asked["q"]


def test_lse_pointer_is_0_without_lse():
    asked = asked_of()
    assert Arrays(**asked).lse_pointer == 0
    assert Arrays(**asked, lse=LSE).lse_pointer == LSE.pointer


def test_a_plan_shows_itself_without_its_arrays_adapters():
    plan, _ = planned(asked_of())
    assert plan.key.family in repr(plan)
    assert "access" not in repr(plan)
