"""torch's tensors. Every call of attention passes here, so what is asked of a tensor is counted in nanoseconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from contextlib import nullcontext
from functools import cache
from types import SimpleNamespace
from typing import Any

from numba_fa.adapters.library import Library, listed
from numba_fa.adapters.torch_around import transform, transforming, without
from numba_fa.errors import ProblemError, UnsupportedError
from numba_fa.problem.arrays import ArrayView, dense_strides


class _Unusual(Exception):
    """Tensors are not as those of a call made before; what is wrong with them, if anything, is told elsewhere."""


def _increment_version(torch: Any) -> Callable[[tuple[Any, ...]], None]:
    """torch's function that counts a write into tensors, without the Python around it where that can be left out."""
    public = torch.autograd.graph.increment_version
    try:
        with without():
            direct, probe = torch._C._increment_version, torch.empty(1)
        before = probe._version
        direct((probe,))
        return direct if probe._version == before + 1 else public
    except Exception:  # another version of torch
        return public


def _tells(torch: Any, check: Callable[..., bool], other: Any) -> bool:
    """Whether a check of torch.zeros(2, 4) passes the other such tensor, and none that is unlike it."""
    others = (
        torch.zeros(4, 2), torch.zeros(4, 2).t(), torch.zeros(2, 4, dtype=torch.float16), other.to("meta"),
        torch._neg_view(other), torch.zeros(2, 4, requires_grad=True), other.to_sparse(), torch.nn.Parameter(other),
    )  # fmt: skip
    with torch.enable_grad():
        told = check(other) and not any(check(tensor) for tensor in others)
    with torch.autocast("cpu"):
        told = told and not check(other)
    with torch.inference_mode():
        return told and not check(torch.zeros(2, 4))


def _guards(torch: Any) -> Callable[..., Callable[..., bool] | None] | None:
    """torch's own quick test that tensors are as others were in all but address and contents, which torch.compile asks
    before each call: type, dtype, device, sizes, strides, what wants a gradient, whether autocast or a transform is at work;
    None where it does not tell all that.
    """
    try:
        from_tensors = torch._C._dynamo.guards.TensorGuards
        with without():
            plain, other = torch.zeros(2, 4), torch.zeros(2, 4)
            check = from_tensors(plain, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
            told = _tells(torch, check, other)
        with transform():
            told = told and not check(other)
    except Exception:  # another version of torch
        return None

    is_recording, cast_to = torch.is_grad_enabled, torch.get_autocast_dtype
    tracer, modes, levels = torch._C._get_tracing_state, torch._C._len_torch_dispatch_stack, _levels(torch)

    def guard(*arrays: Any, alone: bool = False) -> Callable[..., bool] | None:
        if len(set(map(id, arrays))) < len(arrays):  # one tensor twice never passes
            return None
        check = from_tensors(*arrays, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
        where = arrays[0].device.type
        # It tells who requires grad and not whether that is heeded, that autocast is at work and not for which dtype, and
        # nothing of tangents, which tensors have within a level of forward mode only.
        recording = is_recording() if any(array.requires_grad for array in arrays) else None
        dtype = cast_to(where) if torch.is_autocast_enabled(where) else None
        if recording is None and dtype is None:
            if not alone:
                return lambda *others: check(*others) and levels._current_level < 0
            return lambda *others: check(*others) and levels._current_level < 0 and tracer() is None and not modes()

        def checked(*others: Any) -> bool:
            as_then = (recording is None or is_recording() is recording) and (dtype is None or cast_to(where) is dtype)
            return (
                as_then and check(*others) and levels._current_level < 0
                and not (alone and (tracer() is not None or modes()))
            )  # fmt: skip

        return checked

    return guard if told else None


def _empty_here(torch: Any) -> tuple[Callable[..., Any], Callable[[], int]] | None:
    """(shape, strides, dtype) -> a new tensor on the current GPU, and that one's number: what torch.compile's programs call.
    Takes 2.2 us where empty_like takes 3.2 (an H200's host). None in another version of torch.
    """
    try:
        return torch._C._dynamo.guards._empty_strided_cuda, torch._C._cuda_getDevice
    except AttributeError:
        return None


def _levels(torch: Any) -> Any:
    """What has `_current_level`, which is below 0 where no level of forward-mode differentiation is open.

    A version of torch that does not tell has one open always: each tensor is asked then.
    """
    module = torch.autograd.forward_ad
    return module if hasattr(module, "_current_level") else SimpleNamespace(_current_level=0)


@cache
def _levels_here() -> Any:
    return _levels(sys.modules["torch"])


def in_forward_mode() -> bool:
    """Whether a level of forward-mode differentiation is open, without which no tensor has a tangent."""
    return bool(_levels_here()._current_level >= 0)


def has_tangent(array: Any) -> bool:
    """Whether forward-mode differentiation follows the tensor (`make_dual`, torch.func.jvp)."""
    if not in_forward_mode():
        return False
    torch = sys.modules["torch"]
    for context in (nullcontext, torch.overrides.enable_reentrant_dispatch):  # the other inside of a dispatch mode
        try:
            with context():
                return torch.autograd.forward_ad.unpack_dual(array).tangent is not None
        except Exception:  # neither tells of sparse tensors, which are refused as such, nor of vmap's: see torch_func
            continue
    return False


def no_forward_mode(*names: str) -> UnsupportedError:
    """The error of tangents that would be lost, of the arrays of these names."""
    followed = f"{listed(names)} {'has a tangent' if len(names) == 1 else 'have tangents'}"
    return UnsupportedError(
        f"{followed}, and attention has no forward-mode derivatives (torch.autograd.forward_ad, torch.func.jvp, "
        "jacfwd, linearize); take reverse mode, which is torch.func.vjp, grad or jacrev, or backward() of tensors that "
        "require grad; or detach() what is to be a constant",
        nearest="torch.nn.functional.scaled_dot_product_attention with the backend SDPBackend.MATH",
    )


def casts(array: Any) -> bool:
    """Whether autocast would have the tensor in another dtype."""
    torch, where, dtype = sys.modules["torch"], array.device.type, array.dtype
    return (
        where in ("cpu", "cuda") and torch.is_autocast_enabled(where) and dtype.is_floating_point
        and dtype is not torch.float64 and dtype is not torch.get_autocast_dtype(where)
    )  # fmt: skip


def watched() -> bool:
    """Whether a tracer or a dispatch mode follows what is called."""
    seen_by = sys.modules["torch"]._C
    return bool(
        seen_by._len_torch_dispatch_stack() or seen_by._get_tracing_state() is not None
        or seen_by._dispatch_tls_is_dispatch_key_included(seen_by.DispatchKey.PreDispatch)
    )  # fmt: skip


def stands_for_another(array: Any) -> bool:
    """Whether a transform of torch.func, a tracer or a class of its own has the tensor's memory."""
    torch = sys.modules["torch"]
    return (
        type(array).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
        or torch._C._functorch.is_functorch_wrapped_tensor(array) or torch._is_functional_tensor(array)
    )  # fmt: skip


@cache
def library() -> Library:
    """torch, which is loaded, because one of its tensors is here."""
    torch = sys.modules["torch"]
    names = {getattr(torch, name): name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)}
    strided, is_grad_enabled, levels = torch.strided, torch.is_grad_enabled, _levels(torch)
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
        try:
            at = array.data_ptr()
        except RuntimeError:
            raise ProblemError(["a tensor without memory of its own, as those of torch.func's transforms and of classes "
                                "that stand for others; memory is wanted here (attention without out takes such)"]) from None
        return ArrayView(at, shape, strides, names[array.dtype], array.element_size(), where)

    def glance(array: Any) -> tuple[int, Hashable]:
        if levels._current_level >= 0 and has_tangent(array):
            raise no_forward_mode("an array")
        return array.data_ptr(), (
            array.shape, array.stride(), array.dtype, array.device, array.layout, array.is_neg(),
            array.requires_grad and is_grad_enabled(),
        )  # fmt: skip

    def glances(q: Any, k: Any, v: Any, out: Any, lse: Any) -> tuple[int, int, int, int, int, Hashable]:
        # Written out, and with every property asked for once: a property takes 50 ns, as does a call of Python's.
        dtype, device = q.dtype, q.device
        if (
            q.layout is not strided or k.layout is not strided or v.layout is not strided
            or q.is_neg() or k.is_neg() or v.is_neg()
            or k.dtype is not dtype or v.dtype is not dtype or k.device != device or v.device != device
            or ((q.requires_grad or k.requires_grad or v.requires_grad) and is_grad_enabled())
            or (autocasts() and casts(q)) or watched() or transforming()
            or (levels._current_level >= 0 and any(map(has_tangent, (q, k, v))))
        ):  # fmt: skip
            raise _Unusual
        facts: tuple[Any, ...] = (q.shape, q.stride(), k.shape, k.stride(), v.shape, v.stride(), dtype, device)
        q_at, k_at, v_at = q.data_ptr(), k.data_ptr(), v.data_ptr()
        if not (q_at and k_at and v_at):  # no keys, or tensors that stand for others
            raise _Unusual
        if out is None and lse is None:
            return q_at, k_at, v_at, 0, 0, facts
        out_at = lse_at = 0
        if out is not None:
            if (
                out.layout is not strided or out.is_neg() or out.dtype is not dtype or out.device != device
                or (out.requires_grad and is_grad_enabled()) or (levels._current_level >= 0 and has_tangent(out))
            ):  # fmt: skip
                raise _Unusual
            out_at, facts = out.data_ptr(), (*facts, out.shape, out.stride())
        if lse is not None:
            lse_at, lse_facts = glance(lse)
            facts = (*facts, lse_facts)
        return q_at, k_at, v_at, out_at, lse_at, facts

    def stream(array: Any) -> int:
        return torch.cuda.current_stream(array.device).cuda_stream if array.is_cuda else 0

    def streams(like: Any) -> Callable[[Any], int]:
        if not like.is_cuda:
            return lambda array: 0
        index = like.device.index
        return stream if raw_stream is None else lambda array: raw_stream(index)

    def empty(like: Any, shape: tuple[int, ...], dtype: str) -> Any:
        with without():
            return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)

    def maker(like: Any, shape: tuple[int, ...], dtype: str) -> Callable[[Any], Any]:
        kind, device, new = getattr(torch, dtype), like.device, torch.empty
        if like.is_cuda and here is not None:
            index, strides, (new_here, current) = device.index, dense_strides(shape), here

            def made(array: Any) -> Any:
                return new_here(shape, strides, kind) if current() == index else new(shape, dtype=kind, device=device)

            return made
        if tuple(like.shape) == shape and like.dtype is kind and like.is_contiguous():
            return torch.empty_like
        # An array like one of this shape, which need have but one element, is made in half the time.
        like_new, empty_like = new((), dtype=kind, device=device).expand(shape), torch.empty_like
        if empty_like(like_new).is_contiguous():
            return lambda array: empty_like(like_new)
        return lambda array: new(shape, dtype=kind, device=device)

    here = _empty_here(torch)

    def wants_grad(array: Any) -> bool:
        return array.requires_grad and is_grad_enabled()

    autocasts = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)

    def seen(*arrays: Any) -> bool:
        return (
            any(wants_grad(x) or stands_for_another(x) for x in arrays) or (autocasts() and any(map(casts, arrays[:3])))
            or watched()
        )  # fmt: skip

    increment_version = _increment_version(torch)

    def wrote(array: Any) -> None:
        if not array.is_inference():  # such a tensor counts no versions
            increment_version((array,))

    def writes(*like: Any) -> Callable[[tuple[Any, ...]], None]:
        def one_by_one(arrays: tuple[Any, ...]) -> None:
            for array in arrays:
                wrote(array)

        return one_by_one if any(array.is_inference() for array in like) else increment_version

    def holds(kind: type) -> bool:
        return issubclass(kind, torch.Tensor)

    return Library(
        "torch", view, stream, empty, holds, wants_grad=wants_grad, has_tangent=has_tangent, seen=seen, wrote=wrote,
        glance=glance, glances=glances, guard=_guards(torch), address=torch.Tensor.data_ptr, maker=maker,
        streams=streams, writes=writes,
    )  # fmt: skip
