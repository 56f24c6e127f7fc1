"""Plans and repeated calls: nothing is compiled twice, other arrays are refused, threads do not disturb each other."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import numba_fa
from numba_fa import ProblemError, api
from numba_fa.kernels.cpu import forward
from numba_fa.testing.inputs import random_qkv
from tests.api.fresh import run_fresh
from tests.api.libraries import check

SIZES = (2, 29, 31, 4, 2, 24)


@pytest.fixture
def made(monkeypatch):
    """Slugs of the kernels that the CPU family's factory was asked for; plans are forgotten before and after."""
    slugs, factory = [], forward.forward_of

    def counting(key):
        slugs.append(key.slug)
        return factory(key)

    monkeypatch.setattr(forward, "forward_of", counting)
    api.forget()
    yield slugs
    api.forget()


def test_a_second_call_makes_no_kernel(made):
    q, k, v = random_qkv(*SIZES)
    first = numba_fa.attention(q, k, v)
    assert len(made) == 1
    again = numba_fa.attention(q.copy(), k.copy(), v.copy(), return_lse=True)[0]
    assert len(made) == 1
    assert np.array_equal(first, again)
    numba_fa.attention(q, k, v, mask="causal")
    assert len(made) == 2


def test_other_lengths_use_the_same_compiled_kernel(made):
    compiled = forward._compiled.cache_info
    numba_fa.attention(*random_qkv(*SIZES))
    before = compiled().misses
    numba_fa.attention(*random_qkv(1, 3, 5, 6, 1, 24))
    numba_fa.attention(*random_qkv(1, 3, 5, 6, 1, 24), scale=0.7)
    assert compiled().misses == before


def test_a_plan_runs_as_attention_does(made):
    q, k, v = random_qkv(*SIZES)
    plan = numba_fa.plan(q, k, v)
    out, lse = np.full(q.shape, np.nan, np.float32), np.full((2, 4, 29), np.nan, np.float32)
    assert len(made) == 1
    assert plan.run(q, k, v, out, lse) is None
    check(out, lse, *SIZES, "float32", "full")
    plan.run(q, k, v, out)
    assert len(made) == 1


def test_a_plan_runs_on_other_arrays_of_the_same_problem():
    plan = numba_fa.plan(*random_qkv(*SIZES, seed=1))
    q, k, v = random_qkv(*SIZES, layout="padded")
    out, lse = np.empty(q.shape, np.float32), np.empty((2, 4, 29), np.float32)
    plan.run(q, k, v, out, lse)
    check(out, lse, *SIZES, "float32", "full")


@pytest.mark.parametrize("other", [(3, 29, 31, 4, 2, 24), (2, 30, 31, 4, 2, 24), (2, 29, 32, 4, 2, 24),
                                   (2, 29, 31, 6, 2, 24), (2, 29, 31, 4, 4, 24), (2, 29, 31, 4, 2, 32)])  # fmt: skip
def test_a_plan_refuses_other_arrays(other):
    plan = numba_fa.plan(*random_qkv(*SIZES))
    q, k, v = random_qkv(*other)
    out = np.full(q.shape, 7, np.float32)
    with pytest.raises(ProblemError, match="this plan is for float32 full attention on cpu"):
        plan.run(q, k, v, out)
    assert (out == 7).all()


@pytest.mark.parametrize("lse", [np.full((2, 29, 4), 7, np.float32), np.full((2, 4, 29), 7, np.float64),
                                 np.full((2, 4, 58), 7, np.float32)[:, :, ::2]])  # fmt: skip
def test_a_plan_refuses_a_wrong_lse(lse):
    q, k, v = random_qkv(*SIZES)
    out = np.full(q.shape, 7, np.float32)
    with pytest.raises(ProblemError, match="lse"):
        numba_fa.plan(q, k, v).run(q, k, v, out, lse)
    assert (out == 7).all()
    assert (lse == 7).all()


def test_plans_for_the_same_problem_are_one():
    q, k, v = random_qkv(*SIZES)
    assert numba_fa.plan(q, k, v) is numba_fa.plan(q.copy(), k.copy(), v.copy())
    assert numba_fa.plan(q, k, v) is not numba_fa.plan(q, k, v, mask="causal")


def test_plan_for_takes_the_key_that_it_is_given():
    """Benchmarks and tuning name it themselves. On the CPU one kernel serves every head_dim, so this one is right."""
    q, k, v = random_qkv(*SIZES)
    found = numba_fa.explain(q, k, v)
    plan = api.plan_for(found.problem, found.variant, replace(found.key, head_dim=256))
    out, lse = np.empty(q.shape, np.float32), np.empty((2, 4, 29), np.float32)
    plan.run(q, k, v, out, lse)
    assert plan.key.head_dim == 256
    check(out, lse, *SIZES, "float32", "full")


def test_threads_get_right_results():
    """Four threads, each its own problems, all at once, from plans that none has made yet."""
    api.forget()
    problems = [(1 + n % 3, 20 + n, 40 - n, 4, 2, 16) for n in range(12)]

    def one(sizes):
        return [numba_fa.attention(*random_qkv(*sizes), return_lse=True) for _ in range(5)]

    with ThreadPoolExecutor(4) as pool:
        for sizes, results in zip(problems, pool.map(one, problems)):
            for out, lse in results:
                check(out, lse, *sizes, "float32", "full")


def test_threads_get_right_results_on_numbas_plainest_threading_layer():
    """Where neither OpenMP nor TBB is found, Numba ends the process when two threads enter parallel code at once."""
    code = """
import numpy as np, numba_fa
from concurrent.futures import ThreadPoolExecutor
q = np.ones((2, 256, 4, 64), np.float32)
with ThreadPoolExecutor(4) as pool:
    results = list(pool.map(lambda n: numba_fa.attention(q * n, q, q * n), range(1, 80)))
assert all(np.allclose(out, n) for n, out in enumerate(results, 1))
print("done")
"""
    assert run_fresh(code, NUMBA_THREADING_LAYER="workqueue") == "done"
