"""Recorded calls made again whose masks, biases and sinks hold arrays: others each time, which lie as the first ones did."""

from contextlib import contextmanager

import pytest

import numba_fa
from numba_fa import api, backward
from numba_fa.adapters import torch_calls

torch = pytest.importorskip("torch")
from tests.api.tensors import Listening, parameter, qkv  # noqa: E402


def integers(*shape, seed, high):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int32)


def ordered(*shape, seed, high):
    return integers(*shape, seed=seed, high=high).sort(-1).values.contiguous()


def weighed(score, b, h, q_idx, kv_idx, table):
    return score + table[h, kv_idx] * 0.25


def seen(b, h, q_idx, kv_idx, until):
    return kv_idx < until[b]


def in_blocks(seed):
    mask = numba_fa.MaskMod(seen, integers(2, seed=seed, high=12) + 5)
    return numba_fa.block_mask(mask, seqlen_q=19, seqlen_k=23, batch=2, block_size=(8, 8), like=qkv(False)[0])


# By name: a seed -> the arguments, and the parameters in them that are learnt.
KINDS = {
    "padding": lambda seed: ({"mask": numba_fa.KeyPadding(integers(2, seed=seed, high=20) + 1)}, []),
    "documents": lambda seed: (
        {"mask": numba_fa.Document(*[ordered(2, n, seed=seed, high=3) for n in (19, 23)]) & numba_fa.Causal()}, [],
    ),
    "one array twice": lambda seed: (
        {"bias": [numba_fa.ALiBi(slopes := parameter(4, seed=seed)), numba_fa.ALiBi(slopes)]}, [slopes],
    ),
    "slopes": lambda seed: ({"bias": numba_fa.ALiBi(slopes := parameter(4, seed=seed))}, [slopes]),
    "slopes that are not learnt": lambda seed: ({"bias": numba_fa.ALiBi(parameter(4, seed=seed).detach())}, []),
    "dense, narrow": lambda seed: (
        {"bias": [numba_fa.DenseBias(x := parameter(4, 19, 23, seed=seed, dtype=torch.bfloat16))]}, [x],
    ),
    "a table": lambda seed: ({"bias": [numba_fa.Softcap(9.0), numba_fa.T5Bias(x := parameter(32, 4, seed=seed))]}, [x]),
    "sinks": lambda seed: ({"sink_logits": (sink := parameter(4, seed=seed))}, [sink]),
    "a function's": lambda seed: (
        {"mask": numba_fa.MaskMod(seen, integers(2, seed=seed, high=12) + 9),
         "bias": numba_fa.ScoreMod(weighed, parameter(4, 23, seed=seed).detach())}, [],
    ),
    "blocks": lambda seed: ({"mask": in_blocks(seed)}, []),
    "everything": lambda seed: (
        {"mask": numba_fa.KeyPadding(integers(2, seed=seed, high=20) + 1) & numba_fa.SlidingWindow(9),
         "bias": [numba_fa.ALiBi(x := parameter(4, seed=seed)), numba_fa.Softcap(5.0),
                  numba_fa.DenseBias(y := parameter(4, 1, 23))],
         "sink_logits": (z := parameter(4, seed=seed + 1))}, [x, y, z],
    ),
}  # fmt: skip


def called(q, k, v, options, learnt, seed=5):
    """The output, and all gradients."""
    out = numba_fa.attention(q, k, v, **options)
    dout = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed))
    return [out.detach(), *torch.autograd.grad(out, [q, k, v, *learnt], dout)]


def anew(*arguments):
    """The same of a call that nothing is known of."""
    api.forget()
    backward.forget()
    return called(*arguments)


@contextmanager
def nothing_looked_at_anew(monkeypatch):
    with monkeypatch.context() as patch:
        for module, name in ((torch_calls, "recorded"), (api, "_remembered"), (backward, "_remembered"),
                             (api, "_checked_call"), (backward, "_checked_call")):  # fmt: skip
            patch.setattr(module, name, None)
        yield


def made_before(kind):
    api.forget()
    backward.forget()
    for seed in range(5):
        called(*qkv(seed=seed), *KINDS[kind](seed))


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_made_before_is_short_and_reads_its_own_arrays(kind, monkeypatch):
    made_before(kind)
    calls = [(*qkv(seed=seed), *KINDS[kind](seed)) for seed in (11, 12)]
    with nothing_looked_at_anew(monkeypatch):
        found = [called(*call) for call in calls]
    for results, call in zip(found, calls):
        expected = anew(*call)
        assert len(results) == len(expected) and all(x.dtype == y.dtype for x, y in zip(results, expected))
        for x, y in zip(results, expected):
            assert torch.equal(x, y)
    assert not torch.equal(found[0][0], found[1][0])


def other_slopes(change):
    """A call with slopes, after calls with others; change(slopes) -> those of the call."""
    made_before("slopes")
    slopes = change(parameter(4, seed=11))
    arguments = *qkv(seed=11), {"bias": numba_fa.ALiBi(slopes)}, [slopes] if getattr(slopes, "requires_grad", False) else []
    return called(*arguments), anew(*arguments)


UNLIKE = {
    "not learnt": lambda x: x.detach(),
    "a parameter": lambda x: torch.nn.Parameter(x.detach()),
    "NumPy's": lambda x: x.detach().numpy(),
    "spread out": lambda x: torch.stack([x.detach(), x.detach()], 1)[:, 0].requires_grad_(),
    "odd address": lambda x: torch.cat([x.new_zeros(1), x.detach()])[1:].requires_grad_(),
    "made by others": lambda x: x * 1.0,
}


@pytest.mark.parametrize("name", UNLIKE)
def test_arrays_unlike_those_before_are_seen(name):
    found, expected = other_slopes(UNLIKE[name])
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@pytest.mark.parametrize("look", [torch._neg_view, torch.nn.parameter.Buffer], ids=["negated when read", "a class"])
def test_arrays_that_only_seem_to_lie_so_are_seen(look):
    """Their address, shape and strides are those of before; what they are is told by their dispatch keys or their class."""
    made_before("slopes that are not learnt")
    slopes = look(parameter(4, seed=11).detach())
    found = called(*qkv(seed=11), {"bias": numba_fa.ALiBi(slopes)}, [])
    expected = anew(*qkv(seed=11), {"bias": numba_fa.ALiBi(slopes.clone().detach().resolve_neg())}, [])
    assert all(map(torch.equal, found, expected))


def test_what_changed_between_the_ways_is_refused():
    made_before("slopes")
    q, k, v = qkv(seed=11)
    slopes = parameter(4, seed=11)
    out = numba_fa.attention(q, k, v, bias=numba_fa.ALiBi(slopes))
    with torch.no_grad():
        slopes.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_hooks_may_give_back_arrays_that_lie_otherwise():
    made_before("slopes")
    arguments = *qkv(seed=11), {"bias": numba_fa.ALiBi(slopes := parameter(4, seed=11))}, [slopes]

    def spread(x):
        return torch.stack([x, x], -1)[..., 0] if x.shape == (4,) else x

    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.detach(), spread):
        found = called(*arguments)
    assert all(map(torch.equal, found, anew(*arguments)))


def test_a_mode_hears_a_call_with_arrays_that_was_made_before():
    made_before("everything")
    q, k, v = qkv(seed=11)
    options, learnt = KINDS["everything"](11)
    with Listening() as mode:
        found = called(q, k, v, options, learnt)
    assert mode.heard == ["numba_fa::attention", "numba_fa::attention_backward"]
    assert all(map(torch.equal, found, anew(q, k, v, options, learnt)))


def test_an_array_that_gets_no_gradient_is_refused_each_time():
    made_before("slopes that are not learnt")
    for _ in range(3):
        with pytest.raises(numba_fa.UnsupportedError, match="requires grad"):
            numba_fa.attention(*qkv(), bias=numba_fa.ScoreMod(weighed, parameter(4, 23)))


def weighed_too(score, b, h, q_idx, kv_idx, table):
    return score + table[h, q_idx, kv_idx] * score * 0.125


@pytest.mark.parametrize("shared", [True, False], ids=["one array in both", "two arrays"])
def test_an_array_that_a_function_reads_too_gets_no_half_of_its_gradient(shared):
    """A DenseBias's array is learnt, the same in a function is not: the calls made before had it detached there."""
    def called(x, y):
        out = numba_fa.attention(*qkv(), bias=[numba_fa.DenseBias(x), numba_fa.ScoreMod(weighed_too, y)])
        return torch.autograd.grad(out, [x], torch.ones_like(out))

    api.forget()
    for _ in range(5):
        x = parameter(4, 19, 23)
        called(x, x.detach())
    for _ in range(4):
        x = parameter(4, 19, 23)
        with pytest.raises(numba_fa.UnsupportedError, match="requires? grad"):
            called(x, x)
    if not shared:
        with pytest.raises(numba_fa.UnsupportedError, match="requires? grad"):
            called(parameter(4, 19, 23), parameter(4, 19, 23))


def test_an_array_that_was_freed_between_the_ways_is_told():
    made_before("slopes")
    slopes = parameter(4, seed=11)
    q, k, v = qkv(seed=11)
    out = numba_fa.attention(q, k, v, bias=numba_fa.ALiBi(slopes))
    slopes.untyped_storage().resize_(0)
    with pytest.raises(numba_fa.ProblemError, match="no memory"):
        torch.autograd.grad(out, [q, slopes], torch.ones_like(out))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_class_of_gradients_hears_the_way_back_each_time(mode):
    class Hearing(torch.Tensor):
        heard = 0

        @classmethod
        def __torch_function__(cls, function, *rest):
            cls.heard += "numba_fa" in str(function)
            return super().__torch_function__(function, *rest)

    api.forget()
    backward.forget()
    for _ in range(5):
        q, k, v = qkv()
        out = numba_fa.attention(q, k, v, mask="causal")
        Hearing.heard = 0
        with mode():
            found = torch.autograd.grad(out, [q, k, v], torch.ones_like(out).as_subclass(Hearing))
        assert Hearing.heard == 1 and {type(x) for x in found} == {Hearing}


def test_what_is_no_bias_is_told_also_after_calls_without_one():
    arguments = {"mask": numba_fa.KeyPadding(torch.tensor([5, 9], dtype=torch.int32))}
    for grad in (True, False):
        api.forget()
        for _ in range(4):
            numba_fa.attention(*qkv(grad), **arguments)
            numba_fa.attention(*qkv(grad), mask=numba_fa.Causal())
        with pytest.raises(numba_fa.ProblemError, match="bias is"):
            numba_fa.attention(*qkv(grad), **arguments, bias=[None])
        with pytest.raises(numba_fa.ProblemError, match="mask is"):
            numba_fa.attention(*qkv(grad), mask=numba_fa.Causal().without_arrays)
