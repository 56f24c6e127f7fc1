"""On a GPU: the Hopper backward against float64 gradients, under every mask and bias; repeats bit-equal where promised."""

import numpy as np
import pytest

import numba_fa
import reference
from numba_fa.testing.backward_plan import BackwardPlan
from numba_fa.testing.inputs import LAYOUTS, random_qkv
from tests.gpu.arrays import to_numpy, to_torch

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.gpu

# batch, seqlen_q, seqlen_k, heads, heads_kv
SHAPES = [(1, 1, 1, 2, 2), (2, 1, 77, 2, 1), (2, 197, 333, 6, 2), (1, 211, 40, 3, 1), (1, 384, 256, 2, 2)]


def arrays_of(shape, head_dim, dtype, layout="bshd"):
    batch, seqlen_q, seqlen_k, heads, heads_kv = shape
    q, k, v = random_qkv(batch, seqlen_q, seqlen_k, heads, heads_kv, head_dim, dtype, layout=layout)
    dout, *_ = random_qkv(batch, seqlen_q, 1, heads, heads, head_dim, dtype, seed=9, layout=layout)
    return q, k, v, dout


def check(arrays, results, mask, dtype):
    """By the rule of the forward's tests: at most twice the error of a naive computation in the same precision."""
    truth = reference.attention_backward(*arrays, mask=mask)
    naive = reference.attention_backward_rounded(*arrays, mask=mask, dtype=dtype)
    for name, result in zip(("dq", "dk", "dv"), map(to_numpy, results)):
        if np.any(getattr(truth, name)):
            numba_fa.testing.assert_within(result, getattr(truth, name), getattr(naive, name), arrays[0].dtype, name)
        else:
            assert np.max(np.abs(result.astype(np.float64))) <= cancelled(*arrays)


def cancelled(q, k, v, dout):
    """A query that sees one key has dS = dP - delta = 0; what is left is the rounding of these sums in float32."""
    q, k, v, dout = (np.abs(x.astype(np.float64)) for x in (q, k, v, dout))
    head_dim = q.shape[-1]
    return head_dim * 2.0**-24 * (dout.max() * v.sum(-1).max()) * head_dim**-0.5 * max(q.max(), k.max())


@pytest.mark.parametrize("mask", ["full", "causal"])
@pytest.mark.parametrize("head_dim", [16, 40, 64, 96, 128, 136, 192, 256])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients(shape, head_dim, mask, dtype):
    arrays = arrays_of(shape, head_dim, dtype)
    backward = BackwardPlan(*map(to_torch, arrays), mask)
    backward.run()
    check(arrays, backward.results, mask, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", ["bwd_det", "bwd_red"])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_layouts_and_ways_to_sum_up(op, head_dim, layout):
    arrays = arrays_of(SHAPES[2], head_dim, "bfloat16", layout)
    backward = BackwardPlan(*map(to_torch, arrays), "causal", op)
    backward.run()
    check(arrays, backward.results, "causal", "bfloat16")


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("mask", ["full", "causal"])
@pytest.mark.parametrize("op", ["bwd", "bwd_det"])
def test_a_thousand_repeats(op, head_dim, mask):
    """dK and dV are bit-equal in any case, dQ where its order is fixed."""
    generator = torch.Generator("cuda").manual_seed(0)
    shape = (2, 1024, 6, head_dim)
    q, k, v, dout = (torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16) for _ in range(4))
    backward = BackwardPlan(q, k, v, dout, mask, op)
    backward.run()
    firsts, differing = [x.clone() for x in backward.results], torch.zeros(3, device="cuda")
    for _ in range(1000):
        for x in backward.results:
            x.fill_(float("nan"))
        backward.run()
        differing += torch.stack([(x != first).any() for x, first in zip(backward.results, firsts)])
    promised = differing if op == "bwd_det" else differing[1:]
    assert not promised.any(), differing


def test_a_gradient_of_the_lse_and_nothing_seen():
    arrays = arrays_of((1, 300, 40, 2, 2), 64, "bfloat16")
    backward = BackwardPlan(*map(to_torch, arrays), "causal")
    backward.run()
    assert np.all(to_numpy(backward.results[0]).astype(np.float32)[:, :260] == 0)
