"""On a GPU: training in torch. Gradients beside torch's own attention, graphs of both kinds, autocast, memory."""

import pytest

import numba_fa
from numba_fa.testing.programs import PROGRAMS, Sizes
from tests.api.plain_attention import distances

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.gpu

SHAPE = (2, 384, 8, 64)  # with as many keys, of two heads


def random(*shape, dtype=torch.bfloat16, seed=0, grad=False):
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(shape, generator=generator, device="cuda").to(dtype).requires_grad_(grad)


def qkv(dtype=torch.bfloat16, grad=True, shape=SHAPE):
    kv = (*shape[:2], 2, shape[3])
    return [random(*of, dtype=dtype, seed=i, grad=grad) for i, of in enumerate((shape, kv, kv))]


def sdpa(q, k, v, **options):
    """torch's attention, of layout (batch, seqlen, heads, head_dim)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True, **options).transpose(1, 2)


def gradients(out, inputs):
    weights = random(*out.shape, dtype=out.dtype, seed=9)
    return torch.autograd.grad(out, inputs, weights)


def furthest(found, truth):
    """The largest difference of each gradient, beside the largest number in it."""
    return [((x.double() - y.double()).abs().max() / y.double().abs().max()).item() for x, y in zip(found, truth)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_as_near_the_truth_as_torchs(causal, dtype):
    inputs = qkv(dtype)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    truth = gradients(sdpa(*exact, is_causal=causal), exact)
    theirs = furthest(gradients(sdpa(*inputs, is_causal=causal), inputs), truth)
    ours = furthest(gradients(numba_fa.attention(*inputs, mask="causal" if causal else None), inputs), truth)
    assert all(x <= 2 * y + 1e-5 for x, y in zip(ours, theirs)), (ours, theirs)


@pytest.mark.parametrize("grad_mode", [torch.no_grad, torch.inference_mode])
def test_results_are_new_dense_tensors_call_after_call(grad_mode):
    q, k, v = qkv(grad=False, shape=(2, 384, 8, 192))
    v, q = v[..., :128], q.transpose(1, 2).contiguous().transpose(1, 2)
    with grad_mode():
        expected = torch.empty(1, device="cuda").is_inference()
        first, *others = [numba_fa.attention(q, k, v, return_lse=True) for _ in range(4)]
    for out, lse in (first, *others):
        assert (out.shape, lse.shape, out.dtype, lse.dtype) == ((2, 384, 8, 128), (2, 8, 384), q.dtype, torch.float32)
        assert out.is_contiguous() and lse.is_contiguous() and not out.requires_grad
        assert out.is_inference() == lse.is_inference() == expected
        assert torch.equal(out, first[0]) and torch.equal(lse, first[1])
    assert len({array.data_ptr() for pair in (first, *others) for array in pair}) == 8
    assert not numba_fa.attention(q, k, v).is_inference()


def test_gradients_of_the_lse_and_of_parameters():
    inputs = qkv()
    slopes = torch.full((8,), 0.05, device="cuda", requires_grad=True)
    sink = random(8, dtype=torch.float32, seed=4, grad=True)
    array = random(384, 384, seed=5, grad=True)
    biases = [numba_fa.ALiBi(slopes), numba_fa.DenseBias(array)]
    out, lse = numba_fa.attention(*inputs, bias=biases, sink_logits=sink, return_lse=True)
    exact = [x.detach().double().requires_grad_() for x in (*inputs, slopes, sink, array)]
    q, k, v = (x.transpose(1, 2) for x in exact[:3])
    k, v = (x.repeat_interleave(4, 1) for x in (k, v))
    scores = q @ k.transpose(2, 3) / 8 - exact[3][:, None, None] * distances(384, 384).cuda() + exact[5]
    true_lse = torch.cat([scores, exact[4][:, None, None].expand(2, 8, 384, 1)], 3).logsumexp(3)
    true_out = (torch.exp(scores - true_lse[..., None]) @ v).transpose(1, 2)
    weights, of_lse = random(*SHAPE, seed=9), random(2, 8, 384, dtype=torch.float32, seed=10)
    found = torch.autograd.grad(
        (out * weights).float().sum() + (lse * of_lse).sum(), (*inputs, slopes, sink, array)
    )
    truth = torch.autograd.grad((true_out * weights.double()).sum() + (true_lse * of_lse.double()).sum(), exact)
    assert [x.dtype for x in found] == [x.dtype for x in (*inputs, slopes, sink, array)]
    assert max(furthest(found, truth)) < 3e-2, furthest(found, truth)


@pytest.mark.parametrize("dout", ["expanded", "heads first", "odd address", "last axis scattered"])
def test_whatever_autograd_hands_in(dout):
    inputs = qkv()
    out = numba_fa.attention(*inputs, mask="causal")
    weights = random(*SHAPE, seed=9)
    weights = {
        "expanded": weights[:1, :1].expand(SHAPE),
        "heads first": weights.transpose(1, 2).contiguous().transpose(1, 2),
        "odd address": torch.cat([weights.new_zeros(1), weights.flatten()])[1:].view(SHAPE),
        "last axis scattered": weights.transpose(1, 3).contiguous().transpose(1, 3),
    }[dout]
    torch.use_deterministic_algorithms(True)
    try:
        found = torch.autograd.grad(out, inputs, weights, retain_graph=True)
        expected = torch.autograd.grad(out, inputs, weights.contiguous().clone())
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, found, expected))


def test_deterministic_gradients_are_bit_equal():
    inputs = qkv(shape=(2, 2048, 8, 128))
    weights = random(2, 2048, 8, 128, seed=9)
    first = None
    for _ in range(50):
        out = numba_fa.flash_attn_func(*inputs, causal=True, deterministic=True)
        found = torch.autograd.grad(out, inputs, weights)
        first = first or found
        assert all(map(torch.equal, found, first))


@pytest.mark.parametrize("name", ["causal", "window-padding-dense", "everything", "score_mod", "mod", "block"])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_one_graph(name, backend):
    torch._dynamo.reset()
    inputs = qkv()
    asked = PROGRAMS[name](Sizes(2, 384, 384, 8)).moved(lambda array: torch.from_numpy(array).cuda())
    sink = None if asked.sink_logits is None else asked.sink_logits.requires_grad_()

    def program(q, k, v):
        return numba_fa.attention(q * 2, k, v, mask=asked.mask, bias=asked.biases or None, sink_logits=sink).sin()

    wanted = inputs if sink is None else [*inputs, sink]
    compiled = torch.compile(program, fullgraph=True, backend=backend)
    result, direct = compiled(*inputs), program(*inputs)
    torch.testing.assert_close(result, direct, rtol=2e-2, atol=2e-2)
    assert max(furthest(gradients(result, wanted), gradients(direct, wanted))) < 2e-2
    with torch.no_grad():
        torch.testing.assert_close(compiled(*inputs), direct, rtol=2e-2, atol=2e-2)


def test_a_graph_with_cuda_graphs():
    torch._dynamo.reset()
    inputs = qkv()

    def program(q, k, v):
        return numba_fa.attention(q * 2, k, v, mask="causal").sin()

    compiled = torch.compile(program, fullgraph=True, mode="reduce-overhead")
    expected = gradients(program(*inputs), inputs)
    for _ in range(4):
        torch.compiler.cudagraph_mark_step_begin()
        assert max(furthest(gradients(compiled(*inputs), inputs), expected)) < 2e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_capture_and_replay_of_forward_and_backward(dtype):
    inputs = qkv(dtype)
    weights = random(*SHAPE, dtype=dtype, seed=9)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # kernels are loaded before a capture
        for _ in range(2):
            torch.autograd.grad(numba_fa.attention(*inputs, mask="causal"), inputs, weights)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = numba_fa.attention(*inputs, mask="causal")
        found = torch.autograd.grad(out, inputs, weights)
    with torch.no_grad():
        for i, x in enumerate(inputs):
            x.copy_(random(*x.shape, dtype=dtype, seed=20 + i))
    for _ in range(3):
        graph.replay()
    expected = numba_fa.attention(*inputs, mask="causal")
    assert torch.equal(out, expected)
    assert max(furthest(found, torch.autograd.grad(expected, inputs, weights))) < 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    inputs = qkv(torch.float32)
    with torch.autocast("cuda", dtype=dtype):
        out, theirs = numba_fa.attention(*inputs, mask="causal"), sdpa(*inputs, is_causal=True)
        assert out.dtype == theirs.dtype == dtype
        with torch.no_grad():
            assert torch.equal(numba_fa.attention(*inputs, mask="causal"), out)
    found, expected = gradients(out, inputs), gradients(theirs, inputs)
    assert all(x.dtype == torch.float32 for x in found) and max(furthest(found, expected)) < 3e-2


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints(reentrant):
    from torch.utils.checkpoint import checkpoint

    inputs = qkv()

    def block(q, k, v):
        return numba_fa.attention(q * 1.5, k, v, mask=numba_fa.SlidingWindow(100, 0)).sin()

    weights = random(*SHAPE, seed=9)
    found = []
    for out in (block(*inputs), checkpoint(block, *inputs, use_reentrant=reentrant)):
        for x in inputs:
            x.grad = None
        out.backward(weights)
        found.append([x.grad for x in inputs])
    assert max(furthest(*found)) < 1e-2


def test_torch_checks_the_operators():
    q, k, v = qkv(torch.float32)
    numba_fa.attention(q, k, v)  # registers them
    described = [torch.full((8,), 0.1, device="cuda")], None, "causal()|alibi(a)", [], [], None
    torch.library.opcheck(torch.ops.numba_fa.attention.default, (q, k, v, *described, False))
    q, k, v = (x.detach() for x in (q, k, v))
    out, lse = torch.ops.numba_fa.attention(q, k, v, *described, False)
    given = torch.ones_like(out), None, q, k, v, out, lse, *described, "q,k,v,bias0", True
    torch.library.opcheck(torch.ops.numba_fa.attention_backward.default, given)


def test_vmap():
    q, k, v = qkv(grad=False)
    several = torch.stack([q, q * 2, q - 1])
    at_once = torch.func.vmap(lambda q: numba_fa.attention(q, k, v, mask="causal"))(several)
    assert torch.equal(at_once, torch.stack([numba_fa.attention(q, k, v, mask="causal") for q in several]))


def test_another_stream():
    """The backward runs on the forward's stream, as autograd has it."""
    inputs = qkv(shape=(2, 2048, 8, 64))
    weights = random(2, 2048, 8, 64, seed=9)
    expected = torch.autograd.grad(numba_fa.attention(*inputs, mask="causal"), inputs, weights)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late = [(x * 1).detach().requires_grad_() for x in inputs]
        out = numba_fa.attention(*late, mask="causal")
    found = torch.autograd.grad(out, late, weights)
    torch.cuda.synchronize()
    assert max(furthest(found, expected)) < 1e-2


@pytest.mark.parametrize("mask", ["full", "causal"])
def test_memory_grows_with_the_sequence(mask):
    """64k tokens: beside results, dQ in float32 and two numbers a query, whatever the mask; rounded up to tiles."""
    seqlen, heads, head_dim = 65536, 2, 128
    q, k, v, dout = (random(1, seqlen, heads, head_dim, seed=i) for i in range(4))
    small = [x[:, :256].contiguous() for x in (q, k, v, dout)]

    def both(q, k, v, dout):
        q, k, v = (x.requires_grad_() for x in (q, k, v))
        out = numba_fa.attention(q, k, v, mask=mask)
        return torch.autograd.grad(out, (q, k, v), dout)

    both(*small)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    found = both(q, k, v, dout)
    torch.cuda.synchronize()
    taken = torch.cuda.max_memory_allocated() - before
    bytes_of_results = 4 * q.numel() * 2 + heads * seqlen * 4  # out and three gradients; the LSE
    beside = q.numel() * 4 + 2 * heads * seqlen * 4
    assert len(found) == 3 and taken <= bytes_of_results + 1.02 * beside + 4 * 2**20, (taken, bytes_of_results, beside)


def test_the_training_demo():
    from numba_fa.demo import train

    sizes = train.Sizes(layers=2, heads=8, heads_kv=2, head_dim=64, seqlen=512, batch=4)
    runs = [train.train(attention, sizes, 30, "cuda") for attention in train.CONTENDERS.values()]
    assert max(abs(x - y) for x, y in zip(*(run.losses for run in runs))) < 0.1
    assert all(run.losses[-1] < run.losses[0] - 0.5 for run in runs)
