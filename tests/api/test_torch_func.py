"""torch.func's own transforms of calls: grad, vmap, vjp."""

import pytest

import numba_fa

torch = pytest.importorskip("torch")
from tests.api.plain_attention import plain  # noqa: E402
from tests.api.tensors import SHAPES, qkv, weights  # noqa: E402


def test_torch_func_grad():
    q, k, v = qkv(grad=False)
    w = torch.randn(SHAPES[0])
    found = torch.func.grad(lambda *x: (numba_fa.attention(*x, mask="causal") * w).sum(), argnums=(0, 1, 2))(q, k, v)
    truth = torch.func.grad(lambda *x: (plain(*x, causal=True)[0] * w).sum(), argnums=(0, 1, 2))(q, k, v)
    for one, other in zip(found, truth):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("options", [
    lambda lengths, slopes: {"mask": "causal"},
    lambda lengths, slopes: {"mask": numba_fa.KeyPadding(lengths), "bias": numba_fa.ALiBi(slopes), "return_lse": True},
], ids=["folded", "one by one"])  # fmt: skip
def test_torch_func_vmap(options):
    q, k, v = qkv(grad=False)
    several = torch.stack([q, q * 2, q - 1], 1)
    lengths, slopes = torch.tensor([23, 9], dtype=torch.int32), torch.rand(4)

    def loss(q, k, v):
        result = numba_fa.attention(q, k, v, **options(lengths, slopes))
        return result.square().sum() if isinstance(result, torch.Tensor) else sum(x.square().sum() for x in result)

    def everything(q, k, v):
        return torch.func.grad_and_value(loss, argnums=(0, 1, 2))(q, k, v)

    at_once = torch.func.vmap(everything, in_dims=(1, None, None))(several, k, v)
    one_by_one = [everything(several[:, i], k, v) for i in range(3)]
    for index in range(3):
        torch.testing.assert_close(at_once[0][index], torch.stack([one[0][index] for one in one_by_one]))
    torch.testing.assert_close(at_once[1], torch.stack([one[1] for one in one_by_one]))


def test_torch_func_vmap_of_arrays_and_sinks():
    q, k, v = qkv(grad=False)
    lengths, sink = torch.tensor([[23, 9], [1, 0], [5, 5]], dtype=torch.int32), torch.rand(3, 4)

    def loss(lengths, sink):
        return numba_fa.attention(q, k, v, mask=numba_fa.KeyPadding(lengths), sink_logits=sink).square().sum()

    at_once = torch.func.vmap(torch.func.grad(loss, argnums=1))(lengths, sink)
    torch.testing.assert_close(at_once, torch.stack([torch.func.grad(loss, argnums=1)(*x) for x in zip(lengths, sink)]))


def test_a_graph_of_torch_func_may_be_gone_back_twice():
    q, k, v = qkv(grad=False)
    sink = torch.rand(4)
    out, back = torch.func.vjp(lambda q, sink: numba_fa.attention(q, k, v, sink_logits=sink), q, sink)
    assert all(map(torch.equal, back(weights(out)), back(weights(out))))
