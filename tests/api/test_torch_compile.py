"""torch.compile of programs that call attention, in one graph, and what torch checks of its operators."""

import math

import pytest

import numba_fa
from tests.api.fresh import run_fresh

torch = pytest.importorskip("torch")
pytest.importorskip("torch._dynamo")
from torch._dynamo.testing import CompileCounterWithBackend  # noqa: E402

LENGTHS = torch.tensor([20, 7], dtype=torch.int32)
MARKS = torch.arange(23, dtype=torch.int32) % 7
SLOPES, SINK, ARRAY, TABLE = (torch.rand(shape, requires_grad=True) for shape in ((4,), (4,), (1, 1, 19, 23), (8, 4)))
PARAMETERS = (SLOPES, SINK, ARRAY, TABLE)


def striped(b, h, q_idx, kv_idx, marks, period):
    return ((q_idx + kv_idx + h) % period != 0) | (marks[kv_idx] == 0)


def wave(score, b, h, q_idx, kv_idx, height):
    return score + height * math.exp(-0.01 * abs(q_idx - kv_idx))


def near(reach):
    return numba_fa.MaskMod(lambda b, h, q_idx, kv_idx: q_idx + reach > kv_idx)


def qkv(grad=True, lengths=(19, 23)):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, lengths[0], 4, 16), (2, lengths[1], 2, 16), (2, lengths[1], 2, 16)
    return [torch.randn(shape, generator=generator).requires_grad_(grad) for shape in shapes]


PADDING = numba_fa.KeyPadding(LENGTHS)
MOD, SCORE = numba_fa.MaskMod(striped, MARKS, 3), numba_fa.ScoreMod(wave, 0.5)
BLOCKS = numba_fa.block_mask(MOD, seqlen_q=19, seqlen_k=23)
PROGRAMS = {
    "plain": lambda q, k, v: numba_fa.attention(q, k, v),
    "a name, LSE": lambda q, k, v: torch.stack(
        [x.square().sum() for x in numba_fa.attention(q, k, v, mask="causal", scale=0.3, return_lse=True)]
    ),
    "kept": lambda q, k, v: numba_fa.attention(q, k, v, mask=PADDING & numba_fa.Causal()),
    "kept functions": lambda q, k, v: numba_fa.attention(q, k, v, mask=BLOCKS, bias=SCORE),
    "made": lambda q, k, v: numba_fa.attention(
        q, k, v, mask=numba_fa.SlidingWindow(9, 3) | numba_fa.PrefixLM(LENGTHS // 2), sink_logits=SINK,
        bias=[numba_fa.Softcap(3.0), numba_fa.ALiBi(SLOPES), numba_fa.DenseBias(ARRAY * 2), numba_fa.T5Bias(TABLE, 16)],
    ),
    "made functions": lambda q, k, v: numba_fa.attention(
        q, k, v, mask=numba_fa.MaskMod(striped, MARKS, 3), bias=numba_fa.ScoreMod(wave, 0.5)
    ),
    "flash_attn_func": lambda q, k, v: numba_fa.flash_attn_func(
        q, k, v, causal=True, window_size=(9, 0), alibi_slopes=SLOPES, deterministic=True
    ),
}  # fmt: skip


def gradients(result, inputs):
    loss = (result * torch.linspace(0.5, 1.5, result.numel()).view(result.shape)).sum()
    return torch.autograd.grad(loss, inputs, allow_unused=True)


@pytest.mark.parametrize("name", PROGRAMS)
def test_one_graph(name):
    torch._dynamo.reset()
    program = PROGRAMS[name]
    compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
    inputs = qkv()
    direct, result = program(*inputs), compiled(*inputs)
    torch.testing.assert_close(result, direct)
    for one, other in zip(gradients(result, (*inputs, *PARAMETERS)), gradients(direct, (*inputs, *PARAMETERS))):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)
    with torch.no_grad():
        result = compiled(*inputs)
    assert not result.requires_grad
    torch.testing.assert_close(result, direct.detach())


def test_the_inductor():
    torch._dynamo.reset()

    def program(q, k, v):
        q, k = q * 1.5, k.sin()
        return numba_fa.attention(q.transpose(1, 2).contiguous().transpose(1, 2), k, v, mask=PADDING).cos()

    inputs = qkv()
    result, direct = torch.compile(program, fullgraph=True)(*inputs), program(*inputs)
    torch.testing.assert_close(result, direct)
    torch.testing.assert_close(gradients(result, inputs), gradients(direct, inputs))


def test_numbers_and_lengths_that_vary_do_not_compile_anew():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def program(q, k, v, left):
        return numba_fa.attention(q, k, v, mask=numba_fa.SlidingWindow(left, q.shape[1] // 2))

    compiled = torch.compile(program, fullgraph=True, backend=counter)
    for left, seqlen in ((3, 19), (4, 22), (5, 25), (9, 40), (7, 31)):
        inputs = qkv(lengths=(seqlen, seqlen + 3))
        torch.testing.assert_close(compiled(*inputs, left), program(*inputs, left))
    assert counter.frame_count <= 2


def test_another_mask_is_another_graph():
    class Layer(torch.nn.Module):
        mask: object = None

        def forward(self, q, k, v):
            return numba_fa.attention(q, k, v, mask=self.mask)

    torch._dynamo.reset()
    layer, inputs = Layer(), qkv()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for mask in (None, "causal", near(5), near(9), PADDING, numba_fa.KeyPadding(LENGTHS // 3), numba_fa.Causal()):
        layer.mask = mask
        assert torch.equal(compiled(*inputs), layer(*inputs))


def test_out_in_a_graph():
    torch._dynamo.reset()
    inputs = qkv(grad=False)
    out = torch.empty_like(inputs[0])
    result = torch.compile(lambda q, k, v, out: numba_fa.attention(q, k, v, out=out), fullgraph=True, backend="aot_eager")(
        *inputs, out
    )
    assert torch.equal(out, numba_fa.attention(*inputs)) and torch.equal(result, out)


def test_autocast_in_a_graph():
    torch._dynamo.reset()
    inputs = qkv()

    def program(q, k, v):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return numba_fa.attention(q, k, v, mask="causal")

    compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
    result = compiled(*inputs)
    assert result.dtype == torch.bfloat16 and torch.equal(result, program(*inputs))
    assert result.requires_grad


def test_a_checkpoint_in_a_graph():
    from torch.utils.checkpoint import checkpoint

    torch._dynamo.reset()
    inputs = qkv()

    def program(q, k, v):
        return checkpoint(lambda *x: numba_fa.attention(*x, mask="causal").sin(), q, k, v, use_reentrant=False)

    result, direct = torch.compile(program, fullgraph=True, backend="aot_eager")(*inputs), program(*inputs)
    torch.testing.assert_close(gradients(result, inputs), gradients(direct, inputs))


def test_faults_in_a_graph():
    torch._dynamo.reset()
    q, k, v = qkv(grad=False)
    compiled = torch.compile(lambda q, k, v, **o: numba_fa.attention(q, k, v, **o), backend="aot_eager", fullgraph=True)
    with pytest.raises(numba_fa.ProblemError, match="does not go with"):
        compiled(q, k[:, :5], v)
    with pytest.raises(Exception, match="mask is 'diagonal'"):
        compiled(q, k, v, mask="diagonal")
    for out, inputs in ((torch.empty_like(k), (q, k, v)), (torch.empty_like(q), qkv())):
        with pytest.raises(Exception, match="out is given for tensors"):
            compiled(*inputs, out=out)


def test_the_first_thing_a_process_does_with_us_may_be_to_compile():
    """Nothing was registered with torch before, and torch was imported last."""
    run_fresh("""
import numba_fa
import torch
q = torch.randn(1, 9, 2, 16, requires_grad=True)
out = torch.compile(lambda q: numba_fa.attention(q, q, q, mask="causal"), fullgraph=True, backend="aot_eager")(q)
assert out.requires_grad and torch.equal(out, numba_fa.attention(q, q, q, mask="causal"))
""")


def operator_arguments(name, grad):
    q, k, v = qkv(grad)
    arrays = [LENGTHS, torch.rand(4, requires_grad=grad), torch.rand(19, 23, requires_grad=grad)]
    sink = torch.rand(4, requires_grad=grad)
    described = arrays, sink, "padding(a)|alibi(a)|softcap(f)|dense(a)", [], [3.0], 0.3
    if name == "attention":
        return (q, k, v, *described, False)
    with torch.no_grad():
        out, lse = torch.ops.numba_fa.attention(q, k, v, *described, False)
    return torch.ones_like(out), torch.ones_like(lse), q, k, v, out, lse, *described, "q,k,v,bias0,bias2,sink", True


@pytest.mark.parametrize(("name", "grad"), [("attention", True), ("attention", False), ("attention_backward", False)])
def test_torch_checks_the_operators(name, grad):
    numba_fa.attention(*qkv())  # registers them
    torch.library.opcheck(getattr(torch.ops.numba_fa, name).default, operator_arguments(name, grad))


def test_torch_checks_the_operators_without_arrays_and_with_numbers():
    q, k, v = qkv()
    numba_fa.attention(q, k, v)
    arguments = q, k, v, [], None, "all((window(i,i,i),causal()))", [5, -1, 1], [], None, False
    torch.library.opcheck(torch.ops.numba_fa.attention.default, arguments)
