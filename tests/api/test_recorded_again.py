"""Calls that torch records, made again: quickly where all is as before, and as at first where anything is not."""

import math

import pytest

import numba_fa
from numba_fa import api
from numba_fa.adapters import torch_calls

torch = pytest.importorskip("torch")
from tests.api.plain_attention import plain  # noqa: E402
from tests.api.tensors import Listening, qkv, same_gradients, weights  # noqa: E402


@pytest.fixture
def made_before():
    """q, k, v of a call that was recorded often enough to be known."""
    q, k, v = qkv()
    api.forget()
    for _ in range(4):
        numba_fa.attention(q, k, v, mask="causal").sum().backward()
    assert api._RECORDED
    return [x.detach().clone().requires_grad_() for x in (q, k, v)]


def test_a_recorded_call_made_before_is_short(made_before, monkeypatch):
    """Of other tensors that lie so, and nothing is looked at anew."""
    q, k, v = made_before
    for module, name in ((torch_calls, "recorded"), (api, "_remembered"), (api, "_checked_call")):
        monkeypatch.setattr(module, name, None)
    out = numba_fa.attention(q, k, v, mask="causal")
    w = weights(out)
    same_gradients((out * w).sum(), (plain(q, k, v, causal=True)[0] * w).sum(), (q, k, v))


UNLIKE = {
    "only q is learnt": lambda q, k, v: numba_fa.attention(q, k.detach(), v.detach(), mask="causal"),
    "nothing is learnt": lambda q, k, v: numba_fa.attention(q.detach(), k.detach(), v.detach(), mask="causal"),
    "another mask": lambda q, k, v: numba_fa.attention(q, k, v),
    "another scale": lambda q, k, v: numba_fa.attention(q, k, v, mask="causal", scale=0.7),
    "with the LSE": lambda q, k, v: sum(x.sum() for x in numba_fa.attention(q, k, v, mask="causal", return_lse=True)),
    "a bias": lambda q, k, v: numba_fa.attention(q, k, v, mask="causal", bias=numba_fa.Softcap(2.0)),
    "arrays in it": lambda q, k, v: numba_fa.attention(q, k, v, mask="causal", bias=numba_fa.ALiBi(torch.ones(4))),
    "sinks": lambda q, k, v: numba_fa.attention(q, k, v, mask="causal", sink_logits=torch.ones(4)),
    "fewer queries": lambda q, k, v: numba_fa.attention(q[:, :7], k, v, mask="causal"),
    "transposed": lambda q, k, v: numba_fa.attention(q.transpose(1, 2).contiguous().transpose(1, 2), k, v, mask="causal"),
    "odd address": lambda q, k, v: numba_fa.attention(
        torch.cat([q.new_zeros(1), q.flatten()])[1:].view(q.shape), k, v, mask="causal"
    ),
    "k is v": lambda q, k, v: numba_fa.attention(q, k, k, mask="causal"),
    "half": lambda q, k, v: numba_fa.attention(q.half(), k.half(), v.half(), mask="causal").float(),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_what_is_unlike_the_call_made_before_is_seen(made_before, name):
    def results():
        out = UNLIKE[name](*made_before)
        learnt = [x for x in made_before if out.requires_grad]
        return [out, *(torch.autograd.grad(out.square().sum(), learnt, allow_unused=True) if learnt else ())]

    found = [results() for _ in range(4)]
    api.forget()
    expected = results()
    for others in found:
        assert others[0].requires_grad == expected[0].requires_grad == (name != "nothing is learnt")
        assert [x is None for x in others] == [x is None for x in expected]
        assert all(torch.equal(x, y) for x, y in zip(others, expected) if x is not None)


def test_what_goes_on_around_a_call_made_before_is_seen(made_before):
    def out(q, k, v):
        return numba_fa.attention(q, k, v, mask="causal")

    expected = out(*made_before)
    with torch.no_grad():
        assert not out(*made_before).requires_grad
    with Listening() as mode:
        assert torch.equal(out(*made_before), expected)
    assert mode.heard == ["numba_fa::attention"]
    for dtype in (torch.bfloat16, torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype=dtype):
            assert out(*made_before).dtype is dtype and out(*made_before).requires_grad
    assert torch.equal(torch.vmap(out)(*(torch.stack([x, x]) for x in made_before))[1], expected)
    functional = torch.func.grad(lambda *x: out(*x).square().sum())(*made_before)
    torch.testing.assert_close(functional, torch.autograd.grad(out(*made_before).square().sum(), made_before[0])[0])
    assert torch.equal(out(*made_before), expected) and out(*made_before).requires_grad


def test_autocast_to_another_dtype_after_calls_made_before():
    """Tensors of autocast's own dtype are recorded at once, and those of another are cast first."""
    halves = [x.detach().bfloat16().requires_grad_() for x in qkv()]
    api.forget()
    for dtype in (torch.bfloat16, torch.float16, torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            for _ in range(4):
                out = numba_fa.attention(*halves, mask="causal")
                assert out.dtype is dtype
        assert torch.autograd.grad(out.sum(), halves)[0].dtype is torch.bfloat16
    assert numba_fa.attention(*halves, mask="causal").dtype is torch.bfloat16


@pytest.mark.parametrize("grad", [False, True])
def test_zeros_of_both_signs_are_two_numbers(grad):
    """0.0 == -0.0, and a function may tell them apart."""
    q, k, v = qkv(grad)
    def signed(score, b, h, q_idx, kv_idx, zero):
        return score + math.copysign(1.0, zero) * kv_idx * 0.1

    first, second, again = (numba_fa.attention(q, k, v, bias=numba_fa.ScoreMod(signed, zero)) for zero in (0.0, -0.0, 0.0))
    rising = 0.1 * torch.arange(23)
    for out, add in ((first, rising), (second, -rising), (again, rising)):
        torch.testing.assert_close(out.double(), plain(q, k, v, add=add)[0].double(), rtol=1e-4, atol=1e-5)
