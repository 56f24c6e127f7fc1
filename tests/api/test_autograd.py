"""Tensors that want gradients: there is no backward, so a gradient must not be lost without a word."""

import pytest

import numba_fa
from numba_fa.testing.inputs import random_qkv

torch = pytest.importorskip("torch")


def qkv(*, grad):
    return [torch.from_numpy(array).requires_grad_(grad) for array in random_qkv(1, 5, 9, 2, 2, 16)]


@pytest.mark.parametrize("wanting", [0, 1, 2])
def test_gradients_are_given_or_refused(wanting):
    arrays = qkv(grad=False)
    arrays[wanting].requires_grad_(True)
    try:
        out = numba_fa.attention(*arrays)
    except numba_fa.UnsupportedError as error:
        assert "grad" in str(error)
        return
    assert out.requires_grad, "the result is cut off from its inputs without a word"
    out.sum().backward()
    q, k, v = (array.detach().clone().requires_grad_(i == wanting) for i, array in enumerate(arrays))
    swapped = (array.transpose(1, 2) for array in (q, k, v))
    torch.nn.functional.scaled_dot_product_attention(*swapped).sum().backward()
    torch.testing.assert_close(arrays[wanting].grad, (q, k, v)[wanting].grad)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_where_no_gradient_is_recorded_all_is_well(context):
    with context():
        out = numba_fa.attention(*qkv(grad=True))
    assert not out.requires_grad
    assert torch.equal(out, numba_fa.attention(*qkv(grad=False)))


def test_detached_tensors_run():
    out = numba_fa.attention(*(array.detach() for array in qkv(grad=True)))
    assert torch.equal(out, numba_fa.attention(*qkv(grad=False)))


def test_an_out_that_wants_gradients_is_refused():
    """torch itself refuses to write into such a tensor."""
    q, k, v = qkv(grad=False)
    with pytest.raises((numba_fa.ProblemError, numba_fa.UnsupportedError), match="grad"):
        numba_fa.attention(q, k, v, out=torch.zeros_like(q).requires_grad_(True))


def test_writing_out_is_seen_by_autograd():
    """A tensor that was saved for some backward and is overwritten since must make that backward fail, not lie."""
    q, k, v = qkv(grad=False)
    weight, saved = torch.ones(16, requires_grad=True), torch.ones_like(q)
    product = (weight * saved).sum()
    numba_fa.attention(q, k, v, out=saved)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()
