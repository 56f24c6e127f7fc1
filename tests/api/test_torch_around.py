"""Calls inside of torch.func's transforms of something else: as torch's own attention, of which no transform need know."""

import contextlib
from functools import partial

import pytest

import numba_fa
from numba_fa import ProblemError, UnsupportedError, api, backward
from numba_fa.adapters import torch_around

torch = pytest.importorskip("torch")
from torch.func import functionalize, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap  # noqa: E402

from tests.api.fresh import run_fresh  # noqa: E402
from tests.api.plain_attention import plain  # noqa: E402
from tests.api.tensors import SHAPES, qkv, weights  # noqa: E402

X = torch.randn(SHAPES[0], generator=torch.Generator().manual_seed(4))


@pytest.fixture(autouse=True)
def anew():
    """What is remembered of calls is what a test made itself."""
    api.forget()
    backward.forget()


# What is done with a tensor that f() makes, and with X.
AROUND = {
    "grad": lambda f: grad(lambda x: (f() * x * x).sum())(X),
    "grad, written into": lambda f: grad(lambda x: f().mul_(x).sum())(X),
    "grad of grad": lambda f: grad(lambda x: grad(lambda x: (f() * x**3).sum())(x).sum())(X),
    "vjp": lambda f: vjp(lambda x: f() * x, X)[1](X)[0],
    "jacrev": lambda f: jacrev(lambda by: (f() * X * by).sum())(torch.ones(16)),
    "jvp": lambda f: jvp(lambda x: f() * x * x, (X,), (X,))[1],
    "jacfwd": lambda f: jacfwd(lambda by: (f() * X * by).sum())(torch.ones(16)),
    "hessian": lambda f: hessian(lambda by: (f() * X).sum() * by.prod())(torch.ones(3)),
    "vmap": lambda f: vmap(lambda x: f()[0, 0, 0] * x)(X),
    "vmap of nothing else": lambda f: vmap(lambda x: f())(X),
    "vmap of grad": lambda f: vmap(grad(lambda x: (f()[0] * x * x).sum()))(X),
    "grad of vmap": lambda f: grad(lambda x: vmap(lambda x: (f()[0] * x * x).sum())(x).sum())(X),
    "functionalize": lambda f: functionalize(lambda x: f() * x)(X),
    "grad without grad": lambda f: torch.no_grad()(grad(lambda x: (f() * x * x).sum()))(X),
    "inference": lambda f: torch.inference_mode()(lambda: vmap(lambda x: f()[0, 0, 0] * x)(X))(),
}


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("warm", [0, 4])
@pytest.mark.parametrize("learnt", [False, True])
def test_attention(name, warm, learnt):
    """Inside, and again outside; also of tensors whose gradients torch records beside the transform."""
    if learnt and name == "functionalize":
        pytest.skip("torch has no rule of it for an autograd.Function")
    arrays = qkv(learnt and name != "inference")
    expected = [numba_fa.attention(*arrays, mask="causal") for _ in range(warm + 1)][0].detach().clone()
    if not warm:
        api.forget()
    for _ in range(2):
        for _ in range(3):
            found = AROUND[name](lambda: numba_fa.attention(*arrays, mask="causal"))
            torch.testing.assert_close(found.detach(), AROUND[name](expected.clone), rtol=1e-6, atol=1e-6)
        again = numba_fa.attention(*arrays, mask="causal")
        assert torch.equal(again, expected) and again.requires_grad is arrays[0].requires_grad


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("warm", [0, 4])
def test_attention_backward(name, warm):
    q, k, v = qkv(False)
    sink, slopes = torch.ones(4), torch.ones(4)
    given = {"bias": [numba_fa.ALiBi(slopes), numba_fa.Softcap(5.0)], "sink_logits": sink}
    out, lse = numba_fa.attention(q, k, v, **given, return_lse=True)
    arrays = weights(out), q, k, v, out, lse

    def gradients():
        return numba_fa.attention_backward(*arrays, **given, wanted=("q", "v", "bias", "sink"))

    def in_one():
        found = gradients()
        assert type(found) is backward.Gradients and found.dk is None and found.dbias[1] is None
        return found.dq * found.dv.sum() * found.dbias[0].sum() * found.dsink.sum()

    expected = in_one()
    for _ in range(warm):
        gradients()
    if not warm:
        backward.forget()
    for _ in range(2):
        for _ in range(3):
            torch.testing.assert_close(AROUND[name](in_one), AROUND[name](expected.clone), rtol=1e-5, atol=1e-5)
        assert torch.equal(in_one(), expected)


def test_the_lse_masks_and_biases():
    q, k, v = qkv(False)
    lengths, slopes = torch.tensor([7, 23], dtype=torch.int32), torch.rand(4)

    def loss(x, y):
        table = numba_fa.block_mask(numba_fa.KeyPadding(lengths), batch=2, seqlen_q=19, seqlen_k=23)
        masked = numba_fa.attention(q, k, v, mask=table, bias=numba_fa.ALiBi(slopes))
        out, lse = numba_fa.attention(q, k, v, sink_logits=slopes, return_lse=True)
        return (masked * x).sum() + (out * x).sum() + (lse * y).sum()

    def truth():
        out, lse = numba_fa.attention(q, k, v, sink_logits=slopes, return_lse=True)
        return numba_fa.attention(q, k, v, mask=numba_fa.KeyPadding(lengths), bias=numba_fa.ALiBi(slopes)) + out, lse

    for found, expected in zip(grad(loss, argnums=(0, 1))(X, torch.ones(2, 4, 19)), truth()):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast(dtype):
    q, k, v = qkv(False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = numba_fa.attention(q, k, v)
        found = grad(lambda x: (numba_fa.attention(q, k, v) * x).sum())(X)
    assert torch.equal(found, expected.to(found.dtype)) and expected.dtype is torch.bfloat16


def test_others_of_the_same_shapes_are_transformed():
    """By the same transform, and by the one around it."""
    q, k, v = qkv(False)
    for _ in range(4):
        numba_fa.attention(q, k, v)
    found = grad(lambda q: (numba_fa.attention(k.repeat(1, 1, 2, 1)[:, :19], k, v) * numba_fa.attention(q, k, v)).sum())(q)
    nested = grad(lambda q: grad(lambda x: (numba_fa.attention(q, k, v) * x).sum())(X).sum())(q)
    learnt = q.clone().requires_grad_()
    out = plain(learnt, k, v)[0].float()
    constant = plain(k.repeat(1, 1, 2, 1)[:, :19], k, v)[0].float()
    for gradient, by in ((found, constant), (nested, torch.ones_like(out))):
        (expected,) = torch.autograd.grad(out, learnt, by, retain_graph=True)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_out_is_written_and_returned():
    q, k, v = qkv(False)
    expected, out = numba_fa.attention(q, k, v, return_lse=True), torch.zeros(SHAPES[0])

    def loss(x):
        made, lse = numba_fa.attention(q, k, v, out=out, return_lse=True)
        assert made is out
        return (made * x).sum() + lse.sum()

    for _ in range(3):
        version = out.zero_()._version
        assert torch.equal(grad(loss)(X), expected[0]) and torch.equal(out, expected[0]) and out._version == version + 1


def test_what_a_transform_has_is_refused_by_its_name():
    """Where only memory will do: out, and what plans take."""
    q, k, v = qkv(False)
    out = numba_fa.attention(q, k, v)
    plan, several = numba_fa.plan(q, k, v), torch.stack([out, out])
    for call, name in (
        (lambda x: numba_fa.attention(q, k, v, out=x), "out: "),
        (lambda x: numba_fa.explain(x, k, v), "q: "),
        (lambda x: plan.run(x, k, v, out), ""),
    ):
        with pytest.raises(ProblemError, match=f"{name}a tensor without memory of its own, as those of torch.func"):
            vmap(call)(several)


def both_ways(q, k, v, x=0.0, **given):
    """Gradients by what the forward left inside of the same transform."""
    out, lse = numba_fa.attention(q, k, v, return_lse=True, **given)
    wanted = ("q", "k", "v", "bias", "sink") if given else "q"
    return numba_fa.attention_backward(out + x, q, k, v, out, lse, dlse=lse * 2, wanted=wanted, **given)


@pytest.mark.parametrize("name", AROUND)
def test_there_and_back(name):
    arrays = qkv(False)
    expected = both_ways(*arrays).dq
    for _ in range(3):
        torch.testing.assert_close(AROUND[name](lambda: both_ways(*arrays).dq), AROUND[name](expected.clone))


@pytest.mark.parametrize("several", ["dout", "slopes", "q", "sink"])
@pytest.mark.parametrize("inside", [False, True])
def test_vmap_of_attention_backward(several, inside):
    """Also inside of a transform of something else."""
    q, k, v = qkv(False)

    def gradients(x):
        slopes, sink = (x if several == name else torch.ones(4) for name in ("slopes", "sink"))
        biases = [numba_fa.Softcap(3.0), numba_fa.ALiBi(slopes)]
        found = both_ways(
            x if several == "q" else q, k, v, x if several == "dout" else 0.0, bias=biases, sink_logits=sink, mask="causal"
        )
        assert found.dbias[0] is None
        return found.dq, found.dk, found.dv, found.dbias[1], found.dsink

    xs = torch.rand(3, *(q.shape if several in ("dout", "q") else (4,)))
    expected = [torch.stack(same) for same in zip(*map(gradients, xs))]
    found = vmap(gradients)(xs)
    if inside:
        found = grad(lambda y: sum((x * y).sum() for x in vmap(gradients)(xs)))(torch.ones(()))
        expected = sum(x.sum() for x in expected)
    torch.testing.assert_close(found if inside else list(found), expected, rtol=1e-4, atol=1e-4)


def test_derivatives_of_gradients_are_refused():
    q, k, v = qkv(False)
    out, lse = numba_fa.attention(q, k, v, return_lse=True)
    def dq(dout):
        return numba_fa.attention_backward(dout, q, k, v, out, lse).dq

    for transform in (
        lambda: grad(lambda x: dq(x).sum())(X), lambda: vmap(grad(lambda x: dq(x).sum()))(torch.stack([X, X])),
        lambda: grad(lambda x: vmap(dq)(x).sum())(torch.stack([X, X])), lambda: jvp(dq, (X,), (X,)),
        lambda: grad(lambda x: grad(lambda y: (dq(x) * y).sum())(X).sum())(X),
        lambda: jvp(lambda x: grad(lambda y: (dq(x) * y).sum())(X), (X,), (X,)),
        lambda: grad(lambda x: jvp(lambda y: dq(x) * y, (X,), (X,))[1].sum())(X),
        lambda: vmap(lambda x: jvp(dq, (x,), (x,)))(torch.stack([X, X])),
    ):  # fmt: skip
        with pytest.raises(UnsupportedError):
            transform()


def test_faults_of_gradients_inside():
    q, k, v = qkv(False)
    for given, fault in (
        ({"mask": "casual", "scale": "x"}, "2 faults(.|\n)*casual"), ({"wanted": "w"}, "wanted holds 'w'"),
        ({"bias": numba_fa.ALiBi(torch.ones(5))}, "slopes"), ({"lse": None}, "lse is None"),
    ):  # fmt: skip
        arguments = {"out": q, "lse": torch.ones(2, 4, 19), **given}
        gradients = partial(numba_fa.attention_backward, q=q, k=k, v=v, **arguments)
        for call in (
            lambda f: vmap(f)(torch.stack([q, q])), lambda f: grad(lambda x: f(q * 1).dq.sum() * x)(torch.ones(())),
            lambda f: grad(lambda x: f(q).dq.sum() * x)(torch.ones(())),
        ):  # fmt: skip
            with pytest.raises(ProblemError, match=fault):
                call(gradients)


def test_calls_made_before_are_short_inside(monkeypatch):
    q, k, v = qkv(False)
    out, lse = numba_fa.attention(q, k, v, return_lse=True)

    def both():
        return numba_fa.attention(q, k, v) + numba_fa.attention_backward(out, q, k, v, out, lse).dq

    expected = [both() for _ in range(3)][0]
    monkeypatch.setattr(api, "_checked_call", None)
    monkeypatch.setattr(backward, "_checked_call", None)
    checks = [call.check for calls in (api._CALLS, backward._CALLS) for call in calls.recent.values()]
    for _ in range(3):
        assert torch.equal(grad(lambda x: (both() * x).sum())(X), expected)
        assert torch.equal(both(), expected)
    assert checks == [call.check for calls in (api._CALLS, backward._CALLS) for call in calls.recent.values()] != []


def test_a_torch_that_tells_nothing_of_transforms(monkeypatch):
    """It raises there; what is remembered stays right."""
    q, k, v = qkv(False)
    expected = [numba_fa.attention(q, k, v) for _ in range(3)][0]
    nothing = torch_around._Torch(lambda: False, lambda: False, contextlib.nullcontext)
    monkeypatch.setattr(torch_around, "_torch", lambda: nothing)
    for _ in range(3):
        assert torch.equal(vmap(lambda x: numba_fa.attention(q, k, v))(X)[1], expected)
        with pytest.raises(RuntimeError, match="storage"):
            grad(lambda x: (numba_fa.attention(q, k, v) * x).sum())(X)
        assert torch.equal(numba_fa.attention(q, k, v), expected)


def test_a_first_call_inside():
    """What is found out about torch at the first call is found out there too."""
    run_fresh("""if True:
        import torch, numba_fa
        from numba_fa.adapters import torch as tensors
        q = torch.ones(1, 8, 1, 16)
        assert torch.equal(torch.func.grad(lambda x: (numba_fa.attention(q, q, q) * x).sum())(q), q)
        library = tensors.library()
        assert library.guard is not None and library.writes(q) is torch._C._increment_version
    """)
