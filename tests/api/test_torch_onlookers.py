"""Whoever besides autograd has to see a call, or the way back through it: tracers, modes, classes of tensors, hooks."""

import warnings

import pytest

import numba_fa

torch = pytest.importorskip("torch")
from torch.testing._internal.two_tensor import TwoTensor  # noqa: E402

from tests.api.plain_attention import plain  # noqa: E402
from tests.api.tensors import SHAPES, Listening, qkv, weights  # noqa: E402


def attend(q, k, v):
    return numba_fa.attention(q, k, v, mask="causal")


def warmed(warm, grad):
    """q, k, v of a call that was made that often before."""
    arrays = qkv(grad)
    for _ in range(warm):
        attend(*arrays)
    return arrays


WARM = pytest.mark.parametrize("warm", [0, 4])
GRAD = pytest.mark.parametrize("grad", [False, True])


@WARM
@GRAD
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_jit_trace(warm, grad):
    arrays = warmed(warm, grad)
    traced = torch.jit.trace(attend, arrays)
    assert "numba_fa::attention" in str(traced.graph)
    others = qkv(seed=3)
    assert torch.equal(traced(*others), attend(*others))


@WARM
@GRAD
@pytest.mark.parametrize("pre_dispatch", [False, True])
def test_make_fx(warm, grad, pre_dispatch):
    from torch.fx.experimental.proxy_tensor import make_fx

    arrays = warmed(warm, grad)
    graph = make_fx(attend, pre_dispatch=pre_dispatch)(*arrays)
    others = qkv(grad=False, seed=3)
    assert "numba_fa.attention" in graph.code and torch.equal(graph(*others), attend(*others))


@WARM
@GRAD
def test_a_dispatch_mode(warm, grad):
    arrays = warmed(warm, grad)
    with Listening() as mode:
        attend(*arrays)
    assert mode.heard == ["numba_fa::attention"]


def test_a_dispatch_mode_sees_results_written_where_they_are_wanted():
    q, k, v = qkv(grad=False)
    out = torch.zeros(SHAPES[0])
    with Listening() as mode:
        assert numba_fa.attention(q, k, v, out=out) is out
        with pytest.raises(numba_fa.UnsupportedError, match="out must be of q's dtype and shape"):
            numba_fa.attention(q, k, v, out=out[:, 1:])
    assert mode.heard[0] == "numba_fa::attention" and torch.equal(out, numba_fa.attention(q, k, v))


def test_compiled_autograd():
    """torch.compile reads the backward of a call that it did not read."""
    import torch._dynamo

    q, k, v = qkv()
    eager = torch.compiler.disable(lambda q: attend(q, k, v).square().sum())
    with torch._dynamo.config.patch(compiled_autograd=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.compile(lambda: eager(q).backward(), backend="eager")()
    torch._dynamo.reset()
    assert torch.equal(q.grad, torch.autograd.grad(attend(q, k, v).square().sum(), q)[0])


@pytest.mark.parametrize("which", ["q", "sink"])
@GRAD
def test_a_class_of_two_tensors(which, grad):
    """Each of the two gets its own result; it may be the sink alone that stands for others."""
    q, k, v = qkv(grad)
    sink = torch.zeros(4)
    expected = [numba_fa.attention(q * n, k, v, sink_logits=sink + n - 1) for n in (1, 2)]
    if which == "q":
        expected[1] = numba_fa.attention(q * 2, k, v, sink_logits=sink)
        found = numba_fa.attention(TwoTensor(q * 1, q * 2), k, v, sink_logits=sink)
    else:
        expected[1] = numba_fa.attention(q, k, v, sink_logits=sink + 1)
        found = numba_fa.attention(q, k, v, sink_logits=TwoTensor(sink, sink + 1))
    assert torch.equal(found.a, expected[0]) and torch.equal(found.b, expected[1])


def test_hooks_that_give_back_another_class():
    q, k, v = qkv()
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: TwoTensor(x.detach(), x.detach().clone()))
    with hooks:
        out = attend(q, k, v)
    w = weights(out)
    for found, expected in zip(torch.autograd.grad(out, (q, k, v), w), torch.autograd.grad(attend(q, k, v), (q, k, v), w)):
        assert torch.equal(found.a, expected) and torch.equal(found.b, expected)


def test_tensors_that_are_not_stored_as_they_read():
    """Negated when read, or zeros without memory."""
    q, k, v = qkv()
    expected = torch.autograd.grad(attend(q, k, v), (q, k, v), torch.ones(SHAPES[0]))
    ones = torch._neg_view(-torch.ones(SHAPES[0]))
    assert ones.is_neg()
    assert all(map(torch.equal, torch.autograd.grad(attend(q, k, v), (q, k, v), ones), expected))
    nothing = torch.autograd.grad(attend(q, k, v), (q, k, v), torch._efficientzerotensor(SHAPES[0]))
    assert not any(x.any() for x in nothing)
    negated = torch._neg_view(-q)
    assert torch.equal(attend(negated, k, v), attend(q, k, v))


def test_the_meta_device():
    made = [x.to("meta").requires_grad_() for x in qkv(grad=False)]
    out = attend(*made)
    out.sum().backward()
    assert out.device.type == "meta" and out.shape == SHAPES[0] and made[1].grad.shape == SHAPES[1]


def test_a_plain_subclass_is_kept():
    class Named(torch.Tensor):
        pass

    q, k, v = (x.detach().as_subclass(Named).requires_grad_() for x in qkv())
    out, lse = numba_fa.attention(q, k, v, return_lse=True)
    assert type(out) is type(lse) is Named
    true_out, _ = plain(*(x.detach().as_subclass(torch.Tensor) for x in (q, k, v)))
    torch.testing.assert_close(out.detach().as_subclass(torch.Tensor).double(), true_out.double(), rtol=1e-4, atol=1e-5)
