"""torch's operators numba_fa::attention and numba_fa::attention_backward: what autograd, torch.compile, autocast,
checkpoints and torch.func know of attention. They take mask and biases taken apart (`problem/flat.py`), so that a graph
can hold a call, and another process can run it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

from numba_fa.adapters import torch as tensors
from numba_fa.adapters.given import Given, refuse_tangents
from numba_fa.adapters.torch_func import forward_of, gradients_of, recorded_of
from numba_fa.adapters.torch_vmap import forward_vmap, gradients_batched, gradients_vmap
from numba_fa.errors import UnsupportedError
from numba_fa.problem.flat import parameters, together

FORWARD = (
    "attention(Tensor q, Tensor k, Tensor v, Tensor[] arrays, Tensor? sink_logits, str program, SymInt[] ints, "
    "float[] floats, float? scale, bool deterministic) -> (Tensor out, Tensor lse)"
)
BACKWARD = (
    "attention_backward(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
    "Tensor[] arrays, Tensor? sink_logits, str program, SymInt[] ints, float[] floats, float? scale, str wanted, "
    "bool deterministic) -> Tensor[]"
)
DEVICES = ("cpu", "cuda")


class Operators(NamedTuple):
    """The two operators, with their schemas as above. wanted: names of gradients ("q", "bias0", "sink") and commas.

    transformed: `attention` for tensors that torch.func transforms. recorded: for calls that are `alone`; of its first two
    arguments one computes, `run` or what does the same, the other knows the way back or is None; the rest are the same.
    """

    attention: Any
    attention_backward: Any
    transformed: Callable[..., Any]
    recorded: Callable[..., Any]
    run: Callable[..., Any]


@cache
def operators(forward: Callable[..., Any], backward: Callable[..., Any]) -> Operators:
    """The operators, registered with torch. forward, backward: `attention` and `attention_backward` on plain tensors."""
    torch = sys.modules["torch"]
    _LIBRARIES.append(torch.library.Library("numba_fa", "DEF"))
    library = _LIBRARIES[-1]
    for schema in (FORWARD, BACKWARD):
        library.define(schema)
    attention, attention_backward = torch.ops.numba_fa.attention.default, torch.ops.numba_fa.attention_backward.default
    run_forward, run_backward = _forward(torch, forward), _backward(torch, backward)
    for name, run in (("attention", run_forward), ("attention_backward", run_backward)):
        for device in DEVICES:
            library.impl(name, run, device.upper())
    for device in DEVICES:
        library.impl("attention", _autocast(torch, device, attention), f"Autocast{device.upper()}")
    with suppress(RuntimeError):  # a version of torch that has no such key
        library.impl("attention_backward", gradients_batched(torch, attention_backward), "Batched")
    facts = {
        "attention": (
            _empty_results(torch), _backward_of(torch, attention_backward), _save, forward_vmap(torch, attention)
        ),
        "attention_backward": (
            _empty_gradients(torch), _refuse_twice, _save_nothing, gradients_vmap(torch, attention_backward)
        ),
    }  # fmt: skip
    for name, (fake, backward_of, save, vmap) in facts.items():
        torch.library.register_fake(f"numba_fa::{name}", fake, lib=library)
        torch.library.register_autograd(f"numba_fa::{name}", backward_of, setup_context=save, lib=library)
        torch.library.register_vmap(f"numba_fa::{name}", vmap, lib=library)
    gradients = gradients_of(torch, attention_backward, _refuse_twice)
    transformed = forward_of(torch, attention, _save, partial(_backward_of, torch), gradients)

    def at_once(dout: Any, dlse: Any, *rest: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():  # a backward that torch.compile reads, which wants the operator
            return attention_backward(dout, dlse, *rest)
        q, k, v, out, lse, arrays, sink, *_ = rest
        given = [dout] if dlse is None else [dout, dlse]
        # What was saved was plain; hooks of saved tensors may give back another class.
        saved = [q, k, v, out, lse, *arrays] if sink is None else [q, k, v, out, lse, sink, *arrays]
        plain = classes(torch).issuperset(map(type, saved)) and alone(torch, given)
        quick = plain and not torch.is_grad_enabled()
        return (run_backward if quick else attention_backward)(dout, dlse, *rest)

    recorded = recorded_of(torch, _save, _backward_of(torch, at_once))
    return Operators(attention, attention_backward, transformed, recorded, run_forward)


@cache
def transformed_backward(backward: Callable[..., Any]) -> Callable[..., Any]:
    """`attention_backward` with its operator's arguments, for tensors that torch.func transforms. backward: as of
    `operators`."""
    torch = sys.modules["torch"]
    return gradients_of(torch, _backward(torch, backward), _refuse_twice)


@cache
def classes(torch: Any) -> frozenset[type]:
    """Of tensors that stand for nothing else."""
    return frozenset((torch.Tensor, torch.nn.Parameter))


def alone(torch: Any, arrays: Sequence[Any]) -> bool:
    """Whether nobody but autograd has to see a call on these tensors: no transform, mode, tracer or class of tensors.

    Modes of `__torch_function__`, which `with torch.device(...)` is one of, are not asked.
    """
    if torch._C._are_functorch_transforms_active() or tensors.watched():
        return False
    kinds, keys = classes(torch), torch._C._dispatch_keys
    for array in arrays:
        if type(array) not in kinds or (keys(array).raw_repr() not in _PLAIN and not _is_plain(torch, array)):
            return False
    return True


# What says that a tensor is stored, as numbers, where kernels run, and that nobody stands between: its dispatch keys.
_PLAIN: set[int] = set()


def _is_plain(torch: Any, array: Any) -> bool:
    keys = torch._C._dispatch_keys(array)
    odd = any(word in str(keys) for word in ("Negative", "Conjugate", "ZeroTensor", "Batched", "Python", "Func"))
    plain = not odd and array.device.type in DEVICES and array.layout is torch.strided
    if plain:
        _PLAIN.add(keys.raw_repr())
    return plain


_LIBRARIES: list[Any] = []  # registrations last as long as these


def _forward(torch: Any, attention: Callable[..., Any]) -> Callable[..., Any]:
    """What the operator does on tensors with memory."""

    def run(q: Any, k: Any, v: Any, arrays: Any, sink_logits: Any, program: str, ints: Any, floats: Any, scale: Any,
            deterministic: bool) -> Any:  # fmt: skip
        mask, biases = _declared(program, ints, floats, arrays)
        with torch.no_grad():
            return attention(
                q, k, v, mask=mask, bias=biases or None, sink_logits=sink_logits, scale=scale, return_lse=True
            )

    return run


def _backward(torch: Any, attention_backward: Callable[..., Any]) -> Callable[..., Any]:
    def run(dout: Any, dlse: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, arrays: Any, sink_logits: Any, program: str,
            ints: Any, floats: Any, scale: Any, wanted: str, deterministic: bool) -> list[Any]:  # fmt: skip
        mask, biases = _declared(program, ints, floats, arrays)
        names = tuple(wanted.split(","))
        with torch.no_grad():
            found = attention_backward(
                _as_kernels_take_it(torch, dout), q, k, v, out, lse.contiguous(), mask=mask, bias=biases or None,
                sink_logits=sink_logits, scale=scale, dlse=None if dlse is None else dlse.contiguous(), wanted=names,
                deterministic=deterministic or strictly(torch),
            )  # fmt: skip
        given = {"q": found.dq, "k": found.dk, "v": found.dv, "sink": found.dsink}
        given |= {f"bias{i}": gradient for i, gradient in enumerate(found.dbias)}
        return [given[name] for name in names]

    return run


def strictly(torch: Any) -> bool:
    """Whether torch was told to compute what is bit-equal from run to run."""
    return bool(torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled())


def _declared(program: str, ints: Sequence[int], floats: Sequence[float], arrays: Sequence[Any]) -> Any:
    """What `together` gives; without arrays the very objects that it gave before, of which more is known already."""
    if arrays:
        return together(program, ints, floats, arrays)
    return _without_arrays(program, tuple(ints), tuple(map(float.hex, floats)))


@lru_cache(maxsize=1024)
def _without_arrays(program: str, ints: tuple[int, ...], floats: tuple[str, ...]) -> Any:
    """floats: as text, in which 0.0 and -0.0 differ."""
    return together(program, ints, [*map(float.fromhex, floats)], ())


def _as_kernels_take_it(torch: Any, array: Any) -> Any:
    """The tensor, or a copy where it is expanded, scattered or lies at an odd address, as what autograd hands in may."""
    if array.is_contiguous() and not array.data_ptr() & 15:
        return array
    view = tensors.library().view(array)
    fit = view.contiguous_last and view.alignment == 16
    return array if fit else array.clone(memory_format=torch.contiguous_format)


def _autocast(torch: Any, device: str, operator: Any) -> Callable[..., Any]:
    """q, k and v in the dtype that autocast asks for, as torch's own attention takes them; all else as it is."""
    ours = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, f"Autocast{device.upper()}"))

    def run(q: Any, k: Any, v: Any, *rest: Any) -> Any:
        dtype = torch.get_autocast_dtype(device)
        cast = [
            x.to(dtype) if x.is_floating_point() and x.dtype is not torch.float64 else x
            for x in (q, k, v)
        ]  # fmt: skip
        with torch._C._ExcludeDispatchKeyGuard(ours):
            return operator(*cast, *rest)

    return run


def _empty_results(torch: Any) -> Callable[..., Any]:
    def fake(q: Any, k: Any, v: Any, *rest: Any) -> tuple[Any, Any]:
        batch, seqlen_q, heads, _ = q.shape
        return q.new_empty((*q.shape[:3], v.shape[3])), q.new_empty((batch, heads, seqlen_q), dtype=torch.float32)

    return fake


def _empty_gradients(torch: Any) -> Callable[..., Any]:
    def fake(dout: Any, dlse: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, arrays: Any, sink_logits: Any, program: str,
             ints: Any, floats: Any, scale: Any, wanted: str, deterministic: bool) -> list[Any]:  # fmt: skip
        like = {"q": q, "k": k, "v": v, "sink": sink_logits}
        like |= {name: arrays[index] for name, index in parameters(program).items()}
        return [
            q.new_empty(like[name].shape, dtype=q.dtype if name in "qkv" else torch.float32) for name in wanted.split(",")
        ]

    return fake


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, Any]) -> None:
    q, k, v, arrays, sink_logits, *ctx.rest = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, *output, sink_logits, *arrays)


def _backward_of(torch: Any, attention_backward: Callable[..., Any]) -> Callable[..., Any]:
    """What autograd calls: only gradients that are needed are computed."""

    def backward(ctx: Any, dout: Any, dlse: Any) -> tuple[Any, ...]:
        q, k, v, out, lse, sink_logits, *arrays = ctx.saved_tensors
        program, ints, floats, scale, deterministic = ctx.rest
        numbers = parameters(program)
        of_q, of_k, of_v, of_arrays, of_sink, *_ = ctx.needs_input_grad
        names = needed((of_q, of_k, of_v, of_sink), of_arrays, numbers)
        found: dict[str, Any] = {}
        if names and not (dout is None and dlse is None):
            dout = torch.zeros_like(out) if dout is None else dout
            # An operator's own error, where it is an operator that goes back, would name no array.
            if tensors.in_forward_mode() and not torch.compiler.is_dynamo_compiling():
                refuse_tangents(Given(None, None, None), dout=dout, dlse=dlse)
            made = attention_backward(
                dout, dlse, q, k, v, out, lse, arrays, sink_logits, program, ints, floats, scale, ",".join(names),
                deterministic,
            )  # fmt: skip
            found = dict(zip(names, made))
        of_array = {numbers[name]: made for name, made in found.items() if name in numbers}
        darrays = [of_array[i].to(arrays[i].dtype) if i in of_array else None for i in range(len(arrays))]
        # An empty list stands for itself: torch takes it for a list of tensors.
        nothing: list[Any] = [None if values else [] for values in (ints, floats)]
        return (*[found.get(name) for name in "qkv"], darrays, found.get("sink"), None, *nothing, None, None)

    return backward


def needed(first: Sequence[bool], of_arrays: Sequence[bool], numbers: dict[str, int]) -> list[str]:
    """Names of the gradients that autograd needs; of arrays only parameters, of these numbers, have one.

    first: of q, k, v and sink_logits.
    """
    if any(wanted and i not in numbers.values() for i, wanted in enumerate(of_arrays)):
        raise UnsupportedError("a tensor that a user's function or a mask reads requires grad; attention has none of it")
    of_q, of_k, of_v, of_sink = first
    needs = {"q": of_q, "k": of_k, "v": of_v, **{name: of_arrays[i] for name, i in numbers.items()}, "sink": of_sink}
    return [name for name, wanted in needs.items() if wanted]


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Any]) -> None:
    return None


def _refuse_twice(ctx: Any, *gradients: Any) -> Any:
    raise UnsupportedError(
        "attention has no second derivatives: its gradients were computed with create_graph=True and differentiated again",
        nearest="torch.nn.functional.scaled_dot_product_attention with the backend SDPBackend.MATH",
    )
