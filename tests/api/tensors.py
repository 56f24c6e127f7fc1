"""torch's tensors for tests of gradients, and what compares them."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

SHAPES = (2, 19, 4, 16), (2, 23, 2, 16), (2, 23, 2, 16)


def qkv(grad=True, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_(grad) for shape in SHAPES]


def parameter(*shape, seed=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype).requires_grad_()


def weights(out, seed=2):
    return torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).to(out.dtype)


def same_gradients(loss, truth, inputs, rtol=1e-4, atol=2e-5):
    """Of two losses of the same inputs."""
    for found, expected in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(truth, inputs)):
        torch.testing.assert_close(found.double(), expected.double(), rtol=rtol, atol=atol)


class Listening(TorchDispatchMode):
    """Notes the operators of numba_fa that run under it."""

    def __init__(self):
        super().__init__()
        self.heard = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.namespace == "numba_fa":
            self.heard.append(operator.name())
        return operator(*args, **(kwargs or {}))
