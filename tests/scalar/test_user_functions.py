"""Score and mask functions as people write them, with nothing done for the compiler: right, and free of float64."""

import math
from math import exp, tanh

import numpy as np
import pytest
from numba import cuda

from tests.scalar import host

WIDTH, HALF, THREE, SIGMA = 5, np.float32(0.5), np.int32(3), 2.5
TABLE = np.array([1.5, 2, 3, 4], np.float16)
PLACES = [(s, 0, h, q, kv) for s in (-2.5, 0.75) for h in (0, 2) for q in (0, 7, 100) for kv in (0, 6, 9)]


def padded_window(score, b, h, q, kv):
    return kv <= q and (q - kv) <= WIDTH


def union(score, b, h, q, kv):
    return (kv <= q) | (kv < 4) & ~(kv > 2 * q)


def chained(score, b, h, q, kv):
    return 0 <= q - kv < WIDTH


def numpy_numbers(score, b, h, q, kv):
    return score * HALF + THREE * q + THREE


def gaussian(score, b, h, q, kv):
    return score * exp(-((q - kv) ** 2) / (2 * SIGMA * SIGMA))


def in_place(score, b, h, q, kv):
    slope = 2.0 ** (-8.0 * (h + 1) / 16)
    score += slope * (kv - q)
    score *= 2
    return score


def logarithmic(score, b, h, q, kv):
    d = abs(q - kv)
    n = 0
    while d > 0:
        d >>= 1
        n += 1
        if n > 6:
            break
    return score - n * 0.1


def integer_table(score, b, h, q, kv):
    return score * (1, 2, 4)[h % 3]


def float_table(score, b, h, q, kv):
    return score * (0.1, 0.2, 0.4)[h % 3] + (max(q, kv) - min(q, kv)) / 2


def early_return(score, b, h, q, kv):
    if abs(score) < 1e-6:
        return 0
    return float(q) + int(kv / 2) + tanh(score)


def truth_as_number(score, b, h, q, kv):
    return score + (q // 3 == kv // 3) - (q != kv) * 0.5


def parity(score, b, h, q, kv):
    return bool(q % 2) != bool(kv % 2)


def mixed_branches(score, b, h, q, kv):
    x = 1
    if q > kv:
        x = q - kv
    elif q == kv:
        x = 0.5
    return score * x


def lookups(score, b, h, q, kv, t):
    return score + t[0] + t[-1] + t[q % len(t)] + t.shape[0]


def sums(score, b, h, q, kv, t):
    acc = 0.0
    for i in range(len(t)):
        acc += t[i] * i
    for i in range(h, 5):
        acc += t[i % t.shape[0]]
    return score + acc


def extremes(score, b, h, q, kv):
    return min(score, 3) if q > kv else max(-1, score, kv * 0.1)


def numpy_functions(score, b, h, q, kv):
    return np.exp(-np.abs(q - kv) / SIGMA) * score + np.tanh(score) + np.sqrt(q + 1.0)


def scattered(score, b, h, q, kv):
    return -math.inf if (q * 31 + kv * 17 + h) % 7 == 0 else score


def rotary(score, b, h, q, kv):
    return score * math.cos(q * 0.01) + math.sin(kv / 10000 ** (h / 8))


def integer_argument(score, b, h, q, kv, n):
    return (n - q) * score + n / 2 + n // 2 + n**2


MASKS = [padded_window, union, chained, parity]
SCORES = [
    numpy_numbers, gaussian, in_place, logarithmic, integer_table, float_table, early_return, truth_as_number,
    mixed_branches, lookups, sums, extremes, numpy_functions, scattered, rotary, integer_argument,
]  # fmt: skip
AUX = {lookups: (TABLE,), sums: (TABLE,), integer_argument: (9,)}


@pytest.mark.parametrize("function", [*MASKS, *SCORES], ids=lambda function: function.__name__)
def test_means_what_python_means(function):
    aux = AUX.get(function, ())
    results, _ = host.scores(function, PLACES, aux)
    with np.errstate(all="ignore"):
        truth = [function(*place, *aux) for place in PLACES]
    np.testing.assert_allclose(np.array(results, np.float64), np.array(truth, np.float64), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("function", [*MASKS, *SCORES], ids=lambda function: function.__name__)
def test_computes_in_32_bits(function):
    texts, _, _ = host.compiled(function, host.score_kinds(AUX.get(function, ())))
    assert "double" not in "".join(texts)


def test_a_device_function_may_be_called():
    @cuda.jit(device=True)
    def decay(score, distance):
        return score * 0.5 - distance

    _, kind = host.scores(lambda score, b, h, q, kv: score, PLACES[:1])
    texts, _, result = host.compiled(lambda score, b, h, q, kv: decay(score, q - kv), host.score_kinds(()))
    assert result == kind and "double" not in "".join(texts)
