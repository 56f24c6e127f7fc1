"""NumPy's functions of numbers in users' functions: on every family, and differentiated, what Python's own are."""

import math

import numpy as np
import pytest

import numba_fa
from numba_fa.build.compiler import compile_kernel
from numba_fa.kernels.simt.variant import FORWARD as SIMT
from numba_fa.kernels.sm90.backward_variant import BACKWARD, main_key
from numba_fa.kernels.sm90.variant import FORWARD as SM90
from numba_fa.testing.inputs import random_qkv

Q, K, V = random_qkv(1, 20, 24, 2, 1, 16, "float32")
TABLE = np.array([0.5, 0.25], np.float32)

# NumPy's words: what they mean
MEANINGS = {
    "np.where(score > 0, score, 0.5 * score)": "score if score > 0 else 0.5 * score",
    "np.where(q_idx > kv_idx, score, -math.inf)": "score if q_idx > kv_idx else -math.inf",
    "np.where((q_idx > kv_idx) & (h == 0), score, 0)": "score if q_idx > kv_idx and h == 0 else 0.0",
    "np.where(q_idx & 1, score, table[h])": "score if q_idx % 2 == 1 else table[h]",
    "np.where(np.where(q_idx > 3, kv_idx > 5, True), score, 1)": "score if q_idx <= 3 or kv_idx > 5 else 1.0",
    "score + np.where(score, np.where(q_idx > kv_idx, 1, 2), 3)": "score + (1 if q_idx > kv_idx else 2)",
    "np.clip(score, -0.5, 1)": "min(max(score, -0.5), 1.0)",
    "score + np.clip(q_idx - kv_idx, -3, 3)": "score + min(max(q_idx - kv_idx, -3), 3)",
    "np.exp(-np.abs(score)) + np.exp(-h)": "math.exp(-abs(score)) + math.exp(-h)",
    "np.maximum(score, 0) + np.minimum(q_idx, kv_idx)": "max(score, 0.0) + min(q_idx, kv_idx)",
    "np.tanh(score) + np.tanh(h)": "math.tanh(score) + math.tanh(h)",
    "np.log2(score * score + 1) + np.log2(h + 1)": "math.log2(score * score + 1) + math.log2(h + 1)",
    "np.sqrt(score * score + 1) + np.sqrt(h)": "math.sqrt(score * score + 1) + math.sqrt(h)",
    "max(score, -1.0, kv_idx - 5.0, -2.0, -3.0)": "max(max(score, -1.0), kv_idx - 5.0)",
}


def declared(text):
    scope = {"np": np, "math": math, "__name__": "user"}
    exec(f"def function(score, b, h, q_idx, kv_idx, table):\n    return {text}", scope)
    return numba_fa.ScoreMod(scope["function"], TABLE)


@pytest.mark.parametrize("text", list(MEANINGS))
def test_forward_and_gradient_on_the_cpu(text):
    found, meant = [], []
    for results, words in ((found, text), (meant, MEANINGS[text])):
        out, lse = numba_fa.attention(Q, K, V, bias=declared(words), return_lse=True)
        gradients = numba_fa.attention_backward(np.ones_like(Q), Q, K, V, out, lse, bias=declared(words))
        results += [out, lse, gradients.dq, gradients.dk]
    for one, other in zip(found, meant, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("text", list(MEANINGS))
def test_on_gpus(text):
    name = declared(text).name
    for variant, arch in ((SM90, "sm_90a"), (SIMT, "sm_80")):
        assert compile_kernel(variant.key_for("bf16", 64, "full", name), variant.factory(), arch).registers
    assert compile_kernel(main_key("bf16", 64, "full", name), BACKWARD.factory(), "sm_90a").registers


@pytest.mark.parametrize("text", list(MEANINGS))
def test_in_the_emulator(text):
    q, k, v = (x[:, :8] for x in (Q, K, V))
    found = numba_fa.emulate(q, k, v, bias=declared(text), family="simt").out
    np.testing.assert_allclose(found, numba_fa.attention(q, k, v, bias=declared(text)), atol=1e-5)


def test_a_mask_of_where():
    mask = numba_fa.MaskMod(lambda b, h, i, j: np.where(i > j, True, j < 3))
    same = numba_fa.MaskMod(lambda b, h, i, j: (i > j) | (j < 3))
    np.testing.assert_array_equal(*[numba_fa.attention(Q, K, V, mask=each) for each in (mask, same)])
    assert compile_kernel(SIMT.key_for("fp32", 64, mask.name, "none"), SIMT.factory(), "sm_80").registers


def test_a_constant_verdict_is_a_mask():
    np.testing.assert_array_equal(
        numba_fa.attention(Q, K, V, mask=numba_fa.MaskMod(lambda b, h, i, j: True)), numba_fa.attention(Q, K, V)
    )


def summed(score, b, h, q_idx, kv_idx, table):
    for element in table:
        score += element
    return score


def inner(score, b, h, q_idx, kv_idx, table):
    def doubled(x):
        return x * 2.0

    return doubled(score)


def starred(score, b, h, q_idx, kv_idx, *aux):
    return score + aux[0][h]


@pytest.mark.parametrize("function", [summed, inner, starred], ids=lambda function: function.__name__)
def test_more_of_python_compiles_for_all(function):
    bias = numba_fa.ScoreMod(function, TABLE)
    assert np.isfinite(numba_fa.attention(Q, K, V, bias=bias)).all()
    assert compile_kernel(SM90.key_for("bf16", 64, "full", bias.name), SM90.factory(), "sm_90a").registers
    assert compile_kernel(main_key("bf16", 64, "full", bias.name), BACKWARD.factory(), "sm_90a").registers
