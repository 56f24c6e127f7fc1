"""Users' functions in the compiler: mistakes in their own words, and machine code that follows every edit."""

import math
import time

import numpy as np
import pytest

from numba_fa.build import compiler, loader
from numba_fa.build.compiler import compile_kernel, ptx_of
from numba_fa.dispatch.key import DispatchKey
from numba_fa.errors import CompileError
from numba_fa.jit import TOKENS, KernelSource, device
from numba_fa.problem.biases import ScoreMod
from numba_fa.problem.functions import FUNCTIONS
from numba_fa.problem.masks import MaskMod

TABLE = np.zeros(3, np.int32)


def helper(x):
    return x.nothing


def adds_text(b, h, q_idx, kv_idx):
    shift = "a" + q_idx
    return q_idx > shift


def calls_helper(b, h, q_idx, kv_idx):
    return helper(q_idx) > 0


def two_indices(b, h, q_idx, kv_idx, table):
    return table[b, h] > 0


def sorts(b, h, q_idx, kv_idx):
    return sorted([q_idx, kv_idx])[0] == 1


def two_types(b, h, q_idx, kv_idx):
    if q_idx > kv_idx:
        return True
    return (1, 2)


def lists(b, h, q_idx, kv_idx):
    seen = [q_idx, kv_idx]
    return seen[0] == 1


def no_gpus(b, h, q_idx, kv_idx):
    return math.gcd(q_idx, kv_idx) == 1


def of_a_module(b, h, q_idx, kv_idx):
    return time.time() > q_idx


def writes(b, h, q_idx, kv_idx, table):
    table[b] = q_idx
    return q_idx > kv_idx


def summed(b, h, q_idx, kv_idx, table):
    return table.sum() > 0


# function, aux, what the message holds: the user's line and what is wrong with it
MISTAKES = [
    (adds_text, (), ['shift = "a" + q_idx', "knows no add(", "int32"]),
    (calls_helper, (), ["return x.nothing", "'nothing'", "int32"]),
    (two_indices, (TABLE,), ["return table[b, h] > 0", "knows no getitem(", "1d"]),
    (two_types, (), ["return", "unify", "Tuple"]),
    (sorts, (), ["sorts"]),
    (lists, (), ["seen = [q_idx, kv_idx]", "no memory for one on a GPU"]),
    (no_gpus, (), ["math.gcd(q_idx, kv_idx)", "Numba knows no gcd() here"]),
    (of_a_module, (), ["time.time() > q_idx", "time.time is not compiled; Python's own functions, math's and NumPy's are"]),
    (writes, (TABLE,), ["table[b] = q_idx", "arrays of aux are only read"]),
    (summed, (TABLE,), ["table.sum() > 0", "NotImplementedError"]),
]


def source_of(key):
    """A kernel that asks one mask function and does nothing else."""
    user = FUNCTIONS[key.mask]
    visible, aux = user.built(device), len(user.tokens)
    if aux:

        def kernel(out, n, aux):
            if visible(0, 0, n, n, aux[0]):
                out[0] = 1

    else:

        def kernel(out, n, aux):
            if visible(0, 0, n, n):
                out[0] = 1

    return KernelSource(kernel, ("float32*", "int32"), 32, 0, user.tokens)


def key_of(mask):
    return DispatchKey("fwd", "simt", "fp32", 8, mask.name, 16, 16, 1)


@pytest.mark.parametrize(("function", "aux", "words"), MISTAKES, ids=[case[0].__name__ for case in MISTAKES])
def test_a_mistake_is_told_in_the_users_words(function, aux, words):
    with pytest.raises(CompileError) as caught:
        compile_kernel(key_of(MaskMod(function, *aux)), source_of, "sm_80")
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert f"the mask function {function.__name__} ({__file__}:" in text
    assert "pipeline" not in text and "site-packages" not in text and len(text.splitlines()) <= 3


@pytest.mark.parametrize(("make", "words"), [
    (lambda: MaskMod(lambda b, h, i, j: i + 0.5), ["returns float32", "a bool"]),
    (lambda: MaskMod(lambda b, h, i, j: i & j), ["returns int", "a bool"]),
    (lambda: MaskMod(lambda b, h, i, j: None), ["returns none", "a bool"]),
    (lambda: MaskMod(lambda b, h, i, j: (i, j)), ["returns UniTuple", "a bool"]),
    (lambda: ScoreMod(lambda score, b, h, i, j: score > 0), ["returns bool", "a number"]),
    (lambda: ScoreMod(lambda score, b, h, i, j: None), ["returns none", "a number"]),
    (lambda: ScoreMod(lambda score, b, h, i, j: score if i > j else None), ["returns float32 or None", "a number"]),
    (lambda: ScoreMod(lambda score, b, h, i, j: score + 1j), ["knows no add(float32, complex"]),
])  # fmt: skip
def test_a_wrong_return_type_is_told(make, words):
    declared = make()
    mask, bias = (declared.name, "none") if isinstance(declared, MaskMod) else ("full", declared.name)
    key = DispatchKey("fwd", "simt", "fp32", 8, mask, 16, 16, 1, bias)
    with pytest.raises(CompileError) as caught:
        compile_kernel(key, source_of, "sm_80")
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("make", [
    lambda: ScoreMod(lambda score, b, h, i, j: i - j), lambda: ScoreMod(lambda score, b, h, i, j: score * 2.0),
    lambda: ScoreMod(lambda score, b, h, i, j: 0.0), lambda: ScoreMod(lambda score, b, h, i, j: 3),
])  # fmt: skip
def test_any_real_number_is_a_score(make):
    from numba_fa.problem.user_errors import check_functions

    with compiler._compiling_for((8, 0)):
        check_functions([FUNCTIONS[make().name]], device, TOKENS)


def test_numbas_own_mistakes_elsewhere_stay_as_they_are():
    def factory(key):
        def kernel(out, aux):
            out[0] = "text"

        return KernelSource(kernel, ("float32*",), 32, 0)

    with pytest.raises(Exception, match="unicode|text") as caught:
        compile_kernel(DispatchKey("fwd", "simt", "fp32", 8, "full", 16, 16, 1), factory, "sm_80")
    assert type(caught.value).__module__.startswith("numba.")


def test_an_edit_compiles_anew_and_a_rename_does_not(monkeypatch):
    """Through the store, by the key alone, as a call does it."""
    made = []

    class Variant:
        def factory(self):
            def factory(key):
                made.append(key.slug)
                return source_of(key)

            return factory

    def compiled(function):
        return loader.artifact_for(key_of(MaskMod(function)), Variant(), "sm_80")

    limit = 3
    first = compiled(lambda b, h, i, j: j <= i + limit)

    def renamed(b, h, q, k):
        return k <= q + limit

    assert compiled(renamed) == first and len(made) == 1
    limit = 4
    assert compiled(renamed).cubin != first.cubin and len(made) == 2
    compiled(lambda b, h, i, j: j <= i + 4)
    assert len(made) == 3, "a constant is not what a closure holds"


def test_the_whole_hash_is_in_the_fingerprint(monkeypatch):
    """The name in the slug holds ten digits of it only."""
    seen = []
    store = loader.default_store()
    monkeypatch.setattr(type(store), "get", lambda self, slug, arch, extra=b"": seen.append(extra) or "stored")
    mask, score = MaskMod(lambda b, h, i, j: i > 5), ScoreMod(lambda s, b, h, i, j: s + 5)
    loader.artifact_for(DispatchKey("fwd", "simt", "fp32", 8, mask.name, 16, 16, 1, score.name), None, "sm_80")
    loader.artifact_for(DispatchKey("fwd", "simt", "fp32", 8, "full", 16, 16, 1), None, "sm_80")
    assert seen == [FUNCTIONS[mask.name].digest + FUNCTIONS[score.name].digest, b""]


def test_a_user_function_is_inlined():
    mask = MaskMod(two_indices_right, TABLE.reshape(3, 1))
    text = ptx_of(key_of(mask), source_of, "sm_80")
    assert "call" not in text and ".entry numba_fa_fwd_simt_fp32_d8_mod_" in text


def two_indices_right(b, h, q_idx, kv_idx, table):
    return table[b, h] > kv_idx
