"""What a Problem says of a faultless request."""

import dataclasses
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numba_fa.problem.dtypes import DTYPES, LATER, dtype_named
from numba_fa.problem.masks import Causal, Full, mask_named
from numba_fa.problem.problem import Problem
from tests.problem.views import problem, request, view


@given(
    batch=st.integers(1, 9),
    seqlen_q=st.integers(1, 999),
    seqlen_k=st.integers(0, 999),
    heads_kv=st.integers(1, 9),
    group=st.integers(1, 9),
    head_dim=st.integers(1, 40).map(lambda n: 8 * n),
    dtype=st.sampled_from(sorted(DTYPES)),
)
def test_every_good_request_is_described(batch, seqlen_q, seqlen_k, heads_kv, group, head_dim, dtype):
    found = problem(
        batch=batch, seqlen_q=seqlen_q, seqlen_k=seqlen_k, heads=group * heads_kv, heads_kv=heads_kv,
        head_dim=head_dim, dtype=dtype,
    )  # fmt: skip
    assert (found.batch, found.seqlen_q, found.seqlen_k) == (batch, seqlen_q, seqlen_k)
    assert (found.heads, found.heads_kv, found.head_dim) == (group * heads_kv, heads_kv, head_dim)
    assert found.dtype.array_name == dtype
    assert math.isclose(found.scale, 1 / math.sqrt(head_dim), rel_tol=1e-15)


def test_operations_are_those_of_both_products():
    """Two for each multiply-add of q k^T, and of the weights with v: counted one by one."""
    found = problem(batch=2, seqlen_q=3, seqlen_k=5, heads=4, heads_kv=2, head_dim=8)
    scores = [(b, h, i, j) for b in range(2) for h in range(4) for i in range(3) for j in range(5)]
    assert found.operations == sum(2 * 8 + 2 * 8 for _ in scores)
    assert replace(found, head_dim_v=16).operations == sum(2 * 8 + 2 * 16 for _ in scores)


def test_summary_names_what_a_person_asks_for():
    text = problem(mask="causal", dtype="bfloat16", device="cuda:3").summary
    for word in ("bfloat16", "causal", "cuda:3", "batch 2", "5 x 7", "6 over 3", "head_dim 64"):
        assert word in text


@pytest.mark.parametrize("scale", [1e-30, 0.125, 1, 1e30])
def test_a_given_scale_is_kept(scale):
    assert problem(scale=scale).scale == scale


def test_addresses_are_not_part_of_a_problem():
    asked = request()
    moved = {name: replace(array, pointer=array.pointer + 4096) for name, array in asked.items()}
    first, second = Problem.from_views(**asked), Problem.from_views(**moved)
    assert first == second
    assert hash(first) == hash(second)


def test_a_problem_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem().scale = 2.0


@pytest.mark.parametrize("name", ["q", "k", "v", "out"])
@pytest.mark.parametrize("alignment", [4, 8])
def test_the_least_aligned_array_decides(name, alignment):
    asked = request()
    asked[name] = replace(asked[name], pointer=asked[name].pointer + alignment)
    assert Problem.from_views(**asked).alignment == alignment


def test_keys_may_be_none_at_all():
    assert problem(seqlen_k=0).seqlen_k == 0


def test_an_axis_of_length_1_may_have_any_stride():
    asked = request(batch=1)
    asked["out"] = replace(asked["out"], strides=(0, 384, 64, 1))
    Problem.from_views(**asked)


def test_broadcast_keys_are_no_fault():
    asked = request()
    asked["k"] = replace(asked["k"], strides=(0, 192, 0, 1))
    Problem.from_views(**asked)


def test_a_right_lse_is_no_fault():
    Problem.from_views(**request(), lse=view((2, 6, 5)))


@pytest.mark.parametrize(("given_mask", "meant"), [(None, Full()), ("full", Full()), ("causal", Causal()),
                                                   (Causal(), Causal()), (Full(), Full())])  # fmt: skip
def test_masks_by_name_object_and_default(given_mask, meant):
    assert problem(mask=given_mask).mask == meant


@pytest.mark.parametrize("wrong", ["", "Causal", "CAUSAL", 0, True, Causal, ["causal"]])
def test_no_mask_is_meant(wrong):
    assert mask_named(wrong) is None


def test_dtypes_by_array_name():
    assert {name: (dtype.name, dtype.itemsize) for name, dtype in DTYPES.items()} == {
        "float32": ("fp32", 4), "float16": ("fp16", 2), "bfloat16": ("bf16", 2),
    }  # fmt: skip
    assert all(dtype_named(name) is LATER[name] for name in LATER)
    assert dtype_named("int32") is None
