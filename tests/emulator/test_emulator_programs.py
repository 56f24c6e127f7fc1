"""A program's arguments as one tuple, and users' functions in float32."""

import math
from math import tanh

import ml_dtypes
import numpy as np
import pytest
from numba import cuda

from numba_fa.emulator import EmulationError, run_kernel
from numba_fa.jit import KernelSource, device


def run(function, *arguments, signature=("float32*",), program=(), threads=32):
    run_kernel(KernelSource(function, signature, threads, 64, program), (1, 1, 1), arguments)


def test_arguments_after_the_signature_come_as_one_tuple():
    out, seen = np.zeros(1, np.float32), []

    def kernel(out, aux):
        if cuda.threadIdx.x == 0:
            seen.append(aux)
            out[0] = aux[2][1, 0] + aux[0] * aux[1]

    table = np.array([[1], [40]], np.int32)
    run(kernel, out, 3, 0.1, table, program=("int32", "float32", "array:int32:2"))
    ((number, fraction, array),) = seen
    assert type(number) is int and type(fraction) is np.float32 and type(array[0, 0]) is int
    assert out[0] == np.float32(40) + np.float32(0.1) * 3


def test_a_kernel_that_takes_a_program_gets_an_empty_one():
    out = np.zeros(1, np.float32)

    def kernel(out, aux):
        if cuda.threadIdx.x == 0:
            out[0] = 1 + len(aux)

    run(kernel, out)
    assert out[0] == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_elements_are_float32_and_broadcast_arrays_stay(dtype):
    array = np.broadcast_to(np.array([1.5, -2.25], dtype), (3, 4, 2))
    seen = []

    def kernel(aux):
        seen.append(aux[0][2, 3, 1])

    run(kernel, array, signature=(), program=(f"array:{array.dtype}:3",))
    assert type(seen[0]) is np.float32 and seen[0] == -2.25


@pytest.mark.parametrize("index", [(2, 0), (-1, 0), (0, 3), (0,), (0, 0, 0)])
def test_every_index_is_checked(index):
    def kernel(aux):
        aux[0][index]

    with pytest.raises(EmulationError, match=r"of an array of shape \(2, 3\)"):
        run(kernel, np.zeros((2, 3), np.float32), signature=(), program=("array:float32:2",))


def test_arrays_are_read_only():
    def kernel(aux):
        aux[0][0] = 1

    with pytest.raises(EmulationError, match="writes"):
        run(kernel, np.zeros(2, np.int32), signature=(), program=("array:int32:1",))


@pytest.mark.parametrize("wrong", [np.zeros(2), np.zeros((2, 1), np.float32), 7])
def test_wrong_arrays_are_refused(wrong):
    with pytest.raises(TypeError, match="float32 with 1 axes"):
        run(lambda aux: None, wrong, signature=(), program=("array:float32:1",))


def half(x):
    return x / 2


def users_score(score, b, h, q_idx, kv_idx, cap, slopes):
    """Every way to reach a function of mathematics, and a helper that is plain Python."""
    return half(cap * math.tanh(score / cap)) + tanh(slopes[h]) * math.exp(-abs(q_idx - kv_idx)) + math.log(0.0)


def test_users_functions_round_to_float32_and_do_not_raise():
    function, seen = device(users_score), []

    def kernel(aux):
        if cuda.threadIdx.x == 0:
            seen.append(function(np.float32(0.7), 0, 1, 3, 5, *aux))
            seen.append(math.sqrt(-1.0))

    slopes = np.array([0, 0.3], np.float32)
    run(kernel, 1.5, slopes, signature=(), program=("float32", "array:float32:1"))
    assert type(seen[0]) is np.float32 and seen[0] == -np.inf and np.isnan(seen[1])


def test_numpys_functions_and_types_mean_what_they_mean_on_a_gpu():
    seen = []

    def kernel(aux):
        if cuda.threadIdx.x == 0:
            x, n = aux
            seen.extend([np.tanh(x), np.exp(n / 3), np.float64(x), float(n), np.clip(x, 0, 1), np.minimum(x, 2)])
            seen.extend([np.int32(x), np.clip(n, 0, 3), np.square(n), np.sign(-n)])
            seen.append(np.isnan(x))

    run(kernel, 1.7, 5, signature=(), program=("float32", "int32"))
    x = np.float32(1.7)
    assert [type(value) for value in seen] == [np.float32] * 6 + [int] * 4 + [bool]
    assert seen == [np.float32(np.tanh(1.7)), np.float32(np.exp(5 / 3)), x, 5, 1, x, 1, 3, 25, -1, False]


def test_functions_of_mathematics_round_once():
    seen = []

    def kernel(aux):
        if cuda.threadIdx.x == 0:
            seen.extend([math.tanh(aux[0]), math.pow(aux[0], 3), math.erf(aux[0]), math.floor(aux[0]), math.pi])

    run(kernel, 1.7, signature=(), program=("float32",))
    x = float(np.float32(1.7))
    assert seen == [np.float32(math.tanh(x)), np.float32(x**3), np.float32(math.erf(x)), 1, math.pi]
    assert [type(value) for value in seen[:3]] == [np.float32] * 3
