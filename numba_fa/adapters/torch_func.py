"""torch's operators in another form, autograd.Function: for the transforms of torch.func (grad, vjp, vmap, ...), which take
no operator whose gradients Python registered, and for calls that only autograd has to see (ADR 0015).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from numba_fa.adapters.torch import no_forward_mode
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

    def backward(ctx: Any, *douts: Any) -> Any:
        saved = _Saved(ctx.saved_tensors, _grouped(ctx.needs_input_grad), ctx.rest)
        *first, arrays, sink, program, ints, floats, scale, deterministic = backward_rule(saved, *douts)
        return (*first, sink, None, None, None, None, None, *arrays)

    backward_rule = backward_of(gradients)
    parts = {"forward": forward, "setup_context": setup_context, "backward": backward, "vmap": vmap}
    apply = _function(torch, "Attention", **parts).apply

    def call(q: Any, k: Any, v: Any, arrays: Any, *rest: Any) -> Any:
        return apply(q, k, v, *rest, *arrays)

    rule = forward_vmap(torch, call)
    return call


def recorded_of(torch: Any, save: Call, backward: Call) -> Call:
    """(run, again, q, k, v, arrays and all else that the operator `attention` takes) -> what run gives of them, recorded.

    run: a function of the same arguments; save, backward: as the operator's own. again: None, or a function (saved tensors,
    which inputs need a gradient, dout, dlse) -> what goes back, or None where that is not as it was before. For calls that
    only autograd has to see.
    """
    def forward(ctx: Any, q: Any, k: Any, v: Any, sink: Any, how: Any, *arrays: Any) -> Any:
        run, ctx.again, *rest = how
        made = run(q, k, v, arrays, sink, *rest)
        save(ctx, (q, k, v, arrays, sink, *rest), made)
        return made

    def back(ctx: Any, *douts: Any) -> Any:
        tensors, needs = ctx.saved_tensors, ctx.needs_input_grad
        if ctx.again is not None and not torch.compiler.is_dynamo_compiling():
            made = ctx.again(tensors, needs, *douts)
            if made is not None:
                return made
        of_q, of_k, of_v, of_sink, _, *of_arrays = needs
        dq, dk, dv, darrays, dsink, *_ = backward(_Saved(tensors, (of_q, of_k, of_v, of_arrays, of_sink), ctx.rest), *douts)
        return (dq, dk, dv, dsink, None, *darrays)

    apply = _function(torch, "Attention", forward=forward, backward=back).apply

    def call(run: Call, again: Call | None, q: Any, k: Any, v: Any, arrays: Any, sink: Any, *rest: Any) -> Any:
        return apply(q, k, v, sink, (run, again, *rest), *arrays)

    return call


def _grouped(flat: Sequence[Any]) -> tuple[Any, ...]:
    """The arguments of `attention` from what a Function has: all that is no array of mask or biases, then those."""
    return (*flat[:3], list(flat[9:]), *flat[3:9])


class _Saved(NamedTuple):
    """What a backward reads of its ctx, with arguments in groups; ctx itself stays, for it may be asked again."""

    saved_tensors: Any
    needs_input_grad: Any
    rest: Any


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
    """An autograd.Function that refuses forward mode, also of tensors that a transform hides from who looks before."""
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise no_forward_mode("an array")

    parts["jvp"] = jvp
    return type(name, (torch.autograd.Function,), {part: staticmethod(code) for part, code in parts.items()})
