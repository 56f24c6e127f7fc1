"""Real: float32 whatever it is mixed with, close to float64 arithmetic, everything that math offers."""

import math
import operator

import ml_dtypes
import numpy as np
import pytest
from numba.cuda import types

from numba_fa.scalar.functions import FUNCTIONS
from numba_fa.scalar.operators import OPERATORS
from numba_fa.scalar.types import IndexType, RealType
from tests.scalar import host

VALUES = [-30.5, -3.0, -1.0, -0.7, -1e-3, -1e-6, 0.0, 1e-6, 2e-3, 0.29, 0.31, 0.5, 1.0, 1.5, 2.0, 7.25, 30.5]
PLACES = [(score, 1, 2, 11, 5) for score in VALUES]


def agrees(function, aux=(), places=PLACES, rtol=2e-6, atol=2e-6, fast=False):
    """The compiled function is close to Python's in float64."""
    results, kind = host.scores(function, places, aux, fast)
    assert kind == RealType(fast) or kind == types.boolean, kind
    for place, result in zip(places, results, strict=True):
        truth = function(np.float64(np.float32(place[0])), *place[1:], *aux)
        np.testing.assert_allclose(result, truth, rtol, atol, err_msg=str(place))


ARITHMETIC = [
    lambda score, b, h, q, kv: score + kv,
    lambda score, b, h, q, kv: kv - score,
    lambda score, b, h, q, kv: score * 0.1,
    lambda score, b, h, q, kv: 0.1 * kv * score,
    lambda score, b, h, q, kv: score / 3,
    lambda score, b, h, q, kv: score / q,
    lambda score, b, h, q, kv: q / kv + score,
    lambda score, b, h, q, kv: 7 / (score + 40),
    lambda score, b, h, q, kv: -score + abs(score) - np.float32(0.25),
    lambda score, b, h, q, kv: max(score, 0.0) + min(score, kv, 1.5),
    lambda score, b, h, q, kv: score**2 + score**3 - score**1,
    lambda score, b, h, q, kv: abs(score) ** 0.5 + (score + 31) ** -2,
    lambda score, b, h, q, kv: (abs(score) + 0.1) ** 1.7,
    lambda score, b, h, q, kv: 2 ** (score / 8),
    lambda score, b, h, q, kv: 1.5 ** (-8.0 * (h + 1) / q) * score,
    lambda score, b, h, q, kv: (score + 0.03) // 0.7,
    lambda score, b, h, q, kv: 10 * (score + 0.03) // 2 + (7 * score + 0.01) % 3,  # whole numbers
    lambda score, b, h, q, kv: (score + 0.03) % 0.7,
    lambda score, b, h, q, kv: (score + 0.03) % -2.5 + (score + 0.03) // -2.5,
    lambda score, b, h, q, kv: float(kv) * float(score) * np.float32(h) + np.int32(q) + int(score),
    lambda score, b, h, q, kv: math.floor(score) + math.ceil(score) * 2 + math.trunc(score) + round(score) + 0.5,
    lambda score, b, h, q, kv: score if kv <= q else -math.inf,
    lambda score, b, h, q, kv: float("-inf") if score > 0 else score,
    lambda score, b, h, q, kv: 0 if score > 0 else score,
    lambda score, b, h, q, kv: kv if score > 0 else score,
    lambda score, b, h, q, kv: score * (kv < q) + (score > 1.0),
    lambda score, b, h, q, kv: np.where(score > 0, score, -1) + np.clip(score, -2.0, q),
    lambda score, b, h, q, kv: np.maximum(score, 0) + np.minimum(score, h) + np.sign(score) + np.square(score),
    lambda score, b, h, q, kv: np.floor(score) + np.ceil(score) + np.trunc(score) + np.rint(score),
    lambda score, b, h, q, kv: np.reciprocal(score + 40) + np.where(kv < q, 0.25, 1) * np.where(score > q, 2, 3),
]


@pytest.mark.parametrize("number", range(len(ARITHMETIC)))
def test_arithmetic(number):
    agrees(ARITHMETIC[number], rtol=1e-5)


@pytest.mark.parametrize("op", [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne])
def test_comparisons(op):
    agrees(lambda score, b, h, q, kv: op(score, h))
    agrees(lambda score, b, h, q, kv: op(1.5, score))
    agrees(lambda score, b, h, q, kv: op(score, float("nan")))


def test_branches_and_names():
    def function(score, b, h, q, kv):
        total = 0
        if score > 0 and kv < q:
            total = score
        elif not score:
            total = 1
        scale = 2
        scale *= 0.5
        total += scale * kv
        for i in range(3):
            total -= i * score
        return total

    agrees(function)


# Where a function is real, and how close: exp and what is made of it lose bits to their argument.
UNARY = {
    "exp": (-30, 30, 1e-5), "exp2": (-30, 30, 1e-5), "expm1": (-30, 30, 1e-5), "log": (1e-6, 31, 1e-5),
    "log2": (1e-6, 31, 1e-5), "log10": (1e-6, 31, 1e-5), "log1p": (-0.9, 31, 1e-6), "sqrt": (0, 31, 1e-6),
    "cbrt": (-31, 31, 1e-6), "tanh": (-31, 31, 1e-6), "sinh": (-30, 30, 1e-5), "cosh": (-30, 30, 1e-5),
    "sin": (-31, 31, 1e-6), "cos": (-31, 31, 1e-6), "tan": (-1.5, 1.5, 1e-5), "asin": (-1, 1, 1e-6),
    "acos": (-1, 1, 1e-6), "atan": (-31, 31, 1e-6), "asinh": (-31, 31, 1e-5), "acosh": (1, 31, 1e-5),
    "atanh": (-0.9, 0.9, 1e-5), "erf": (-31, 31, 1e-6), "erfc": (-5, 5, 1e-5), "fabs": (-31, 31, 0),
    "isnan": (-31, 31, 0), "isinf": (-31, 31, 0), "isfinite": (-31, 31, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_math_and_numpy(name):
    low, high, rtol = UNARY[name]
    places = [place for place in PLACES if low <= place[0] <= high]
    in_math, in_numpy = getattr(math, name), getattr(np, name, None)
    agrees(lambda score, b, h, q, kv: in_math(score), (), places, rtol)
    if in_numpy:
        agrees(lambda score, b, h, q, kv: in_numpy(score), (), places, rtol)
    if low <= 5 <= high:
        agrees(lambda score, b, h, q, kv: in_math(kv), (), places[:1], rtol)


def test_functions_of_two():
    agrees(lambda score, b, h, q, kv: math.atan2(score, kv) + math.hypot(score, kv) + math.copysign(kv, score))
    agrees(lambda score, b, h, q, kv: math.pow(abs(score) + 0.5, 1.25) + math.fmod(score, 0.75), rtol=1e-5)
    agrees(lambda score, b, h, q, kv: math.pow(score, 3), rtol=1e-5)
    agrees(lambda score, b, h, q, kv: np.power(abs(score) + 0.5, h) + np.hypot(score, 1e-3), rtol=1e-5)


def test_every_row_is_tried():
    """A row that no test above names is none that we offer."""
    names = {key.__name__ for row in FUNCTIONS for key in row.keys[:1]}
    pairs = {"atan2", "hypot", "pow", "copysign", "fmod", "clip"}
    assert names == {*UNARY, *pairs, "floor", "ceil", "trunc", "rint", "sign", "square", "reciprocal"}
    keys = [key for row in (*OPERATORS, *FUNCTIONS) for key in row.keys]
    assert len(keys) == len(set(keys))


def test_tanh_is_accurate_everywhere():
    scores = np.concatenate([np.linspace(-12, 12, 501), np.logspace(-30, 38, 200), [0, np.inf, -np.inf]]).astype(np.float32)
    results, _ = host.scores(lambda score, b, h, q, kv: math.tanh(score), [(score, 0, 0, 0, 0) for score in scores.tolist()])
    np.testing.assert_allclose(results, np.tanh(scores.astype(np.float64)), rtol=1e-6, atol=0)


def test_softcap_of_both_grades():
    for fast in (False, True):
        agrees(lambda score, b, h, q, kv, cap: cap * math.tanh(score / cap), (30.0,), fast=fast)


def test_powers_of_negative_numbers():
    places = [(score, 0, 0, 0, kv) for score in (-2.5, -1.0, 0.0, 2.0) for kv in range(1, 5)]
    agrees(lambda score, b, h, q, kv: score**kv, places=places)
    (half,), _ = host.scores(lambda score, b, h, q, kv: score ** (kv * 0.3), [(-2.0, 0, 0, 0, 1)])
    assert np.isnan(half)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
def test_every_float_array_mixes(dtype):
    table = np.array([[0.5, -1.25, 3.0], [100.0, 0.0, 2.0]], dtype)
    places = [(0.5, 0, 0, q, kv) for q in range(2) for kv in range(3)]
    agrees(lambda score, b, h, q, kv, t: float(t[q, kv]) * 0.5 + score, (table,), places)
    agrees(lambda score, b, h, q, kv, t: score if t[q, kv] > 1 else kv, (table,), places)
    agrees(lambda score, b, h, q, kv, t: t[q, kv] * score + kv * t[q, kv], (table,), places)
    agrees(lambda score, b, h, q, kv, t: t[q][kv] + score, (table[:, ::-1],), places)
    (result,), kind = host.scores(lambda score, b, h, q, kv, t: t[q, kv] + t[q, 0], places[:1], (table,))
    assert (result, kind) == (1.0, RealType())
    assert t_of(table) == RealType()


def t_of(table):
    """The type of a loaded number times a Python float, which Numba alone makes a float64."""
    return host.scores(lambda score, b, h, q, kv, t: t[q, kv] * 0.5, [(0.0, 0, 0, 0, 0)], (table,))[1]


def test_integers_of_reals_are_indices():
    (result,), kind = host.scores(lambda score, b, h, q, kv: int(score) + math.floor(score) + kv, [(2.75, 0, 0, 0, 5)])
    assert (result, kind) == ((9, 9.0), IndexType())
    (result,), kind = host.scores(lambda score, b, h, q, kv: q / kv, [(0.0, 0, 0, 1, 4)])
    assert (result, kind) == (0.25, RealType())
