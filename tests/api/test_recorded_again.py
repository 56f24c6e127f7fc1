"""Calls that torch records, made again: quickly where all is as before, and as at first where anything is not."""

import math

import pytest

import numba_fa
from numba_fa import api, backward
from numba_fa.adapters import torch_calls, torch_ops

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


def test_the_way_back_of_a_call_made_before_is_short(made_before, monkeypatch):
    """Of a gradient that lies as kernels take it, and nothing is looked at anew."""
    q, k, v = made_before
    out = numba_fa.attention(q, k, v, mask="causal")
    for module, name in ((backward, "_remembered"), (backward, "_checked_call"), (torch_ops, "needed")):
        monkeypatch.setattr(module, name, None)
    w = weights(out)
    same_gradients((out * w).sum(), (plain(q, k, v, causal=True)[0] * w).sum(), (q, k, v))


def back(out, arrays, dout, **options):
    return torch.autograd.grad(out, arrays, dout, retain_graph=True, **options)


BACKS = {
    "as before": lambda out, lse, qkv, dout: back(out, qkv, dout),
    "expanded": lambda out, lse, qkv, dout: back(out, qkv, dout[:1, :1].expand_as(dout)),
    "transposed": lambda out, lse, qkv, dout: back(out, qkv, dout.transpose(1, 2).contiguous().transpose(1, 2)),
    "odd address": lambda out, lse, qkv, dout: back(
        out, qkv, torch.cat([dout.new_zeros(1), dout.flatten()])[1:].view(dout.shape)
    ),
    "of q": lambda out, lse, qkv, dout: back(out, qkv[:1], dout),
    "of k and v": lambda out, lse, qkv, dout: back(out, qkv[1:], dout),
    "of the LSE": lambda out, lse, qkv, dout: back(lse, qkv, dout[..., 0].transpose(1, 2)),
    "of both": lambda out, lse, qkv, dout: back((out, lse), qkv, (dout, dout[..., 0].transpose(1, 2).contiguous())),
    "to be gone back through": lambda out, lse, qkv, dout: back(out, qkv, dout, create_graph=True),
    "batched": lambda out, lse, qkv, dout: back(out, qkv, torch.stack([dout, -dout]), is_grads_batched=True),
}


@pytest.mark.parametrize("name", BACKS)
def test_a_way_back_that_is_unlike_the_one_before_is_seen(made_before, name):
    """Twice each, after one that is as before, beside a call that nothing was known of."""
    dout = torch.randn(made_before[0].shape, generator=torch.Generator().manual_seed(5))

    def results(times):
        for _ in range(times):
            out, lse = numba_fa.attention(*made_before, mask="causal", return_lse=True)
            back(out, made_before, dout)
            found = BACKS[name](out, lse, made_before, dout)
        return [x.detach() for x in found]

    found = results(3)
    api.forget()
    backward.forget()
    for x, y in zip(found, results(1), strict=True):
        assert torch.equal(x, y)


def test_what_goes_on_around_a_way_back_is_seen(made_before, monkeypatch):
    dout = torch.randn(made_before[0].shape, generator=torch.Generator().manual_seed(5))
    out = numba_fa.attention(*made_before, mask="causal")
    expected, asked = back(out, made_before, dout), []
    with Listening() as mode:
        heard = back(out, made_before, dout)
    assert mode.heard == ["numba_fa::attention_backward"] and all(map(torch.equal, heard, expected))
    with pytest.raises(numba_fa.UnsupportedError, match="second derivatives"):
        (dq, *_) = back(out, made_before, dout, create_graph=True)
        dq.sum().backward()
    with torch.autograd.forward_ad.dual_level():
        tangled = torch.autograd.forward_ad.make_dual(dout, dout)
        with pytest.raises(numba_fa.UnsupportedError, match="tangent"):
            back(out, made_before, tangled)
    run = backward._Call.run
    monkeypatch.setattr(backward._Call, "run", lambda self, *rest: asked.append(self) or run(self, *rest))
    found = [back(out, made_before, dout)]
    torch.use_deterministic_algorithms(True)
    try:
        found += [back(out, made_before, dout) for _ in range(3)]
    finally:
        torch.use_deterministic_algorithms(False)
    found.append(back(out, made_before, dout))
    assert all(all(map(torch.equal, others, expected)) for others in found)
    assert [call is asked[0] for call in asked] == [True, False, False, False, True]  # a kernel of its own where asked for


def test_a_way_back_computes_what_is_needed_of_what_lies_right(made_before, monkeypatch):
    q, k, v = made_before
    dout = torch.randn(q.shape, generator=torch.Generator().manual_seed(5))
    odd, asked, run = torch.cat([dout.new_zeros(1), dout.flatten()])[1:].view(dout.shape), [], backward._Call.run
    monkeypatch.setattr(backward._Call, "run", lambda self, q, *rest: asked.append((self, *rest)) or run(self, q, *rest))
    for _ in range(5):
        back(numba_fa.attention(q, k, v, mask="causal"), [q, k, v], odd)
        call, inputs, _ = asked[-1]
        assert call.returned[:3].count(-1) == 0 and inputs[4] % 16 == 0 and odd.data_ptr() % 16 == 4
    for _ in range(5):
        back(numba_fa.attention(q, k.detach(), v.detach(), mask="causal"), [q], dout)
        call, inputs, _ = asked[-1]
        assert call.returned[:3].count(-1) == 2 and inputs[4] == dout.data_ptr()


def test_a_way_back_heeds_the_backend_of_its_own_time(made_before, monkeypatch):
    out = numba_fa.attention(*made_before, mask="causal")
    dout = torch.ones_like(out)
    back(out, made_before, dout)
    monkeypatch.setenv("NUMBA_FA_BACKEND", "simt")
    with pytest.raises(numba_fa.UnsupportedError):
        back(out, made_before, dout)


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
