"""Users' score functions differentiated on the CPU: against differences in float64, and what has no derivative."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numba import float32, njit

import numba_fa
from numba_fa.errors import CompileError
from numba_fa.kernels.cpu.backward import backward_of
from numba_fa.kernels.cpu.dual import DualType, derivative_of, seed, value_of
from numba_fa.kernels.cpu.hooks import OPTIONS, make_hooks
from numba_fa.kernels.cpu.stand_ins import with_stand_ins
from numba_fa.testing.programs import Asked
from tests.kernels.cpu_backward_cases import backward, check, key_of, make_case
from tests.scalar.test_dual import FUNCTION_RANGES, LEAVES, OPERATIONS, PLACES, REFUSED, UNARY, difference, grow


def duals(function, places, aux=()):
    """(value, its derivative by the score, the value without a derivative) at each place."""
    compiled = njit(**OPTIONS)(with_stand_ins(function))

    @njit(**OPTIONS)
    def run(score, b, h, q, kv, aux):
        found = compiled(seed(score), b, h, q, kv, *aux)
        return value_of(found), derivative_of(found), np.float32(compiled(score, b, h, q, kv, *aux))

    return [run(np.float32(place[0]), *place[1:], aux) for place in places]


def agrees(function, aux=(), places=PLACES, rtol=2e-5, atol=2e-6):
    for place, (value, slope, plain) in zip(places, duals(function, places, aux), strict=True):
        assert abs(value - plain) <= 3e-7 * abs(plain), place
        np.testing.assert_allclose(slope, difference(function, place, aux), rtol, atol, err_msg=str(place))


@pytest.mark.parametrize("row", UNARY, ids=lambda row: row.keys[0].__name__)
def test_functions(row):
    low, high = FUNCTION_RANGES.get(row.keys[0].__name__, (-9, 9))
    first, last = row.keys[0], row.keys[-1]
    places = [place for place in PLACES if low <= place[0] <= high]
    agrees(lambda score, b, h, q, kv: first(score * 0.9) * kv + last(score * np.float32(0.9)), (), places)


@pytest.mark.parametrize("number", range(len(OPERATIONS)))
def test_operations(number):
    agrees(OPERATIONS[number])


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_derivative_is_refused_by_name(name):
    aux = (np.zeros(3, np.float32),) if name.startswith("an") else ()
    with pytest.raises(CompileError, match="uses ") as error:
        duals(REFUSED[name], PLACES, aux)
    assert f"uses {name} on the score" in str(error.value)


@pytest.mark.parametrize("function", [math.gamma, math.radians, np.logaddexp, np.heaviside], ids=str)
def test_functions_without_a_rule_are_refused_too(function):
    arguments = (1.5,) if isinstance(function, np.ufunc) else ()
    with pytest.raises(CompileError, match=rf"uses {function.__name__}\(\) on the score"):
        duals(lambda score, b, h, q, kv: function(score, *arguments), PLACES)


def test_a_type_is_what_the_function_has_without_a_derivative():
    @njit
    def narrow(score):
        return seed(score) * np.float32(2)

    @njit
    def wide(score):
        return seed(score) * 2.0

    for function, kind in ((narrow, "float32"), (wide, "float64")):
        function.compile((float32,))
        (result,) = [each.signature.return_type for each in function.overloads.values()]
        assert isinstance(result, DualType) and str(result.number) == kind


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.recursive(LEAVES, grow, max_leaves=6))
def test_random_functions(text):
    scope = {"math": math, "np": np}
    exec(f"def function(score, b, h, q, kv, slope):\n    return {text}", scope)
    function, aux = scope["function"], (0.7,)
    places = [(point + 0.0317, 0, 1, 3 + i, 4) for i, point in enumerate((-2.0, -0.25, 0.5, 3.0))]
    for place, (_, slope, _) in zip(places, duals(function, places, aux), strict=True):
        here = difference(function, place, aux)
        around = [difference(function, (place[0] + way, *place[1:]), aux) for way in (-1e-4, 1e-4)]
        if max(abs(each - here) for each in around) <= 0.05 * (1 + abs(here)):  # no kink, jump or pole nearby
            assert abs(slope - here) <= 2e-3 * (1 + abs(here)), (text, place)


def _gate(x, sharpness):
    return x / (1 + math.exp(-sharpness * x))


def _involved(score, b, h, q_idx, kv_idx, table, sharpness):
    """A user's function with a helper, a branch, a loop, an array of 16-bit floats and a number."""
    total = score
    for n in range(1, 3):
        total += table[h, n] * math.sin(n * score)
    if kv_idx > q_idx:
        return _gate(total, sharpness) - 0.01 * (kv_idx - q_idx)
    return max(total, -1.5) + np.where(score > 0.5, score * score, 0.25) * 0.1


def _involved_bias(sizes):
    table = np.random.default_rng(3).standard_normal((sizes.heads, 4)).astype(ml_dtypes.bfloat16)
    return numba_fa.ScoreMod(_involved, table, 0.8)


def test_backward_of_an_involved_function():
    case = make_case(lambda sizes: Asked("causal", (numba_fa.ALiBi(np.full(sizes.heads, 0.1, np.float32)),
                                                    _involved_bias(sizes))), (2, 45, 59))  # fmt: skip
    check(case, backward(case))


def _constant(score, b, h, q_idx, kv_idx):
    return 0.25 * (q_idx - kv_idx)


def test_backward_of_a_function_that_forgets_the_score():
    case = make_case(lambda sizes: Asked("causal", (numba_fa.ScoreMod(_constant),)), (1, 45, 59))
    results = backward(case)
    check(case, results)
    assert not results.dq.any() and not results.dk.any() and results.dv.any()


def _in_steps(score, b, h, q_idx, kv_idx):
    return math.floor(score * 4) / 4


def test_a_backward_is_refused_where_the_forward_is_not():
    case = make_case(lambda sizes: Asked("full", (numba_fa.ScoreMod(_in_steps),)), (1, 5, 5))
    make_hooks(*case.asked.names, ())
    with pytest.raises(CompileError, match=r"uses floor\(\) on the score"):
        backward_of(key_of(case.asked, case.q.dtype, 24))


def _with_attribute(score, b, h, q_idx, kv_idx):
    return score.real


def test_what_numba_cannot_differentiate_is_told_in_the_users_words():
    case = make_case(lambda sizes: Asked("full", (numba_fa.ScoreMod(_with_attribute),)), (1, 5, 5))
    make_hooks(*case.asked.names, ())
    with pytest.raises(CompileError, match="_with_attribute"):
        backward_of(key_of(case.asked, case.q.dtype, 24))
