"""Dual: derivatives of every operation and of random functions against central differences in float64."""

import math
import operator

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from numba_fa.emulator.dual import Dual, differentiated, slope_of
from numba_fa.errors import CompileError
from numba_fa.scalar.functions import FUNCTIONS
from numba_fa.scalar.operators import OPERATORS
from tests.scalar import host

SCORES = [-7.5, -1.25, -0.4, -0.01, 0.02, 0.35, 0.8, 1.6, 6.0]
PLACES = [(score, 0, 1, 9, 4) for score in SCORES]


def difference(function, place, aux=(), step=1e-6):
    """The derivative by the score, in float64."""
    score, *rest = place
    high, low = (float(function(np.float64(np.float32(score)) + way, *rest, *aux)) for way in (step, -step))
    return 0.0 if high == low else (high - low) / (2 * step)


def agrees(function, aux=(), places=PLACES, rtol=2e-5, atol=2e-6):
    for place, (value, slope) in zip(places, host.duals(function, places, aux), strict=True):
        truth = function(np.float64(np.float32(place[0])), *place[1:], *aux)
        np.testing.assert_allclose(value, truth, 1e-5, 1e-5, err_msg=str(place))
        np.testing.assert_allclose(slope, difference(function, place, aux), rtol, atol, err_msg=str(place))


FUNCTION_RANGES = {
    "log": (0, 9), "log2": (0, 9), "log10": (0, 9), "log1p": (-0.9, 9), "sqrt": (0, 9), "asin": (-0.9, 0.9),
    "tan": (-1.4, 1.4), "acos": (-0.9, 0.9), "acosh": (1.1, 9), "atanh": (-0.9, 0.9), "erfc": (-4, 4),
}  # fmt: skip
UNARY = [row for row in FUNCTIONS if row.partials is not None and row.arities == (1,)]


@pytest.mark.parametrize("row", UNARY, ids=lambda row: row.keys[0].__name__)
def test_functions(row):
    for function in row.keys:
        low, high = FUNCTION_RANGES.get(row.keys[0].__name__, (-9, 9))
        places = [place for place in PLACES if low <= place[0] <= high]
        agrees(lambda score, b, h, q, kv: function(score * 0.9) * kv, (), places)  # noqa: B023


OPERATIONS = [
    lambda score, b, h, q, kv: score + kv,
    lambda score, b, h, q, kv: kv - score * score,
    lambda score, b, h, q, kv: 3 * score / q - q / (score + 20),
    lambda score, b, h, q, kv: score**3 + (score + 20) ** -2 + score**0 + (score + 9) ** 0.5,
    lambda score, b, h, q, kv: (score + 9) ** 1.3 + 1.2**score + (score + 9) ** (score / 8),
    lambda score, b, h, q, kv: math.pow(score, 2) + np.power(score + 9, 0.7),
    lambda score, b, h, q, kv: -score + +score + abs(score) * 2 + math.fabs(score),
    lambda score, b, h, q, kv: max(score, 0.1, score * 2) + min(score * score, 1, q),
    lambda score, b, h, q, kv: np.maximum(score, 0) + np.minimum(score, 0.5) + np.clip(score, -1, 1.5),
    lambda score, b, h, q, kv: math.atan2(score, kv) + math.atan2(2.0, score + 20) + math.hypot(score, kv),
    lambda score, b, h, q, kv: math.copysign(score, -2.0) + math.copysign(score, kv) + math.copysign(3.0, score),
    lambda score, b, h, q, kv: np.where(score > 0.5, score * 3, kv) + (score if kv < q else -math.inf),
    lambda score, b, h, q, kv: float(score) * score + (score > 1) * score + bool(score),
    lambda score, b, h, q, kv: np.square(score) + np.reciprocal(score + 20) + (0.0 if score > 1 else score),
    lambda score, b, h, q, kv: score * (kv // 2 + q % 4) + score * math.floor(kv / 3),
]


@pytest.mark.parametrize("number", range(len(OPERATIONS)))
def test_operations(number):
    agrees(OPERATIONS[number])


def test_branches_and_loops():
    def function(score, b, h, q, kv):
        total = 0
        scale = 1
        for i in range(q - kv):
            scale *= 0.5
            total += scale * score**i
        if score > 0.5 and kv > 3:
            total = math.exp(-total) + score
        elif not score > -1:
            return kv * 0.25
        return total

    agrees(function)


def test_arrays_and_both_grades():
    table = np.array([[0.5, -1.25, 3.0, 1.0, 2.0]], ml_dtypes.bfloat16)
    agrees(lambda score, b, h, q, kv, t, cap: cap * math.tanh(score / cap) * float(t[b, kv]), (table, 5.0))
    for place in PLACES:
        ((_, slope),) = host.duals(lambda score, b, h, q, kv: 5 * math.tanh(score / 5), [place], fast=True)
        assert abs(slope - (1 - math.tanh(place[0] / 5) ** 2)) < 1e-6  # on the GPU 2**-10


def test_conversions_to_floats_keep_the_derivative():
    assert host.duals(lambda score, b, h, q, kv: np.float32(score) * float(score), [(2.0, 0, 0, 2, 0)]) == [(4.0, 4.0)]


def test_extremes_pass_the_derivative_once():
    places = [(2.0, 0, 0, 2, 0)]
    assert host.duals(lambda score, b, h, q, kv: max(score, score, 2), places) == [(2.0, 1.0)]
    assert host.duals(lambda score, b, h, q, kv: min(q, score), places) == [(2.0, 0.0)]


REFUSED = {
    "//": lambda score, b, h, q, kv: score // 2,
    "%": lambda score, b, h, q, kv: score % kv,
    "floor()": lambda score, b, h, q, kv: score + math.floor(score),
    "ceil()": lambda score, b, h, q, kv: math.ceil(score * 2),
    "rint()": lambda score, b, h, q, kv: np.rint(score),
    "sign()": lambda score, b, h, q, kv: np.sign(score),
    "round()": lambda score, b, h, q, kv: round(score),
    "int()": lambda score, b, h, q, kv: int(score) * score,
    "int32()": lambda score, b, h, q, kv: np.int32(score) * score,
    "an array's index": lambda score, b, h, q, kv, t: t[score],
    "fmod()": lambda score, b, h, q, kv: math.fmod(score, 2),
    "&": lambda score, b, h, q, kv: score & 1,
    "<<": lambda score, b, h, q, kv: score << 1,
    "~": lambda score, b, h, q, kv: ~score,
    "range()": lambda score, b, h, q, kv: len(range(score)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_derivative_is_refused_by_name(name):
    aux = (np.zeros(3, np.float32),) if name.startswith("an") else ()
    with pytest.raises(CompileError, match="uses ") as error:
        host.duals(REFUSED[name], PLACES, aux)
    assert f"uses {name} on the score" in str(error.value)


def test_every_row_has_a_derivative_or_is_refused():
    rows = [row for row in (*OPERATORS, *FUNCTIONS) if row.partials is None and row.gives != "truth"]
    refused = {row.keys[0] for row in rows}
    bits = {operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift, operator.invert}
    steps = {math.floor, math.ceil, math.trunc, np.floor, np.ceil, np.trunc, np.rint, np.sign, round, int}
    assert refused == bits | steps | {operator.floordiv, operator.mod, math.fmod}


LEAVES = st.sampled_from(["score", "score", "score", "q", "kv", "h", "0.5", "-1.25", "2", "slope"])


def grow(inner):
    """Larger expressions of smaller ones, kept where float32 is near the truth."""
    one = [
        "math.tanh({0})", "math.sin({0})", "math.cos({0})", "math.exp(-abs({0}))", "math.sqrt(abs({0}) + 0.5)", "abs({0})",
        "math.log(abs({0}) + 0.75)", "math.log1p(abs({0}))", "math.atan({0})", "math.erf({0})", "-({0})", "({0}) ** 2",
        "2 ** math.tanh({0})", "np.square(math.sin({0}))", "(abs({0}) + 1) ** -0.5", "max({0}, 0)", "min({0}, 1.5)",
    ]  # fmt: skip
    two = [
        "({0}) + ({1})", "({0}) - ({1})", "math.sin({0}) * ({1})", "({0}) / (abs({1}) + 1)", "max({0}, {1})",
        "min({0}, {1})",
        "(({0}) if ({1}) > 0.3 else 0.25)", "(({0}) if kv < q else ({1}))", "math.atan2({0}, abs({1}) + 0.5)",
        "math.hypot({0}, abs({1}) + 0.5)", "np.where(({0}) < ({1}), {0}, 1)", "(abs({0}) + 1) ** math.sin({1})",
    ]  # fmt: skip
    return st.one_of(
        st.builds(lambda form, a: form.format(a), st.sampled_from(one), inner),
        st.builds(lambda form, a, b: form.format(a, b), st.sampled_from(two), inner, inner),
    )


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.recursive(LEAVES, grow, max_leaves=6), st.lists(st.floats(-4, 4, width=16), min_size=3, max_size=5))
def test_random_functions(text, points):
    scope = {"math": math, "np": np}
    exec(f"def function(score, b, h, q, kv, slope):\n    return {text}", scope)
    function, aux = scope["function"], (0.7,)
    places = [(point + 0.0317, 0, 1, 3 + i, 4) for i, point in enumerate(points)]
    for place, (_, slope) in zip(places, host.duals(function, places, aux), strict=True):
        here = difference(function, place, aux)
        around = [difference(function, (place[0] + way, *place[1:]), aux) for way in (-1e-4, 1e-4)]
        if max(abs(each - here) for each in around) > 0.05 * (1 + abs(here)):
            continue  # a kink, a jump or a pole nearby: rounding decides the side
        assert abs(slope - here) <= 2e-3 * (1 + abs(here)), (text, place)
        emulated = slope_of(differentiated(function)(Dual(place[0], 1), *place[1:], *aux))
        assert abs(emulated - here) <= 1e-4 * (1 + abs(here)), (text, place)
