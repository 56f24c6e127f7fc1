"""Calls inside of a transform of torch.func (grad, vmap, jvp, functionalize) that has none of their tensors.

torch wraps every tensor made there for the innermost transform, and a wrapped one has no memory that a kernel could write
to. So such a call is made as if no transform were, where it is also known from calls made before, and its results are
handed to the transform, as results of torch's own operators are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, NamedTuple


class _Torch(NamedTuple):
    """What torch tells of transforms. active, excluded: whether one is at work, and is left out; without: leaves all out."""

    active: Callable[[], bool]
    excluded: Callable[[], bool]
    without: Callable[[], AbstractContextManager[Any]]


@cache
def _torch() -> _Torch:
    core = sys.modules["torch"]._C
    try:
        front, excluded = core.DispatchKey.FuncTorchDynamicLayerFrontMode, core._dispatch_tls_is_dispatch_key_excluded
        excluded(front)
        return _Torch(core._are_functorch_transforms_active, lambda: excluded(front), core._DisableFuncTorch)
    except AttributeError:  # another version of torch, which says itself that a wrapped tensor has no memory
        return _Torch(lambda: False, lambda: False, nullcontext)


def transforming() -> bool:
    """Whether a transform of torch.func would wrap a new tensor. torch is loaded."""
    active, excluded, _ = _torch()
    return active() and not excluded()


def around(*arrays: Any) -> bool:
    """Whether a call on the arrays, the first of which is a tensor of torch, is inside of a transform."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(arrays[0], torch.Tensor) and transforming()


def beside(*arrays: Any) -> bool:
    """Whether they are inside of a transform that has none of them. All but the first may be anything, as None."""
    return around(*arrays) and not any(map(_is_wrapped, arrays))


def _is_wrapped(array: Any) -> bool:
    torch = sys.modules["torch"]
    return isinstance(array, torch.Tensor) and bool(torch._C._functorch.is_functorch_wrapped_tensor(array))


def without() -> AbstractContextManager[Any]:
    """Where new tensors are wrapped by no transform. torch is loaded."""
    return _torch().without() if transforming() else nullcontext()


@contextmanager
def transform() -> Iterator[None]:
    """Within one more transform, of nothing. torch is loaded."""
    functorch = sys.modules["torch"]._C._functorch
    functorch._grad_increment_nesting()
    try:
        yield
    finally:
        functorch._grad_decrement_nesting()


def outside(call: Callable[[], Any], out: Any = None) -> Any:
    """What call() returns, a tensor or a tuple, made outside of the transforms; of what is `beside` them.

    out: what was written, if the caller gave it, which is returned as it is.
    """
    with _torch().without():
        made = call()
    return _handed_in(made, out)


def _handed_in(made: Any, out: Any) -> Any:
    if isinstance(made, tuple):
        parts = [_handed_in(part, out) for part in made]
        return type(made)(*parts) if hasattr(made, "_fields") else tuple(parts)
    # An alias that is made inside is the transform's own, and may be written to there, which view_as's may not.
    return made if made is None or made is out else sys.modules["torch"].ops.aten.alias(made)
