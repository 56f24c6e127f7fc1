"""Forward-mode differentiation, which attention has none of: whatever has a tangent is refused before it is lost."""

import contextlib

import numpy as np
import pytest

import numba_fa
from numba_fa import UnsupportedError, api, backward

torch = pytest.importorskip("torch")
import torch.autograd.forward_ad as forward_ad  # noqa: E402
from torch.testing._internal.two_tensor import TwoTensor  # noqa: E402

from tests.api.tensors import SHAPES, Listening, qkv, weights  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own, at make_dual
refused = pytest.raises(UnsupportedError, match=r"has a tangent(.|\n)*torch.func.vjp, grad or jacrev")


@pytest.fixture(autouse=True)
def anew():
    """What is remembered of calls is what a test made itself."""
    api.forget()
    backward.forget()


def arguments(grad=False):
    """A call with every kind of array that may have a tangent, and how to make it."""
    generator = torch.Generator().manual_seed(5)
    arrays = dict(zip("qkv", qkv(grad)))
    arrays["array"] = torch.randn(1, 4, 19, 23, generator=generator)
    arrays["slopes"], arrays["sink"] = torch.rand(4, generator=generator), torch.rand(4, generator=generator)
    arrays["aux"] = torch.rand(23, generator=generator)
    return arrays


def lifted(score, b, h, q_idx, kv_idx, aux):
    return score + aux[kv_idx]


def attend(q, k, v, array, slopes, sink, aux, **options):
    biases = [numba_fa.DenseBias(array), numba_fa.ALiBi(slopes), numba_fa.ScoreMod(lifted, aux)]
    return numba_fa.attention(q, k, v, bias=biases, sink_logits=sink, **options)


def test_the_error_names_all_that_have_one():
    q, k, v = qkv(False)
    with forward_ad.dual_level():
        for arrays, told in (
            ((q, dual(k), v), "k has a tangent, and"), ((dual(q), dual(k), v), "q and k have tangents, and"),
            ((dual(q), dual(k), dual(v)), "q, k and v have tangents, and"),
        ):  # fmt: skip
            with pytest.raises(UnsupportedError, match=f"^{told}"):
                numba_fa.attention(*arrays)


def dual(x):
    return forward_ad.make_dual(x, torch.ones_like(x))


@pytest.mark.parametrize("which", ["q", "k", "v", "array", "slopes", "sink", "aux"])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("made_before", [0, 4])
def test_a_dual_is_refused(which, grad, made_before):
    arrays = arguments()
    if which != "aux":  # of which there is no gradient either
        arrays[which].requires_grad_(grad)
    for _ in range(made_before):
        expected = attend(**arrays)
    with forward_ad.dual_level(), refused as error:
        attend(**{**arrays, which: dual(arrays[which])})
    name = {"array": "dense", "slopes": "slopes", "sink": "sink_logits", "aux": "aux 0"}.get(which, which)
    assert name in str(error.value).partition(" has a tangent")[0]
    if made_before:
        assert torch.equal(attend(**arrays), expected)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_dual_in_a_short_call_made_before(which, grad):
    """One of no arrays but q, k and v, which only a look at those lets run."""
    arrays = qkv(grad)
    for _ in range(4):
        numba_fa.attention(*arrays, mask="causal")
    assert api._RECORDED if grad else api._RECENT
    with forward_ad.dual_level():
        duals = [dual(x) if i == which else x for i, x in enumerate(arrays)]
        for again in range(2):
            with refused:
                numba_fa.attention(*duals, mask="causal")
            if again == 0:
                numba_fa.attention(*arrays, mask="causal")  # which leaves the call remembered


def test_nothing_is_launched(monkeypatch):
    q, k, v = qkv(False)
    numba_fa.attention(q, k, v)
    monkeypatch.setattr(api._Call, "run", None)
    with forward_ad.dual_level(), refused:
        numba_fa.attention(dual(q), k, v)
    with refused:
        torch.func.jvp(lambda q: numba_fa.attention(q, k, v), (q,), (q,))


@pytest.mark.parametrize("grad", [False, True])
def test_others_are_attended_to_in_a_level(grad):
    arrays = arguments(grad)
    expected = attend(**arrays)
    short = numba_fa.attention(*[arrays[x] for x in "qkv"])
    for _ in range(2):
        with forward_ad.dual_level():
            followed = dual(arrays["q"])
            for _ in range(4):
                found = attend(**arrays)
                assert torch.equal(found, expected) and found.requires_grad is grad
                assert torch.equal(numba_fa.attention(*[arrays[x] for x in "qkv"]), short)
            assert torch.equal(attend(**{**arrays, "q": followed.detach()}), expected)
            product = followed.detach() * numba_fa.attention(*[arrays[x] for x in "qkv"]) + followed
            assert forward_ad.unpack_dual(product).tangent is not None
        assert torch.equal(attend(**arrays), expected)  # and one that was a dual is none any more
        assert torch.equal(attend(**{**arrays, "q": followed}), expected)


def test_where_torch_follows_nothing_a_dual_is_attended_to():
    q, k, v = qkv(False)
    expected = numba_fa.attention(q, k, v)
    with forward_ad.dual_level():
        followed = dual(q)
        with torch.inference_mode():
            assert torch.equal(numba_fa.attention(followed, k, v), expected)
        with torch.no_grad(), refused:  # which is about reverse mode alone
            numba_fa.attention(followed, k, v)


def test_an_array_that_became_a_dual_in_place():
    q, k, v = qkv(False)
    for _ in range(4):
        numba_fa.attention(q, k, v)
    with forward_ad.dual_level():
        q.mul_(dual(torch.ones(16)))
        with refused:
            numba_fa.attention(q, k, v)


def test_out_that_has_a_tangent():
    """It would keep the one of what it held."""
    q, k, v = qkv(False)
    out = torch.zeros(SHAPES[0])
    for _ in range(4):
        numba_fa.attention(q, k, v, out=out)
    with forward_ad.dual_level():
        with pytest.raises(UnsupportedError, match="^out has a tangent"):
            numba_fa.attention(q, k, v, out=dual(out))
        assert numba_fa.attention(q, k, v, out=out) is out


def test_an_array_of_torch_beside_q_of_another_library():
    q, k, v = (x.numpy() for x in qkv(False))
    array = torch.rand(19, 23)
    assert isinstance(numba_fa.attention(q, k, v, bias=numba_fa.DenseBias(array)), np.ndarray)
    with forward_ad.dual_level(), refused:
        numba_fa.attention(q, k, v, bias=numba_fa.DenseBias(dual(array)))


@pytest.mark.parametrize("function", [
    lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),)),
    lambda f, x: torch.no_grad()(torch.func.jvp)(f, (x,), (torch.ones_like(x),)),
    lambda f, x: torch.func.jacfwd(lambda by: f(x * by))(torch.ones(())),
    lambda f, x: torch.func.linearize(f, x)[1](torch.ones_like(x)),
    lambda f, x: torch.func.hessian(lambda by: f(x * by).sum())(torch.ones(())),
    lambda f, x: torch.func.jvp(torch.vmap(f), (torch.stack([x, x]),), (torch.ones(2, *x.shape),)),
    lambda f, x: torch.vmap(lambda x: torch.func.jvp(f, (x,), (torch.ones_like(x),)))(torch.stack([x, x])),
    lambda f, x: torch.func.jvp(torch.func.grad(lambda x: f(x).sum()), (x,), (torch.ones_like(x),)),
    lambda f, x: torch.func.grad(lambda x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1].sum())(x),
    lambda f, x: torch.autograd.functional.jacobian(
        lambda by: f(x * by), torch.ones(()), strategy="forward-mode", vectorize=True
    ),
], ids=["jvp", "jvp without grad", "jacfwd", "linearize", "hessian", "jvp of vmap", "vmap of jvp", "jvp of grad",
        "grad of jvp", "forward-mode jacobian"])  # fmt: skip
@pytest.mark.parametrize("which", ["q", "slopes"])
@pytest.mark.parametrize("warm", [0, 4])
def test_transforms_of_forward_mode(function, which, warm):
    q, k, v = qkv(False)
    slopes = torch.rand(4)
    def f(x):
        given = {"q": q, "slopes": slopes, which: x}
        return numba_fa.attention(given["q"], k, v, bias=numba_fa.ALiBi(given["slopes"]))

    for _ in range(warm):
        f({"q": q, "slopes": slopes}[which])
    with refused:
        function(f, {"q": q, "slopes": slopes}[which])


INPUTS = ["dout", "q", "k", "v", "out", "lse", "dlse", "array", "sink"]


@pytest.mark.parametrize("which", INPUTS)
@pytest.mark.parametrize("made_before", [0, 4])
def test_attention_backward(which, made_before):
    q, k, v = qkv(False)
    array, sink = torch.rand(19, 23), torch.rand(4)
    out, lse = numba_fa.attention(q, k, v, bias=numba_fa.DenseBias(array), sink_logits=sink, return_lse=True)
    arrays = dict(zip(INPUTS, (weights(out), q, k, v, out, lse, weights(lse), array, sink)))

    def gradients(array, sink, **arrays):
        return numba_fa.attention_backward(bias=numba_fa.DenseBias(array), sink_logits=sink, **arrays)

    expected = [gradients(**arrays) for _ in range(made_before)]
    with forward_ad.dual_level():
        followed = {**arrays, which: dual(arrays[which])}
        with refused:
            gradients(**followed)
        for _ in range(2):
            found = gradients(**arrays)
        assert all(torch.equal(found.dq, x.dq) for x in expected)
        with refused:
            gradients(**followed)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("watched", [False, True])
def test_a_dual_that_goes_back_through_a_recorded_call(create_graph, watched):
    """Also where the call was an operator."""
    q, k, v = qkv()
    with Listening() if watched else contextlib.nullcontext():
        out = numba_fa.attention(q, k, v)
    with forward_ad.dual_level():
        torch.autograd.grad(out, q, weights(out), retain_graph=True)
        with pytest.raises(UnsupportedError, match="^dout has a tangent"):
            torch.autograd.grad(out, q, dual(weights(out)), create_graph=create_graph)


@pytest.mark.parametrize("which", ["q", "k", "v", "out", "lse", "array", "sink"])
def test_plans(which):
    q, k, v = qkv(False)
    arrays = {"q": q, "k": k, "v": v, "out": torch.zeros(SHAPES[0]), "lse": torch.zeros(2, 4, 19)}
    kept = {"array": torch.rand(19, 23), "sink": torch.rand(4)}
    plan = numba_fa.plan(q, k, v, bias=numba_fa.DenseBias(kept["array"]), sink_logits=kept["sink"])
    for _ in range(3):
        plan.run(**arrays)
    expected = arrays["out"].clone()
    with forward_ad.dual_level():
        plan.run(**arrays)
        if which in kept:
            kept[which].mul_(dual(torch.ones(())))
        given = arrays if which in kept else {**arrays, which: dual(arrays[which])}
        for _ in range(2):
            with refused:
                plan.run(**given)
        if which not in kept:
            for _ in range(2):
                plan.run(**arrays)
    plan.run(**arrays)
    assert torch.equal(arrays["out"], expected)
    with forward_ad.dual_level(), refused:
        numba_fa.plan(dual(q), k, v)


def test_flash_attn_func():
    q, k, v = qkv(False)
    for deterministic in (False, True):
        numba_fa.flash_attn_func(q, k, v, deterministic=deterministic)
        with forward_ad.dual_level(), refused:
            numba_fa.flash_attn_func(q, dual(k), v, deterministic=deterministic)


@pytest.mark.parametrize("warm", [0, 4])
def test_under_autocast_and_before_who_else_looks(warm):
    q, k, v = qkv(False)
    def refused_under(context, q=q):
        with context:
            for _ in range(warm):
                numba_fa.attention(q, k, v)
            with forward_ad.dual_level():
                numba_fa.attention(q, k, v)
                with refused:
                    numba_fa.attention(q, dual(k), v)

    refused_under(torch.autocast("cpu", dtype=torch.bfloat16))
    refused_under(Listening())
    refused_under(contextlib.nullcontext(), TwoTensor(q, q.clone()))


class TestCompiled:
    """torch.compile's programs: of what has a tangent when they are called, and of what they give one themselves."""

    @pytest.fixture(autouse=True)
    def nothing_compiled(self):
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    @pytest.mark.parametrize("before", [False, True])
    def test_of_duals(self, backend, before):
        q, k, v = qkv(False)
        compiled = torch.compile(lambda q: numba_fa.attention(q, k, v), fullgraph=True, backend=backend)
        if before:
            compiled(q)
        with forward_ad.dual_level():
            for _ in range(2):
                with refused:
                    compiled(dual(q))
            assert torch.equal(compiled(q), numba_fa.attention(q, k, v))

    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    def test_of_what_becomes_one_inside(self, backend):
        q, k, v = qkv(False)

        def through(q):
            return torch.func.jvp(lambda q: numba_fa.attention(q, k, v), (q,), (torch.ones_like(q),))[1]

        def of_slopes(slopes):
            with forward_ad.dual_level():
                out = numba_fa.attention(q, k, v, bias=numba_fa.ALiBi(dual(slopes)))
                return forward_ad.unpack_dual(out).tangent

        for function, array in ((through, q), (of_slopes, torch.rand(4))):
            with pytest.raises(Exception, match="has a tangent"):
                torch.compile(function, fullgraph=True, backend=backend)(array)

    def test_of_others(self):
        """Under jvp of something else."""
        q, k, v = qkv(False)

        def beside(x):
            with forward_ad.dual_level():
                made = numba_fa.attention(q, k, v) * dual(x)
                return forward_ad.unpack_dual(made).tangent

        found = torch.compile(beside, fullgraph=True, backend="aot_eager")(torch.ones(16))
        assert torch.equal(found, numba_fa.attention(q, k, v))
