"""Attention under the transforms of torch.func (grad, vjp, vmap, ...), which take no operator whose gradients Python
registered: the same operators in the form that they take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numba_fa.adapters.torch_vmap import forward_vmap, gradients_vmap

Call = Callable[..., Any]


def forward_of(torch: Any, operator: Call, save: Call, backward_of: Callable[[Call], Call], gradients: Call) -> Call:
    """The operator `attention` for torch.func, of the same arguments.

    save, backward_of: as the operator's own (`torch_ops`); gradients: the operator of gradients for torch.func.
    """
    backward_rule = backward_of(gradients)

    def grouped(flat: Sequence[Any]) -> tuple[Any, ...]:
        return (*flat[:3], list(flat[9:]), *flat[3:9])

    def forward(*flat: Any) -> Any:
        return operator(*grouped(flat))

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        save(ctx, grouped(inputs), output)

    def backward(ctx: Any, *douts: Any) -> Any:
        ctx.needs_input_grad = grouped(ctx.needs_input_grad)
        *first, arrays, sink, program, ints, floats, scale, deterministic = backward_rule(ctx, *douts)
        return (*first, sink, None, None, None, None, None, *arrays)

    def vmap(info: Any, in_dims: Any, *flat: Any) -> Any:
        return rule(info, grouped(in_dims), *grouped(flat))

    made = _function(torch, "Attention", forward, setup_context, backward, vmap)

    def call(q: Any, k: Any, v: Any, arrays: Any, *rest: Any) -> Any:
        return made.apply(q, k, v, *rest, *arrays)

    rule = forward_vmap(torch, call)
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

    made = _function(torch, "AttentionGradients", forward, lambda ctx, inputs, output: None, refuse, vmap)

    def call(*inputs: Any) -> Any:
        return made.apply(*inputs[:7], *inputs[8:], *inputs[7])

    rule = gradients_vmap(torch, call)
    return call


def _function(torch: Any, name: str, forward: Call, setup_context: Call, backward: Call, vmap: Call) -> Any:
    parts = {"forward": forward, "setup_context": setup_context, "backward": backward, "vmap": vmap}
    return type(name, (torch.autograd.Function,), {part: staticmethod(code) for part, code in parts.items()})
