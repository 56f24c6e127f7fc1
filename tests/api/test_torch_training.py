"""Training in torch: gradients of everything that has one, and what torch does around a call."""

import gc
import weakref

import numpy as np
import pytest

import numba_fa
from numba_fa import ProblemError, UnsupportedError

torch = pytest.importorskip("torch")
from tests.api.plain_attention import distances, plain  # noqa: E402
from tests.api.tensors import SHAPES, Listening, parameter, qkv, same_gradients, weights  # noqa: E402


def test_gradients_of_out_and_lse():
    q, k, v = qkv()
    out, lse = numba_fa.attention(q, k, v, mask="causal", scale=0.3, return_lse=True)
    true_out, true_lse = plain(q, k, v, causal=True, scale=0.3)
    w, u = weights(out), weights(lse)
    same_gradients((out * w).sum() + (lse * u).sum(), (true_out * w).sum() + (true_lse * u).sum(), (q, k, v))


def test_the_lse_alone_has_gradients():
    q, k, _ = qkv()
    _, lse = numba_fa.attention(q, k, k, return_lse=True)
    same_gradients(lse.logsumexp(1).sum(), plain(q, k, k)[1].logsumexp(1).sum(), (q, k))


def test_gradients_of_parameters():
    q, k, v = qkv()
    slopes, sink, array = parameter(4), parameter(4), parameter(1, 4, 19, 23)
    biases = [numba_fa.DenseBias(array), numba_fa.ALiBi(slopes)]
    out = numba_fa.attention(q, k, v, bias=biases, sink_logits=sink)
    add = array - slopes[:, None, None] * distances(19, 23)
    true_out, _ = plain(q, k, v, add=add, sink=sink)
    w = weights(out)
    same_gradients((out * w).sum(), (true_out * w).sum(), (q, k, v, slopes, sink, array))


def test_gradients_of_a_t5_table():
    q, k, v = qkv(grad=False)
    table = parameter(8, 4)
    out = numba_fa.attention(q, k, v, bias=numba_fa.T5Bias(table, 16))
    w = weights(out)
    (found,) = torch.autograd.grad((out * w).sum(), table)
    step = torch.zeros_like(table)
    step[1, 2] = 1e-2
    with torch.no_grad():
        losses = [
            (numba_fa.attention(q, k, v, bias=numba_fa.T5Bias(table + sign * step, 16)).double() * w).sum()
            for sign in (1, -1)
        ]
    assert abs((losses[0] - losses[1]) / 2e-2 - found[1, 2]) < 1e-3 and found.shape == table.shape


def test_a_narrow_dense_bias_gets_a_narrow_gradient():
    q, k, v = qkv(grad=False, dtype=torch.bfloat16)
    array = parameter(19, 23, dtype=torch.bfloat16)
    out = numba_fa.attention(q, k, v, bias=numba_fa.DenseBias(array))
    true_out, _ = plain(q, k, v, add=array)
    out.backward(weights(out))
    (expected,) = torch.autograd.grad(true_out, array, weights(out).double())
    assert array.grad.dtype == torch.bfloat16
    torch.testing.assert_close(array.grad, expected, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("wanting", ["q", "k", "v", "slopes", "sink"])
def test_only_what_is_needed_is_computed(wanting, monkeypatch):
    from numba_fa import backward

    asked, wanted_of = [], backward.wanted_of
    monkeypatch.setattr(backward, "wanted_of", lambda *given: asked.append(wanted_of(*given)[0]) or wanted_of(*given))
    tensors = dict(zip("qkv", qkv(grad=False)), slopes=torch.rand(4), other=torch.rand(1, 4), sink=torch.rand(4))
    tensors[wanting].requires_grad_()
    biases = [numba_fa.ALiBi(tensors["other"]), numba_fa.ALiBi(tensors["slopes"])]
    backward.forget()
    numba_fa.attention(*(tensors[x] for x in "qkv"), bias=biases, sink_logits=tensors["sink"]).sum().backward()
    assert asked == [{"slopes": {"bias1"}}.get(wanting, {wanting})]
    assert [name for name, tensor in tensors.items() if tensor.grad is not None] == [wanting]


@pytest.mark.parametrize("dout", ["expanded", "transposed", "odd address"])
def test_whatever_autograd_hands_in(dout):
    q, k, v = qkv()
    out = numba_fa.attention(q, k, v, mask="causal")
    w = weights(out)
    w = {
        "expanded": w[:1, :1].expand(w.shape), "transposed": w.transpose(1, 3).contiguous().transpose(1, 3),
        "odd address": torch.cat([w.new_zeros(1), w.flatten()])[1:].view(w.shape),
    }[dout]  # fmt: skip
    expected = torch.autograd.grad(out, (q, k, v), w.contiguous().clone(), retain_graph=True)
    assert all(map(torch.equal, torch.autograd.grad(out, (q, k, v), w), expected))


def test_numpy_arrays_in_masks_and_biases_go_with_tensors():
    q, k, v = qkv()
    slopes, lengths = np.array([0.1, 0.2, 0.3, 0.4], np.float32), np.array([20, 7], np.int32)
    ours, theirs = (
        numba_fa.attention(q, k, v, mask=numba_fa.KeyPadding(of(lengths)), bias=numba_fa.ALiBi(of(slopes)))
        for of in (lambda array: array, torch.from_numpy)
    )
    assert ours.requires_grad and torch.equal(ours, theirs)


def test_flash_attn_func_trains():
    q, k, v = qkv()
    slopes = parameter(4)
    for deterministic in (False, True):
        out, lse, nothing = numba_fa.flash_attn_func(
            q, k, v, 0.0, 0.2, True, alibi_slopes=slopes, deterministic=deterministic, return_attn_probs=True
        )
        assert nothing is None
        true_out, true_lse = plain(q, k, v, causal=True, add=-slopes[:, None, None] * distances(19, 23), scale=0.2)
        w = weights(out)
        same_gradients((out * w).sum() + lse.sum(), (true_out * w).sum() + true_lse.sum(), (q, k, v, slopes))


@pytest.mark.parametrize("asked", ["argument", "torch", "torch warns", "nobody"])
def test_determinism_is_handed_on(asked, monkeypatch):
    from numba_fa import backward

    seen, select = [], backward.select
    monkeypatch.setattr(backward, "select", lambda *args: seen.append(args[3]) or select(*args))
    backward.forget()
    try:
        torch.use_deterministic_algorithms(asked.startswith("torch"), warn_only=asked == "torch warns")
        q, k, v = qkv()
        numba_fa.flash_attn_func(q, k, v, deterministic=asked == "argument").sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
        backward.forget()
    assert seen == [asked in ("argument", "torch")]


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints(reentrant):
    from torch.utils.checkpoint import checkpoint

    q, k, v = qkv()
    slopes = parameter(4)

    def block(q, k, v):
        return numba_fa.attention(q * 1.5, k, v, mask="causal", bias=numba_fa.ALiBi(slopes)).sin()

    direct, again = block(q, k, v), checkpoint(block, q, k, v, use_reentrant=reentrant)
    w = weights(direct)
    gradients = []
    for out in (direct, again):
        for x in (q, k, v, slopes):
            x.grad = None
        out.backward(w)
        gradients.append([x.grad.clone() for x in (q, k, v, slopes)])
    assert torch.equal(direct, again) and all(map(torch.equal, *gradients))


@pytest.mark.parametrize("grad", [True, False])
def test_autocast(grad):
    (q, k, v), dtype = qkv(grad), torch.bfloat16
    v = v.detach().to(dtype).requires_grad_(grad)
    expected = numba_fa.attention(q.to(dtype), k.to(dtype), v, mask="causal")
    with torch.autocast("cpu", dtype=dtype):
        assert torch.nn.functional.scaled_dot_product_attention(q, q, q).dtype == dtype
        out = numba_fa.attention(q, k, v, mask="causal")
        narrow = numba_fa.attention(*(x.to(dtype) for x in (q, k, v)), mask="causal")
        with torch.autocast("cpu", enabled=False):
            assert numba_fa.attention(q, q, q).dtype == torch.float32
    assert torch.equal(out, expected) and torch.equal(narrow, expected) and out.requires_grad == grad
    if grad:
        out.sum().backward()
        assert [x.grad.dtype for x in (q, k, v)] == [torch.float32, torch.float32, dtype]


def test_autocast_leaves_biases_alone():
    q, k, v = qkv(grad=False)
    slopes = parameter(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = numba_fa.attention(q, k, v, bias=numba_fa.ALiBi(slopes))
        out.float().sum().backward()
    assert out.dtype == torch.bfloat16 and slopes.grad.dtype == torch.float32


def test_second_derivatives_are_refused():
    q, k, v = qkv()
    (dq,) = torch.autograd.grad(numba_fa.attention(q, k, v).square().sum(), q, create_graph=True)
    torch.testing.assert_close(dq, torch.autograd.grad(plain(q, k, v)[0].square().sum(), q)[0].float(), rtol=1e-4, atol=2e-5)
    with pytest.raises(UnsupportedError, match="no second derivatives"):
        dq.sum().backward()


def test_a_mode_sees_the_operators_and_autograd_alone_gets_the_same():
    q, k, v = qkv()
    slopes, w = parameter(4), weights(q)

    def out():
        return numba_fa.attention(q, k, v, mask="causal", bias=numba_fa.ALiBi(slopes))

    def gradients(out):
        return torch.autograd.grad(out, (q, k, v, slopes), w)

    quick, forward, both = out(), Listening(), Listening()
    expected = gradients(quick)
    with forward:
        seen = out()
    assert forward.heard == ["numba_fa::attention"] and torch.equal(seen, quick)
    with both:
        assert all(map(torch.equal, gradients(seen), expected))
        assert all(map(torch.equal, gradients(out()), expected))
    assert both.heard == ["numba_fa::attention_backward", "numba_fa::attention", "numba_fa::attention_backward"]
    assert all(map(torch.equal, gradients(out()), expected))


def test_saved_tensors_pass_through_hooks():
    """As torch.autograd.graph.save_on_cpu has them; what comes back need not be what went in."""
    q, k, v = qkv()
    slopes = parameter(4)

    def gradients():
        out = numba_fa.attention(q, k, v, bias=numba_fa.ALiBi(slopes))
        return torch.autograd.grad(out, (q, k, v, slopes), weights(out))

    packed, expected = [], gradients()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: packed.append(x.clone()) or packed[-1], lambda x: x.clone()):
        assert all(map(torch.equal, gradients(), expected))
    assert len(packed) == 6


@pytest.mark.parametrize("index", range(5))
def test_what_was_changed_since_is_refused(index):
    """out, lse, q, and the arrays of mask and biases, as they were for the forward, or not at all."""
    q, k, v = qkv()
    lengths, slopes = torch.tensor([20, 7], dtype=torch.int32), parameter(4)
    changed = q * 1.0
    out, lse = numba_fa.attention(
        changed, k, v, mask=numba_fa.KeyPadding(lengths), bias=numba_fa.ALiBi(slopes), return_lse=True
    )
    with torch.no_grad():
        (out, lse, changed, lengths, slopes)[index].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (out.sum() + lse.sum()).backward()


@pytest.mark.parametrize("wanting", ["q", "v", "sink", "qkv sink"])
def test_a_backward_runs_once_unless_the_graph_is_kept(wanting):
    q, k, v = qkv(grad=False)
    tensors = {"q": q, "k": k, "v": v, "sink": torch.rand(4)}
    learnt = [x.requires_grad_() for name, x in tensors.items() if name in wanting]
    loss = numba_fa.attention(q, k, v, sink_logits=tensors["sink"]).square().sum()
    loss.backward(retain_graph=True)
    first = [x.grad.clone() for x in learnt]
    loss.backward()
    assert all(torch.equal(x.grad, 2 * once) for x, once in zip(learnt, first))
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_nothing_is_kept_alive():
    q, k, v = qkv()
    slopes = parameter(4)
    out = numba_fa.attention(q * 1, k, v, bias=numba_fa.ALiBi(slopes))
    gone = [weakref.ref(x) for x in (q, k, v, slopes, out)]
    out.sum().backward()
    del q, k, v, slopes, out
    gc.collect()
    assert [x() for x in gone] == [None] * 5


def test_tensors_without_memory_run_through_as_shapes():
    from torch._subclasses import FakeTensorMode

    with torch.no_grad():  # calls remembered must not be taken for these
        numba_fa.attention(*qkv(), return_lse=True)
    with FakeTensorMode() as mode:
        out, lse = numba_fa.attention(*(mode.from_tensor(x) for x in qkv(grad=False)), return_lse=True)
    assert out.shape == SHAPES[0] and lse.shape == (2, 4, 19) and lse.dtype == torch.float32


def test_calls_that_cannot_be_recorded_are_refused():
    q, k, v = qkv()
    plain_q = q.detach()
    with pytest.raises(UnsupportedError, match="out is given"):
        numba_fa.attention(q, k, v, out=torch.empty(SHAPES[0]))
    with pytest.raises(UnsupportedError, match="q, k and v require grad, and this records no gradient"):
        numba_fa.plan(q, k, v)
    with torch.no_grad():
        plan = numba_fa.plan(q, k, v)
    with pytest.raises(UnsupportedError, match="requires grad, and this records no gradient; attention"):
        plan.run(q, k, v, torch.empty(SHAPES[0]))
    marks = torch.rand(23, requires_grad=True)
    lost = numba_fa.ScoreMod(lambda s, b, h, i, j, marks: s + marks[j], marks)
    with pytest.raises(UnsupportedError, match="score_mod's aux 0 requires grad, and attention has no gradient of it"):
        numba_fa.attention(plain_q, k, v, bias=[numba_fa.ALiBi(torch.rand(4, requires_grad=True)), lost])
    both = numba_fa.ScoreMod(lambda s, b, h, i, j, x, y: s + x[j] + y[j], marks, marks.detach().clone().requires_grad_())
    with pytest.raises(UnsupportedError, match="aux 0 and (.*)aux 1 require grad, and attention has no gradient of them"):
        numba_fa.attention(plain_q, k, v, bias=both)
    assert numba_fa.explain(q, k, v).family == "cpu"


def test_faults_are_told_as_without_gradients():
    q, k, v = qkv()
    wrong = {
        "does not go with": lambda: numba_fa.attention(q, k[:, :5], v),
        "dtypes differ": lambda: numba_fa.attention(q, k.half(), v),
        "one library": lambda: numba_fa.attention(q, k.detach().numpy(), v),
        "mask is 'diagonal'": lambda: numba_fa.attention(q, k, v, mask="diagonal"),
        "bias is 3": lambda: numba_fa.attention(q, k, v, bias=3),
        "scale is -1": lambda: numba_fa.attention(q, k, v, scale=-1.0),
        "scale is '0.5'; a number or None": lambda: numba_fa.attention(q, k, v, scale="0.5"),
        "alibi's slopes has shape": lambda: numba_fa.attention(q, k, v, bias=numba_fa.ALiBi(parameter(3))),
        "str is no array": lambda: numba_fa.attention(q, k, v, mask=numba_fa.KeyPadding("long")),
        "window's left is -5": lambda: numba_fa.attention(q, k, v, mask=numba_fa.SlidingWindow(-5, 2)),
    }
    for words, call in wrong.items():
        with pytest.raises(ProblemError, match=words):
            call()


def test_faults_of_gradients():
    q, k, v = qkv(grad=False)
    out, lse = numba_fa.attention(q, k, v, return_lse=True)
    dout = torch.ones_like(out)
    wrong = {
        "lse is None": (dout, q, k, v, out, None),
        "dout has shape": (dout[:, :5], q, k, v, out, lse),
        "dout is float64; out's dtype": (dout.double(), q, k, v, out, lse),
        "dout: a tensor on device meta": (dout.to("meta"), q, k, v, out, lse),
        "lse has shape": (dout, q, k, v, out, lse[:, :2]),
        "lse has strides": (dout, q, k, v, out, lse.transpose(1, 2).contiguous().transpose(1, 2)),
        "one library": (dout.numpy(), q, k, v, out, lse),
    }
    for words, arrays in wrong.items():
        with pytest.raises(ProblemError, match=words):
            numba_fa.attention_backward(*arrays)
    with pytest.raises(UnsupportedError, match="dout requires grad, and this records no gradient"):
        numba_fa.attention_backward(dout.requires_grad_(), q, k, v, out, lse)


def test_a_bias_may_be_wanted_by_its_number():
    q, k, v = qkv(grad=False)
    biases = [numba_fa.ALiBi(torch.rand(4)), numba_fa.Softcap(3.0), numba_fa.DenseBias(torch.rand(19, 23))]
    out, lse = numba_fa.attention(q, k, v, bias=biases, return_lse=True)
    given = torch.ones_like(out), q, k, v, out, lse
    every = numba_fa.attention_backward(*given, bias=biases, wanted=("bias",)).dbias
    one = numba_fa.attention_backward(*given, bias=biases, wanted="bias2").dbias
    assert every[0] is not None and one[:2] == (None, None) and torch.equal(one[2], every[2])
    with pytest.raises(ProblemError, match="wanted holds 'bias1'"):
        numba_fa.attention_backward(*given, bias=biases, wanted=("q", "bias1"))


def test_a_class_of_tensors_that_stand_for_others_is_asked():
    """Its tensors have no memory; what it does for the operator is its own affair."""
    from torch.utils._pytree import tree_map

    class Wrapped(torch.Tensor):
        @staticmethod
        def __new__(cls, inner):
            return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

        def __init__(self, inner):
            self.inner = inner

        @classmethod
        def __torch_dispatch__(cls, operator, types, args, kwargs=None):
            return operator(*tree_map(lambda x: x.inner if isinstance(x, Wrapped) else x, args), **(kwargs or {}))

    arrays = qkv(grad=False)
    for _ in range(2):
        expected = numba_fa.attention(*arrays)
    assert torch.equal(numba_fa.attention(*map(Wrapped, arrays)), expected)
