"""On a GPU: races, streams, graphs, every array library, odd strides, and wrong inputs refused before a launch."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import numba_fa
import reference
from numba_fa.build.loader import _LOADED
from tests.gpu.arrays import to_numpy

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.gpu


def random(*shape, dtype="bfloat16", seed=0):
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(shape, generator=generator, device="cuda", dtype=getattr(torch, dtype))


def check(out, q, k, v, mask="full", bound=2e-2):
    truth, _ = reference.attention(*(to_numpy(x) for x in (q, k, v)), mask=mask)
    assert np.abs(np.asarray(out, dtype=np.float64) - truth).max() < bound


@pytest.mark.parametrize("shape", [(2, 1024, 8, 128), (3, 777, 5, 64), (1, 515, 3, 256)])
@pytest.mark.parametrize("mask", ["full", "causal"])
def test_a_thousand_repeats_are_bit_equal(shape, mask):
    q, k, v = (random(*shape, seed=i) for i in range(3))
    plan = numba_fa.plan(q, k, v, mask=mask)
    out, lse = torch.empty_like(q), torch.empty(shape[0], shape[2], shape[1], device="cuda")
    plan.run(q, k, v, out, lse)
    first, first_lse, differing = out.clone(), lse.clone(), torch.zeros((), device="cuda")
    assert not first.isnan().any() and not first_lse.isnan().any()
    for _ in range(1000):
        out.fill_(float("nan"))
        plan.run(q, k, v, out, lse)
        differing += (out != first).any() | (lse != first_lse).any()
    assert differing.item() == 0


def test_the_callers_stream_is_used():
    q, k, v = (random(2, 2048, 8, 128, seed=i) for i in range(3))
    expected = numba_fa.attention(q, k, v)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late = q * 1
        late_out = numba_fa.attention(late, k, v)
    stream.synchronize()
    assert torch.equal(late_out, expected)


def kernel_of(plan):
    return _LOADED[plan.key.slug, plan.device.ordinal]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_many_addresses_through_the_graph_of_a_kernel(dtype):
    """On the legacy stream launches go as a graph (docs/findings/0023), elsewhere plainly: both with the GPU far behind."""
    given = [[random(2, 200 + 8 * (i % 3), 4, 64, dtype=dtype, seed=3 * i + j) for j in range(3)] for i in range(6)]
    plans = [numba_fa.plan(*given[i], mask="causal") for i in range(3)]
    stream, outs = torch.cuda.Stream(), []
    kernel_of(plans[0]).graphs.clear()
    for where in (stream, torch.cuda.default_stream()):
        torch.cuda.synchronize()
        with torch.cuda.stream(where):
            torch.cuda._sleep(50_000_000)
            outs.append([torch.full_like(q, float("nan")) for q, _, _ in given * 3])
            for i, (arrays, out) in enumerate(zip(given * 3, outs[-1], strict=True)):
                plans[i % 3].run(*arrays, out)
            assert bool(kernel_of(plans[0]).graphs) == (where is not stream)
    torch.cuda.synchronize()
    assert len(kernel_of(plans[0]).graphs) == 1
    assert all(torch.equal(a, b) for a, b in zip(*outs, strict=True)) and not outs[0][0].isnan().any()


def test_threads_launch_graphs_of_one_kernel_at_once():
    given = [[random(1, 60 + 4 * i, 4, 64, seed=3 * i + j) for j in range(3)] for i in range(8)]
    plans = [numba_fa.plan(*arrays) for arrays in given]
    expected = [numba_fa.attention(*arrays) for arrays in given]
    torch.cuda.synchronize()

    def launches(n):
        outs = [torch.full_like(given[n][0], float("nan")) for _ in range(200)]
        for out in outs:
            plans[n].run(*given[n], out)
        return all(torch.equal(out, expected[n]) for out in outs)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(launches, range(8))) == [True] * 8
    assert 1 <= len(kernel_of(plans[0]).graphs) <= 8


def test_the_legacy_stream_waits_for_others_and_they_for_it():
    """Streams that block, as CuPy's do: what is enqueued there before a call comes before it, and what follows after."""
    cupy = pytest.importorskip("cupy")
    q, k, v = (random(2, 256, 8, 128, seed=i) for i in range(3))
    plan, out, other = numba_fa.plan(q, k, v), torch.empty_like(q), random(2, 256, 8, 128, seed=7)
    plan.run(other, k, v, out)
    expected = out.clone()
    stream = torch.cuda.ExternalStream((blocking := cupy.cuda.Stream()).ptr)
    for _ in range(3):
        q.zero_()
        out.zero_()
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(30_000_000)
            q.copy_(other)
        plan.run(q, k, v, out)
        with torch.cuda.stream(stream):
            found = out.clone()
        torch.cuda.synchronize()
        assert torch.equal(found, expected)
    assert kernel_of(plan).graphs
    blocking.synchronize()


@pytest.mark.parametrize("mode", ["global", "thread_local", "relaxed"])
def test_a_first_call_while_another_stream_is_captured(mode):
    q, k, v = (random(1, 100, 2, 64, seed=i) for i in range(3))
    plan, out, counted = numba_fa.plan(q, k, v), torch.empty_like(q), torch.zeros(4, device="cuda")
    graph = torch.cuda.CUDAGraph()
    kernel_of(plan).graphs.clear()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(), capture_error_mode=mode):
        counted.add_(1)
        with torch.cuda.stream(torch.cuda.default_stream()):
            plan.run(q, k, v, out)
        counted.add_(1)
    graph.replay()
    assert counted.tolist() == [2] * 4
    check(to_numpy(out), q, k, v)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_graph_capture_and_replay(dtype):
    q, k, v = (random(2, 300, 4, 64, dtype=dtype, seed=i) for i in range(3))
    out = torch.empty_like(q)
    plan = numba_fa.plan(q, k, v, mask="causal")
    plan.run(q, k, v, out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plan.run(q, k, v, out)
    q.copy_(random(2, 300, 4, 64, dtype=dtype, seed=9))
    graph.replay()
    assert torch.equal(out, numba_fa.attention(q, k, v, mask="causal"))


def test_cupy():
    cupy = pytest.importorskip("cupy")
    q, k, v = (cupy.random.standard_normal((2, 100, 4, 64)).astype("float16") for _ in range(3))
    out, lse = numba_fa.attention(q, k, v, return_lse=True)
    assert type(out) is cupy.ndarray and out.dtype == q.dtype and lse.dtype == "float32"
    truth, _ = reference.attention(*(cupy.asnumpy(x) for x in (q, k, v)))
    assert np.abs(cupy.asnumpy(out) - truth).max() < 5e-3


def test_numba_device_arrays():
    from numba import cuda

    host = [np.random.default_rng(i).standard_normal((2, 100, 4, 64)).astype("float32") for i in range(3)]
    out = numba_fa.attention(*(cuda.to_device(x) for x in host), mask="causal")
    truth, _ = reference.attention(*host, mask="causal")
    assert np.abs(out.copy_to_host() - truth).max() < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_jax(dtype):
    jax = pytest.importorskip("jax")
    if jax.default_backend() == "cpu":
        pytest.skip("JAX sees no GPU")
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 100, 4, 64), dtype) for i in range(3))
    out, lse = numba_fa.attention(q, k, v, return_lse=True)
    assert isinstance(out, jax.Array) and out.dtype == q.dtype and lse.shape == (2, 4, 100)
    truth, _ = reference.attention(*(np.asarray(x) for x in (q, k, v)))
    assert np.abs(np.asarray(out, np.float64) - truth).max() < (1e-5 if dtype == "float32" else 2e-2)


def test_zero_stride_and_misaligned_fall_to_the_portable_kernel():
    q, k = random(2, 64, 4, 64), random(1, 64, 1, 64, seed=1).expand(2, 64, 4, 64)
    assert numba_fa.explain(q, k, k).family == "simt"
    check(to_numpy(numba_fa.attention(q, k, k)), q, k, k)
    flat = random(2 * 64 * 4 * 64 + 8)
    shifted = flat[1 : 1 + 2 * 64 * 4 * 64].view(2, 64, 4, 64)
    assert numba_fa.explain(shifted, q, q).family == "simt"
    check(to_numpy(numba_fa.attention(shifted, q, q)), shifted, q, q)


def test_no_keys_at_all():
    q, k = random(1, 5, 2, 64), random(1, 0, 2, 64)
    out, lse = numba_fa.attention(q, k, k, return_lse=True)
    assert not out.any() and torch.isneginf(lse).all()


def test_infinite_and_tiny_scores():
    q, k, v = (random(1, 130, 2, 64, seed=i) for i in range(3))
    huge = numba_fa.attention(q * 1e4, k * 1e4, v, mask="causal")
    check(to_numpy(huge), q * 1e4, k * 1e4, v, "causal", bound=5e-2)
    q[0, 7, 0, 3] = float("nan")
    bad = numba_fa.attention(q, k, v)
    assert bad[0, 7, 0].isnan().all() and bad.isnan().sum() == 64


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: [random(1, 8, 2, 64, dtype="float64")] * 3, numba_fa.UnsupportedError, "float64"),
        (lambda: [random(1, 8, 2, 100)] * 3, numba_fa.ProblemError, "104"),
        (lambda: [random(1, 8, 2, 264)] * 3, numba_fa.UnsupportedError, "head_dim 256"),
        (lambda: [random(1, 8, 12, 64), *[random(1, 8, 5, 64)] * 2], numba_fa.ProblemError, "12 heads over 5"),
        (lambda: [random(1, 0, 2, 64), *[random(1, 8, 2, 64)] * 2], numba_fa.ProblemError, "seqlen_q is 0"),
        (lambda: [random(1, 8, 2, 64), *[random(1, 8, 2, 64).cpu()] * 2], numba_fa.ProblemError, "cuda:0"),
        (lambda: [random(1, 8, 64, 2).transpose(2, 3), *[random(1, 8, 2, 64)] * 2], numba_fa.ProblemError, "stride"),
        (lambda: [random(1, 8, 2, 64), *[random(1, 8, 2, 64).half()] * 2], numba_fa.ProblemError, "float16"),
    ],
)
def test_wrong_inputs_are_refused_before_a_launch(make, error, words):
    arrays = make()
    out = torch.full_like(arrays[0], 7)
    with pytest.raises(error, match=words):
        numba_fa.attention(*arrays, out=out)
    assert (out == 7).all()


def test_flash_attn_func_agrees_with_torch():
    q, k, v = random(2, 300, 8, 64), random(2, 300, 2, 64, seed=1), random(2, 300, 2, 64, seed=2)
    out = numba_fa.flash_attn_func(q, k, v, 0.0, 0.2, True)
    heads_first = [x.float().transpose(1, 2) for x in (q, k, v)]
    truth = torch.nn.functional.scaled_dot_product_attention(*heads_first, is_causal=True, scale=0.2, enable_gqa=True)
    assert (out.float() - truth.transpose(1, 2)).abs().max() < 2e-2


def test_the_demo_computes_on_the_gpu():
    from numba_fa.demo.arrays import attend, family

    q, k, v = (np.random.default_rng(i).standard_normal((3, 17, 12, 32)).astype("float32") for i in range(3))
    assert family(q.dtype, 12, 32) == "simt"
    out, lse = attend(q, k, v)
    truth, truth_lse = reference.attention(q, k, v)
    assert np.abs(out - truth).max() < 1e-5 and np.abs(lse - truth_lse).max() < 1e-4
