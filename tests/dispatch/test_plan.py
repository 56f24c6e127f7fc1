"""Plan: what it launches, with which arguments, and which arrays it refuses. The kernel is a list that records."""

from dataclasses import replace

import pytest

import numba_fa.kernels  # noqa: F401  (registers the variants)
from numba_fa.adapters.library import Library
from numba_fa.dispatch.addresses import place_of
from numba_fa.dispatch.device import HOPPER
from numba_fa.dispatch.plan import Access, Plan
from numba_fa.dispatch.select import select
from numba_fa.dispatch.variant import Arrays, TensorMap
from numba_fa.errors import ProblemError
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.biases import ALiBi, Softcap
from numba_fa.problem.masks import Causal, KeyPadding
from numba_fa.problem.problem import Problem
from numba_fa.problem.tokens import tokens_of
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
        TensorMap(asked["q"], 64, 64), TensorMap(asked["k"], key.block_n, 64),
        TensorMap(asked["v"], key.block_n, 64), TensorMap(asked["out"], 64, 64),
    )  # fmt: skip
    assert arguments[4:10] == (LSE.pointer, 6, 3, 2, 5, 7)
    assert arguments[10] == 2  # the heads that share keys and values go together
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


LENGTHS = view((2,), "int32", "cuda:0", pointer=11 * ADDRESS)
SLOPES = view((6,), device="cuda:0", pointer=12 * ADDRESS)
SINK = view((6,), device="cuda:0", pointer=13 * ADDRESS)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_programs_arguments_follow_the_kernels_own(dtype):
    asked = asked_of(dtype)
    options = {"mask": Causal() & KeyPadding(LENGTHS), "bias": [Softcap(30.0), ALiBi(SLOPES)], "sink_logits": SINK}
    plan, launches = planned(asked, **options)
    plan.run(**asked)
    ((arguments, _),) = launches
    own = len(plan.variant.signature(plan.key.dtype))
    slopes = replace(SLOPES, shape=(2, 6), strides=(0, 1))
    assert arguments[own:] == (2, LENGTHS, 30.0, 2, slopes, SINK)
    assert plan.problem.program_tokens == tokens_of(plan.key.mask, plan.key.bias)


def test_the_scale_is_in_base_2_without_a_bias_alone():
    """A bias is of the scaled score itself, so with one the kernel multiplies by log2(e) later."""
    for dtype in ("bfloat16", "float32"):
        own = 12 if dtype == "bfloat16" else 22
        for options, scale in (({"bias": Softcap(3.0)}, 0.5), ({"sink_logits": SINK}, 0.5 * LOG2_E), ({}, 0.5 * LOG2_E)):
            plan, launches = planned(asked_of(dtype), scale=0.5, **options)
            plan.run(**asked_of(dtype))
            assert launches[0][0][own - 1] == pytest.approx(scale)


def prepared(asked, **options):
    """A plan whose launches are prepared, and the list of those: what was prepared, addresses, stream."""
    plan, _ = planned(asked, **options)
    launches = []

    def prepare(arguments):
        return lambda addresses, stream: launches.append((arguments, addresses, stream))

    return replace(plan, launch=None, prepare=prepare), launches


def test_a_prepared_launch_gets_addresses_where_arrays_lie_the_same():
    asked = asked_of()
    plan, launches = prepared(asked, mask=KeyPadding(LENGTHS))
    moved = {name: replace(array, pointer=array.pointer + 4096) for name, array in asked.items()}
    plan.run(**asked)
    plan.run(**moved, lse=LSE)
    plan.run(**moved)
    (first, at, stream), (with_lse, at_lse, _), (again, at_moved, _) = launches
    assert stream == STREAM and first is again is not with_lse
    assert at == (*[array.pointer for array in asked.values()], 0, LENGTHS.pointer)
    assert at_moved == (*[array.pointer for array in moved.values()], 0, LENGTHS.pointer)
    assert at_lse == (*at_moved[:4], LSE.pointer, LENGTHS.pointer)


def test_every_address_in_a_prepared_launch_has_its_place():
    """All arguments but these are final; the places say which array's address each one is."""
    for dtype in ("bfloat16", "float32"):
        asked = asked_of(dtype)
        plan, launches = prepared(asked, mask=KeyPadding(LENGTHS), bias=ALiBi(SLOPES), sink_logits=SINK)
        plan.run(**asked, lse=LSE)
        arguments = launches[0][0]
        places = [place_of(argument) for argument in arguments]
        assert [place.index for place in places if place is not None] == [0, 1, 2, 3, 4, 5, 6, 7]
        signature = plan.variant.signature(plan.key.dtype) + plan.problem.program_tokens
        for token, place in zip(signature, places, strict=True):
            assert (place is not None) == (token not in ("int32", "int64", "float32"))


def test_other_strides_are_prepared_anew_and_remembered():
    asked = asked_of()
    plan, launches = prepared(asked)
    other = asked | {"q": replace(asked["q"], strides=(1920, 64, 320, 1))}
    for arrays in (asked, other, asked, other):
        plan.run(**arrays)
    first, second, third, fourth = (arguments for arguments, _, _ in launches)
    assert first is third and second is fourth and first[0] != second[0]


def test_more_layouts_than_are_remembered_still_run():
    asked = asked_of("float32", batch=1)
    plan, launches = prepared(asked)
    for i in range(200):
        plan.run(**asked | {"q": replace(asked["q"], strides=(5000 + i, 384, 64, 1))})
    assert len(launches) == 200 and len(plan._ready) <= 64


@pytest.mark.parametrize("name", ["k", "v"])
def test_an_out_that_comes_to_overlap_is_refused_after_good_calls(name):
    asked = asked_of(heads_kv=6, seqlen_k=5)
    plan, launches = prepared(asked)
    plan.run(**asked)
    plan.run(**asked)
    bad = replace(asked["out"], pointer=asked[name].pointer + 64)
    with pytest.raises(ProblemError, match=f"out overlaps {name}"):
        plan.run(**asked | {"out": bad})
    assert len(launches) == 2


def test_in_place_and_interleaved_outputs_run_again_and_again():
    packed = view((2, 5, 6, 64), "bfloat16", "cuda:0", strides=(5 * 4 * 384, 4 * 384, 64, 1))
    asked = {n: replace(packed, pointer=packed.pointer + 2 * 384 * i) for i, n in enumerate(("q", "k", "v", "out"))}
    plan, launches = prepared(asked)
    for shift in (0, 1 << 20, 1 << 21):
        plan.run(**{name: replace(array, pointer=array.pointer + shift) for name, array in asked.items()})
    plan.run(**asked | {"out": asked["q"]})
    plan.run(**asked | {"out": asked["q"]})
    assert len(launches) == 5
    with pytest.raises(ProblemError, match="overlaps"):
        plan.run(**asked | {"out": replace(asked["out"], pointer=asked["q"].pointer + 16)})


def test_an_out_over_a_masks_array_is_refused_after_good_calls():
    asked = asked_of()
    plan, launches = prepared(asked, mask=KeyPadding(LENGTHS))
    plan.run(**asked)
    with pytest.raises(ProblemError, match="out overlaps padding's lengths"):
        plan.run(**asked | {"out": replace(asked["out"], pointer=LENGTHS.pointer)})
    assert len(launches) == 1


@pytest.mark.parametrize("change", [
    {"pointer": ADDRESS}, {"shape": (3,)}, {"strides": (2,)}, {"dtype": "int64"}, {"pointer": 0},
])  # fmt: skip
def test_a_kept_array_that_was_freed_or_moved_is_refused(change):
    asked = asked_of()
    plan, launches = prepared(asked, mask=KeyPadding(LENGTHS))
    kept = Moving(LENGTHS)
    library = Library("moving", lambda array: array.view, lambda array: STREAM, VIEWS.empty, lambda kind: True)
    libraries = {ArrayView: VIEWS, Moving: library}
    access = Access(plan.access.view, libraries)
    plan = replace(plan, access=access, kept=(("padding's lengths", kept, libraries[Moving].glance(kept)),))
    plan.run(**asked)
    plan.run(**asked)
    kept.view = replace(LENGTHS, **change)
    with pytest.raises(ProblemError, match="padding's lengths .* freed, moved or resized"):
        plan.run(**asked)
    kept.view = LENGTHS
    plan.run(**asked)
    assert len(launches) == 3


class Moving:
    """An array whose view changes."""

    def __init__(self, view):
        self.view = view
