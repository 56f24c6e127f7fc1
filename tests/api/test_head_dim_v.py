"""Values with a head_dim of their own, through every public call."""

import numpy as np
import pytest

import numba_fa
import reference
from numba_fa.dispatch.select import select
from numba_fa.problem.problem import Problem
from numba_fa.testing.inputs import random_qkv
from tests.dispatch.devices import HOPPER
from tests.problem.views import request, view

QKV = random_qkv(2, 19, 23, 4, 2, 24, head_dim_v=40)
OUT_SHAPE = (2, 19, 4, 40)


def close(found, expected):
    return np.allclose(found, expected, atol=1e-5)


def truth(q, k, v):
    return reference.attention(q, k, v)[0]


def test_the_output_is_as_wide_as_the_values():
    out, lse = numba_fa.attention(*QKV, mask="causal", return_lse=True)
    expected, expected_lse = reference.attention(*QKV, mask="causal")
    assert out.shape == OUT_SHAPE and close(out, expected) and close(lse, expected_lse)
    again = numba_fa.attention(*QKV, mask="causal")
    assert np.array_equal(again, out), "the call of before, remembered"


def test_other_values_are_another_call():
    q, k, v = QKV
    for columns in (40, 8, 40, 24):
        assert close(numba_fa.attention(q, k, v[..., :columns]), truth(q, k, v[..., :columns]))


def test_a_plan_and_an_out():
    plan, out = numba_fa.plan(*QKV), np.full(OUT_SHAPE, np.nan, np.float32)
    plan.run(*QKV, out)
    assert close(out, truth(*QKV))
    given = np.full(OUT_SHAPE, np.nan, np.float32)
    assert numba_fa.attention(*QKV, out=given) is given and np.array_equal(given, out)
    with pytest.raises(numba_fa.ProblemError, match="this plan is for"):
        plan.run(*QKV[:2], QKV[2][..., :24], np.empty_like(QKV[0]))


@pytest.mark.parametrize("family", ["sm90", "simt"])
def test_emulated(family):
    q, k, v = random_qkv(1, 9, 12, 2, 1, 16, "bfloat16", head_dim_v=24)
    tile = (16, 16, 1) if family == "simt" else None
    found = numba_fa.emulate(q, k, v, family=family, multiprocessors=1, tile=tile)
    assert found.out.shape == (1, 9, 2, 24)
    assert np.allclose(found.out.astype(np.float64), reference.attention(q, k, v)[0], atol=2e-2)


def test_gradients():
    out, lse = numba_fa.attention(*QKV, return_lse=True)
    dout = random_qkv(2, 19, 23, 4, 2, 40, seed=3)[0]
    found, expected = numba_fa.attention_backward(dout, *QKV, out, lse), reference.attention_backward(*QKV, dout)
    for name, array in zip(("dq", "dk", "dv"), QKV, strict=True):
        assert getattr(found, name).shape == array.shape and close(getattr(found, name), getattr(expected, name)), name
    with pytest.raises(numba_fa.ProblemError, match=r"dout has shape \(2, 19, 4, 24\); out's shape \(2, 19, 4, 40\)"):
        numba_fa.attention_backward(QKV[0], *QKV, out, lse)


@pytest.mark.parametrize(("columns", "words"), [
    (12, ["v's head_dim is 12", "next is 16"]), (0, ["v's head_dim is 0", "next is 8"]),
])  # fmt: skip
def test_widths_off_the_grid_are_faults(columns, words):
    with pytest.raises(numba_fa.ProblemError) as caught:
        numba_fa.attention(*QKV[:2], np.zeros((2, 23, 2, columns), np.float32))
    assert all(word in str(caught.value) for word in words)


def test_an_out_as_wide_as_q_is_a_fault():
    q = QKV[0].copy()
    with pytest.raises(numba_fa.ProblemError, match=r"out has shape \(2, 19, 4, 24\); \(2, 19, 4, 40\) is wanted"):
        numba_fa.attention(q, *QKV[1:], out=q)


def test_values_wider_than_any_kernel_are_not_supported():
    with pytest.raises(numba_fa.UnsupportedError) as caught:
        numba_fa.attention(*QKV[:2], np.zeros((2, 23, 2, 264), np.float32))
    assert "v's head_dim 264, not 8 to 256 in steps of 8" in str(caught.value)
    assert caught.value.nearest.startswith("fp32, head_dim 24 (v's 256), mask full")


def test_multi_head_latent_attention_has_a_kernel_of_its_own_on_hopper():
    asked = request(head_dim=192, dtype="bfloat16", device="cuda:0", with_out=False)
    problem = Problem.from_views(**asked | {"v": view((2, 7, 3, 128), "bfloat16", "cuda:0")})
    found = select(problem, HOPPER)
    assert found.key.slug == "fwd-sm90-bf16-d192v128-full-m128n128s2"
    assert "head_dim 192 (v's 128)" in str(found)
    assert select(problem, HOPPER, "bwd").key.slug == "bwd-sm90-bf16-d192v128-full-m64n64s2"


def test_torch_trains_and_compiles():
    torch = pytest.importorskip("torch")
    pytest.importorskip("torch._dynamo")
    inputs = [torch.from_numpy(x.copy()).requires_grad_() for x in QKV]

    def program(q, k, v):
        return numba_fa.attention(q, k, v, mask="causal")

    def plain(q, k, v):
        seen = torch.ones(19, 23, dtype=torch.bool).tril(4)
        turned = [x.transpose(1, 2) for x in (q, k, v)]
        return torch.nn.functional.scaled_dot_product_attention(*turned, attn_mask=seen, enable_gqa=True).transpose(1, 2)

    weights = torch.linspace(-1, 1, int(np.prod(OUT_SHAPE))).view(OUT_SHAPE)
    for run in (program, torch.compile(program, fullgraph=True, backend="aot_eager")):
        out, expected = run(*inputs), plain(*inputs)
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
        made, wanted = (torch.autograd.grad((x * weights).sum(), inputs) for x in (out, expected))
        torch.testing.assert_close(made, wanted, atol=1e-5, rtol=1e-5)
