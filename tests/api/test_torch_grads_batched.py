"""Ways back that torch.autograd maps itself: is_grads_batched, and jacobian(vectorize=True)."""

import contextlib

import pytest

import numba_fa

torch = pytest.importorskip("torch")
from tests.api.tensors import Listening, parameter, qkv, weights  # noqa: E402


@pytest.mark.parametrize("warm", [0, 4])
@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("which", ["nothing", "arrays", "sink"])
def test_many_gradients_at_once(warm, watched, which):
    """By out alone, by the LSE alone and by both, also where the call was an operator."""
    q, k, v = qkv()
    slopes, sink = parameter(4), parameter(4, seed=2)
    options = {"nothing": {}, "arrays": {"bias": numba_fa.ALiBi(slopes)}, "sink": {"sink_logits": sink}}[which]
    learnt = [q, k, v, *{"nothing": [], "arrays": [slopes], "sink": [sink]}[which]]

    def results():
        return numba_fa.attention(q, k, v, mask="causal", return_lse=True, **options)

    for _ in range(warm):
        results()
    with Listening() if watched else contextlib.nullcontext():
        made = results()
    for chosen in (made[:1], made[1:], made):
        douts = [torch.stack([weights(x, seed) for seed in range(3)]) for x in chosen]
        found = torch.autograd.grad(chosen, learnt, douts, is_grads_batched=True, retain_graph=True)
        one_by_one = [torch.autograd.grad(chosen, learnt, dout, retain_graph=True) for dout in zip(*douts)]
        torch.testing.assert_close(list(found), [torch.stack(x) for x in zip(*one_by_one)], rtol=1e-5, atol=1e-5)


def test_a_jacobian_at_once():
    q, k, v = qkv(False)
    def of(slopes):
        return numba_fa.attention(q, k, v, bias=numba_fa.ALiBi(slopes))[0, 0]

    found, expected = (
        torch.autograd.functional.jacobian(of, torch.ones(4), vectorize=at_once) for at_once in (True, False)
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
