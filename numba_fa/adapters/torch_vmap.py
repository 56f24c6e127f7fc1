"""vmap of the operators, torch.func's and torch.autograd's: as one call with a larger batch where mask and biases do not
tell batch entries apart, as a call for each entry where they may.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

Rule = Callable[..., tuple[Any, Any]]


def forward_vmap(torch: Any, operator: Any) -> Rule:
    """The rule of attention(q, k, v, arrays, sink_logits, program, ...)."""

    def rule(info: Any, in_dims: Sequence[Any], *inputs: Any) -> tuple[Any, Any]:
        if not _batchless(inputs[3], in_dims[4], inputs[5]):
            made = [operator(*of_one) for of_one in _each(info, in_dims, inputs)]
            return tuple(map(torch.stack, zip(*made))), (0, 0)
        made = operator(*_folded(info, in_dims[:3], inputs[:3]), *inputs[3:])
        return tuple(x.unflatten(0, (info.batch_size, -1)) for x in made), (0, 0)

    return rule


def gradients_vmap(torch: Any, operator: Any) -> Rule:
    """The rule of attention_backward(dout, dlse, q, k, v, out, lse, arrays, sink_logits, program, ..., wanted, ...)."""

    def rule(info: Any, in_dims: Sequence[Any], *inputs: Any) -> tuple[Any, Any]:
        if not _batchless(inputs[7], in_dims[8], inputs[9]) or "sink" in inputs[13]:
            made = [operator(*of_one) for of_one in _each(info, in_dims, inputs)]
            return [torch.stack(same) for same in zip(*made)], [0] * len(made[0])
        made = operator(*_folded(info, in_dims[:7], inputs[:7]), *inputs[7:])
        return [x.unflatten(0, (info.batch_size, -1)) for x in made], [0] * len(made)

    return rule


def gradients_batched(torch: Any, operator: Any) -> Callable[..., list[Any]]:
    """The operator's code for gradients that torch.autograd maps itself (is_grads_batched, jacobian(vectorize=True)): by
    tensors of an older vmap, which knows no rules."""
    rule = gradients_vmap(torch, operator)

    def run(*inputs: Any) -> list[Any]:
        core = torch._C
        batched = core._dispatch_key_parse("Batched")  # which has no name in Python
        level = core._vmapmode_increment_nesting() - 1
        core._vmapmode_decrement_nesting()

        def dim_of(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return [*map(dim_of, value)]
            is_tensor = isinstance(value, torch.Tensor)
            return 0 if is_tensor and core._dispatch_keys(value).has(batched) else None

        def plain(value: Any, dim: Any) -> Any:
            if isinstance(dim, list):
                return [*map(plain, value, dim)]
            return value if dim is None else torch._remove_batch_dim(value, level, 1, 0)  # 1: of tensors that are not mapped

        dims = [*map(dim_of, inputs)]
        values = [*map(plain, inputs, dims)]
        size = next(value.shape[0] for value, dim in zip(values, dims) if dim == 0)
        made, _ = rule(SimpleNamespace(batch_size=size), dims, *values)
        return [torch._add_batch_dim(gradient, 0, level) for gradient in made]

    return run


def _batchless(arrays: Sequence[Any], sink_dim: Any, program: str) -> bool:
    """Whether mask and biases are the same for every entry of a batch, and of vmap's; functions may be, and pass for not."""
    return not arrays and sink_dim is None and "mod_" not in program


def _folded(info: Any, in_dims: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """vmap's axis made one with the batch, which is the first."""
    folded = []
    for array, dim in zip(inputs, in_dims):
        if array is not None:
            array = array.movedim(dim, 0) if dim is not None else array.expand(info.batch_size, *array.shape)
            array = array.flatten(0, 1)
        folded.append(array)
    return folded


def _each(info: Any, in_dims: Sequence[Any], inputs: Sequence[Any]) -> list[list[Any]]:
    """The arguments of each of vmap's entries."""

    def picked(value: Any, dim: Any, index: int) -> Any:
        if isinstance(dim, (list, tuple)):
            return [picked(one, where, index) for one, where in zip(value, dim)]
        return value if dim is None else value.select(dim, index)

    return [[picked(value, dim, i) for value, dim in zip(inputs, in_dims)] for i in range(info.batch_size)]
