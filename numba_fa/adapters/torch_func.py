"""torch's operators in another form, autograd.Function: for the transforms of torch.func (grad, vjp, vmap, ...), which take
no operator whose gradients Python registered, and for calls that only autograd has to see, which it records so in 20 us
where an operator takes 80.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from numba_fa.adapters.torch_vmap import forward_vmap, gradients_vmap

Call = Callable[..., Any]


def forward_of(torch: Any, operator: Call, save: Call, backward_of: Callable[[Call], Call], gradients: Call) -> Call:
    """The operator `attention` for torch.func, of the same arguments.

    save, backward_of: as the operator's own (`torch_ops`); gradients: the operator of gradients for torch.func.
    """
    def forward(*flat: Any) -> Any:
        return operator(*_grouped(flat))

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        save(ctx, _grouped(inputs), output)

    def vmap(info: Any, in_dims: Any, *flat: Any) -> Any:
        return rule(info, _grouped(in_dims), *_grouped(flat))

    backward = _backward(backward_of(gradients))
    call = _call(_function(torch, "Attention", forward=forward, setup_context=setup_context, backward=backward, vmap=vmap))
    rule = forward_vmap(torch, call)
    return call


def recorded_of(torch: Any, run: Call, save: Call, backward: Call) -> Call:
    """The operator `attention` for calls that only autograd has to see, of the same arguments.

    run: what the operator does; save, backward: as the operator's own.
    """
    def forward(ctx: Any, *flat: Any) -> Any:
        inputs = _grouped(flat)
        made = run(*inputs)
        save(ctx, inputs, made)
        return made

    return _call(_function(torch, "Attention", forward=forward, backward=_backward(backward)))


def _grouped(flat: Sequence[Any]) -> tuple[Any, ...]:
    """The arguments of `attention` from what a Function has: all that is no array of mask or biases, then those."""
    return (*flat[:3], list(flat[9:]), *flat[3:9])


class _Saved(NamedTuple):
    """What a backward reads of its ctx, with arguments in groups; ctx itself stays, for it may be asked again."""

    saved_tensors: Any
    needs_input_grad: Any
    rest: Any


def _backward(backward_rule: Call) -> Call:
    def backward(ctx: Any, *douts: Any) -> Any:
        saved = _Saved(ctx.saved_tensors, _grouped(ctx.needs_input_grad), ctx.rest)
        *first, arrays, sink, program, ints, floats, scale, deterministic = backward_rule(saved, *douts)
        return (*first, sink, None, None, None, None, None, *arrays)

    return backward


def _call(function: Any) -> Call:
    apply = function.apply

    def call(q: Any, k: Any, v: Any, arrays: Any, *rest: Any) -> Any:
        return apply(q, k, v, *rest, *arrays)

    return call


def gradients_of(torch: Any, operator: Call, refuse: Call) -> Call:
    """The operator `attention_backward` for torch.func, of the same arguments."""

    def grouped(flat: Sequence[Any]) -> tuple[Any, ...]:
        return (*flat[:7], list(flat[14:]), *flat[7:14])

    def forward(*flat: Any) -> Any:
        return tuple(operator(*grouped(flat)))

    def vmap(info: Any, in_dims: Any, *flat: Any) -> Any:
        made, dims = rule(info, grouped(in_dims), *grouped(flat))
        return tuple(made), tuple(dims)

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        return None

    parts = {"forward": forward, "setup_context": setup_context, "backward": refuse, "vmap": vmap}
    made = _function(torch, "AttentionGradients", **parts)

    def call(*inputs: Any) -> Any:
        return made.apply(*inputs[:7], *inputs[8:], *inputs[7])

    rule = gradients_vmap(torch, call)
    return call


def _function(torch: Any, name: str, **parts: Call) -> Any:
    return type(name, (torch.autograd.Function,), {part: staticmethod(code) for part, code in parts.items()})
