"""Biases as declarations: names, launch arguments, order, and every fault."""

from dataclasses import replace

import numpy as np
import pytest

from numba_fa.errors import ProblemError
from numba_fa.problem.biases import KINDS, ALiBi, DenseBias, ScoreMod, Softcap, T5Bias, biases_of
from numba_fa.problem.masks import Causal, KeyPadding
from numba_fa.problem.problem import CallSizes, Problem
from numba_fa.problem.tokens import tokens_of
from tests.problem.views import ADDRESS, problem, request, view

SIZES = CallSizes(2, 5, 7, 6, "cpu")
FULL = (2, 6, 5, 7)
OFF = 2


def soft(score, b, h, q_idx, kv_idx, table, factor):
    return score * factor + table[h]


MOD = ScoreMod(soft, view((6,)), 0.5)
DECLARED = [
    (ALiBi(view((6,))), "alibi", (OFF, view((2, 6), strides=(0, 1)))),
    (ALiBi(view((2, 6))), "alibi", (OFF, view((2, 6)))),
    (DenseBias(view(FULL, "bfloat16")), "dense_bf16", (view(FULL, "bfloat16"),)),
    (DenseBias(view((5, 7), "float16")), "dense_fp16", (view(FULL, "float16", strides=(0, 0, 7, 1)),)),
    (DenseBias(view((2, 1, 5, 1))), "dense_fp32", (view(FULL, strides=(5, 0, 1, 0)),)),
    (DenseBias(view((), strides=())), "dense_fp32", (view(FULL, strides=(0, 0, 0, 0)),)),
    (T5Bias(view((32, 6))), "t5_32_128_b", (OFF, view((32, 6)))),
    (T5Bias(view((16, 6)), 64, False), "t5_16_64_u", (OFF, view((16, 6)))),
    (Softcap(30), "softcap", (30.0,)),
    (Softcap(np.float32(0.5)), "softcap", (0.5,)),
    (MOD, MOD.name, (view((6,)), 0.5)),
]


@pytest.mark.parametrize(("bias", "name", "arguments"), DECLARED, ids=lambda value: value if isinstance(value, str) else "")
def test_names_arguments_and_tokens(bias, name, arguments):
    assert bias.name == name
    assert bias.faults(SIZES) == []
    assert bias.arguments(SIZES) == arguments
    assert bias.tokens == tokens_of("full", name)
    moved = bias.viewed(lambda array: replace(array, pointer=array.pointer + ADDRESS))
    assert [a.pointer - b.pointer for (_, a), (_, b) in zip(moved.arrays, bias.arrays)] == [ADDRESS] * len(bias.arrays)
    assert moved.without_arrays == bias.without_arrays


def test_every_kind_is_listed():
    assert set(KINDS) == {"alibi", "dense", "t5", "softcap", "score_mod"}
    assert all(name == kind.kind for name, kind in KINDS.items())


def test_what_is_meant_by_none_one_and_several():
    cap, slopes = Softcap(3.0), ALiBi(view((6,)))
    assert biases_of(None) == () == biases_of([])
    assert biases_of(cap) == (cap,)
    assert biases_of([cap, slopes]) == biases_of((cap, slopes)) == (cap, slopes)
    assert all(biases_of(wrong) is None for wrong in ("alibi", 3, [cap, 3], {cap}, Causal()))


def test_names_of_an_unviewed_array_are_by_its_own_dtype():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert DenseBias(np.zeros((5, 7), ml_dtypes.bfloat16)).name == "dense_bf16"
    torch = pytest.importorskip("torch")
    assert DenseBias(torch.zeros(5, 7, dtype=torch.bfloat16)).name == "dense_bf16"


def test_order_and_sink_in_a_problem():
    slopes, sink = ALiBi(view((6,))), view((6,), pointer=7 * ADDRESS)
    found = problem(bias=[Softcap(30.0), slopes], sink_logits=sink, mask=KeyPadding(view((2,), "int32")))
    assert found.bias_name == "softcap+alibi+sink"
    assert found.program_tokens == tokens_of("padding", "softcap+alibi+sink")
    assert found.program_arguments == (view((2,), "int32"), 30.0, OFF, view((2, 6), strides=(0, 1)), sink)
    assert problem(bias=[slopes, Softcap(30.0)]).bias_name == "alibi+softcap"
    assert problem().bias_name == "none" and problem().program_arguments == ()
    assert all(word in found.summary for word in ("padding", "softcap", "alibi", "sink"))


def test_problems_differ_by_their_declarations():
    plain = problem()
    assert plain == problem(mask="full") and hash(plain) == hash(problem(mask="full"))
    others = [problem(bias=Softcap(cap)) for cap in (1.0, 2.0)]
    others += [problem(bias=ALiBi(view((6,), pointer=64 * i))) for i in (1, 2)] + [problem(sink_logits=view((6,)))]
    assert len({plain, *others}) == 6
    assert problem(bias=ALiBi(view((6,)))) == problem(bias=[ALiBi(view((6,)))])


FAULTS = {
    "slopes dtype": (ALiBi(view((6,), "float64")), ["slopes is float64", "float32"]),
    "slopes shape": (ALiBi(view((3,))), ["slopes has shape (3,)", "(6,)", "(2, 6)"]),
    "slopes device": (ALiBi(view((6,), device="cuda:0")), ["slopes is on cuda:0", "cpu"]),
    "dense dtype": (DenseBias(view((5, 7), "int32")), ["array is int32", "float32", "bfloat16"]),
    "dense shape": (DenseBias(view((5, 6))), ["(5, 6)", "(2, 6, 5, 7)"]),
    "dense axes": (DenseBias(view((1, 2, 6, 5, 7))), ["(1, 2, 6, 5, 7)", "4 axes"]),
    "dense device": (DenseBias(view((5, 7), device="cuda:1")), ["array is on cuda:1"]),
    "t5 dtype": (T5Bias(view((32, 6), "float16")), ["table is float16"]),
    "t5 heads": (T5Bias(view((32, 4))), ["(32, 4)", "(32, 6)", "num_buckets"]),
    "t5 axes": (T5Bias(view((32,))), ["(32,)"]),
    "t5 buckets": (T5Bias(view((2, 6))), ["2 buckets", "at least 4"]),
    "t5 distance": (T5Bias(view((32, 6)), 8), ["max_distance is 8", "above 8"]),
    "t5 distance float": (T5Bias(view((32, 6)), 128.5), ["max_distance is 128.5"]),
    "cap 0": (Softcap(0.0), ["cap is 0.0", "above 0"]),
    "cap negative": (Softcap(-1.0), ["cap is -1.0"]),
    "cap infinite": (Softcap(float("inf")), ["cap is inf"]),
    "cap nan": (Softcap(float("nan")), ["cap is nan"]),
    "cap text": (Softcap("30"), ["cap is '30'"]),
    "cap too large": (Softcap(1e39), ["cap is 1e+39"]),
    "mod aux": (ScoreMod(soft, view((6,), device="cuda:0"), 1), ["aux 0 is on cuda:0"]),
    "no bias": ("alibi", ["'alibi'", "bias object"]),
    "no biases": ([Softcap(3.0), None], ["None", "sequence"]),
}


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_fault_alone(name):
    bias, words = FAULTS[name]
    with pytest.raises(ProblemError) as caught:
        Problem.from_views(**request(), bias=bias)
    (fault,) = caught.value.faults
    assert all(word in fault for word in words), fault


@pytest.mark.parametrize(("sink", "word"), [
    (view((5,)), "(5,)"), (view((6,), "float16"), "float16"), (view((6,), device="cuda:0"), "cuda:0"),
])  # fmt: skip
def test_faults_of_sink_logits(sink, word):
    with pytest.raises(ProblemError) as caught:
        Problem.from_views(**request(), sink_logits=sink)
    (fault,) = caught.value.faults
    assert "sink_logits" in fault and word in fault


def test_faults_of_mask_and_every_bias_at_once():
    mask, bias = KeyPadding(view((3,), "int32")), [Softcap(-1.0), ALiBi(view((3,)))]
    with pytest.raises(ProblemError) as caught:
        Problem.from_views(**request(), mask=mask, bias=bias, sink_logits=view((1,)))
    assert len(caught.value.faults) == 4
