"""torch's tensors. Every call of attention passes here, so what is asked of a tensor is counted in nanoseconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from functools import cache
from typing import Any

from numba_fa.adapters.library import Library
from numba_fa.errors import ProblemError
from numba_fa.problem.arrays import ArrayView


@cache
def library() -> Library:
    """torch, which is loaded, because one of its tensors is here."""
    torch = sys.modules["torch"]
    names = {getattr(torch, name): name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)}
    strided, is_grad_enabled = torch.strided, torch.is_grad_enabled
    names |= {torch.float32: "float32", torch.float16: "float16", torch.float64: "float64"}
    raw_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)

    def view(array: Any) -> ArrayView:
        if array.layout is not strided or array.is_neg():
            raise ProblemError([f"a tensor of layout {array.layout}{' that negates when read' * array.is_neg()}; "
                                "a plain strided one is wanted"])  # fmt: skip
        device = array.device
        where = device.type
        if where == "cuda":
            where = f"cuda:{device.index}"
        elif where != "cpu":
            raise ProblemError([f"a tensor on device {device}; allowed: cpu, cuda"])
        shape, strides = tuple(array.shape), array.stride()
        return ArrayView(array.data_ptr(), shape, strides, names[array.dtype], array.element_size(), where)

    def glance(array: Any) -> tuple[int, Hashable]:
        return array.data_ptr(), (
            array.shape, array.stride(), array.dtype, array.device, array.layout, array.is_neg(),
            array.requires_grad and is_grad_enabled(),
        )  # fmt: skip

    def stream(array: Any) -> int:
        return torch.cuda.current_stream(array.device).cuda_stream if array.is_cuda else 0

    def streams(like: Any) -> Callable[[Any], int]:
        if not like.is_cuda:
            return lambda array: 0
        index = like.device.index
        return stream if raw_stream is None else lambda array: raw_stream(index)

    def empty(like: Any, shape: tuple[int, ...], dtype: str) -> Any:
        return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)

    def maker(like: Any, shape: tuple[int, ...], dtype: str) -> Callable[[Any], Any]:
        kind, device, new = getattr(torch, dtype), like.device, torch.empty
        if tuple(like.shape) == shape and like.dtype is kind and like.is_contiguous():
            return torch.empty_like
        return lambda array: new(shape, dtype=kind, device=device)

    def wants_grad(array: Any) -> bool:
        return array.requires_grad and is_grad_enabled()

    def wrote(array: Any) -> None:
        if not array.is_inference():  # such a tensor counts no versions
            torch.autograd.graph.increment_version(array)

    def holds(kind: type) -> bool:
        return issubclass(kind, torch.Tensor)

    return Library(
        "torch", view, stream, empty, holds, wants_grad=wants_grad, wrote=wrote, glance=glance,
        address=torch.Tensor.data_ptr, maker=maker, streams=streams,
    )  # fmt: skip
