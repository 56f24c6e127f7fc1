"""From a call of attention to torch's operator: at once, where torch must see the call, or as torch.compile reads it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from numba_fa.adapters.arrays import library_of
from numba_fa.adapters.given import Given, named, refuse_tangents
from numba_fa.adapters.library import listed
from numba_fa.adapters.torch import casts, in_forward_mode, no_forward_mode, watched
from numba_fa.adapters.torch_ops import Operators, alone, transformed_backward
from numba_fa.errors import ProblemError, UnsupportedError
from numba_fa.problem.biases import Bias, biases_of
from numba_fa.problem.flat import flat, parameters
from numba_fa.problem.gradients import wanted_of
from numba_fa.problem.masks import Mask, mask_named
from numba_fa.problem.problem import choice_faults, scale_faults

_SEEN = (
    "whose gradients are recorded, or that are transformed or cast by autocast; take the tensor that attention returns, or "
    "call under torch.no_grad()"
)


def recorded(
    operators: Operators, q: Any, k: Any, v: Any, given: Given, scale: Any, out: Any, return_lse: bool, deterministic: bool
) -> Any:
    """What `attention` returns, as torch records it; ProblemError or UnsupportedError for what it cannot record."""
    chosen, biases = _declared(given, scale)
    if in_forward_mode():
        refuse_tangents(Given(chosen, biases, given.sink_logits), q=q, k=k, v=v, out=out)
    if out is not None and not watched():
        raise UnsupportedError(f"out is given for tensors {_SEEN}")
    program, ints, floats, arrays = flat(chosen, biases)
    *arrays, sink = _tensors(chosen, biases, arrays, given.sink_logits)
    _refuse_lost_gradients(program, arrays, Given(chosen, biases, sink))
    torch = sys.modules["torch"]
    if torch._C._are_functorch_transforms_active():
        operator = operators.transformed
    elif alone(torch, (q, k, v, *arrays, *([] if sink is None else [sink]))) and not any(map(casts, (q, k, v))):
        operator = partial(operators.recorded, operators.run, None)
    else:
        operator = operators.attention
    scale = None if scale is None else float(scale)
    made, lse = operator(q, k, v, arrays, sink, program, ints, floats, scale, deterministic)
    if out is not None:
        made = _into(out, made)
    return (made, lse) if return_lse else made


def transformed_gradients(
    backward: Callable[..., Any], arrays: Sequence[Any], given: Given, scale: Any, wanted: Any, deterministic: bool
) -> dict[str, Any]:
    """The wanted gradients by name, of tensors that torch.func transforms; ProblemError with every fault of the rest.

    backward: `attention_backward`. arrays: q, k, v, out, dout, lse and, if there is one, dlse.
    """
    asked, unknown = wanted_of(wanted, biases_of(given.bias) or (), given.sink_logits is not None)
    chosen, biases = _declared(given, scale, unknown)
    program, ints, floats, arrays_of_it = flat(chosen, biases)
    *arrays_of_it, sink = _tensors(chosen, biases, arrays_of_it, given.sink_logits)
    q, k, v, out, dout, lse, *dlse = arrays
    names = sorted(asked)
    made = transformed_backward(backward)(
        dout, dlse[0] if dlse else None, q, k, v, out, lse, arrays_of_it, sink, program, ints, floats,
        None if scale is None else float(scale), ",".join(names), deterministic,
    )  # fmt: skip
    return dict(zip(names, made))


def _declared(given: Given, scale: Any, others: Sequence[str] = ()) -> tuple[Mask, tuple[Bias, ...]]:
    """The mask and biases; ProblemError with the faults of their choice and of the scale, and the others."""
    chosen, biases = mask_named(given.mask), biases_of(given.bias)
    faults = [*choice_faults(given.mask, chosen, given.bias, biases), *scale_faults(scale), *others]
    if faults or chosen is None or biases is None:
        raise ProblemError(faults)
    return chosen, biases


def traced(
    q: Any, k: Any, v: Any, mask: Any, bias: Any, sink_logits: Any, scale: Any, out: Any, return_lse: bool,
    deterministic: bool,
) -> Any:  # fmt: skip
    """The same as torch.compile reads it: nothing here asks for a tensor's memory, and all that is no tensor is a constant.

    The operators are registered.
    """
    chosen, biases = mask_named(mask), biases_of(bias)
    if chosen is None or biases is None:
        _refuse(mask, bias)
    program, ints, floats, arrays = flat(chosen, biases)
    if in_forward_mode():  # which the program itself may have begun; what its callers hand in, the operator looks at
        for array in (q, k, v, *arrays, sink_logits):
            if array is not None and sys.modules["torch"].autograd.forward_ad.unpack_dual(array).tangent is not None:
                _refuse_tangent()
    made, lse = sys.modules["torch"].ops.numba_fa.attention.default(
        q, k, v, arrays, sink_logits, program, ints, floats, None if scale is None else float(scale), deterministic
    )
    if out is not None:
        made = _into(out, made)
    return (made, lse) if return_lse else made


def _into(out: Any, made: Any) -> Any:
    """The result in the array that was given for it."""
    if made.requires_grad or out.shape != made.shape or out.dtype != made.dtype:
        _refuse_out(tuple(made.shape))
    out.copy_(made)
    return out


def _refuse(mask: Any, bias: Any) -> NoReturn:
    raise ProblemError(choice_faults(mask, mask_named(mask), bias, biases_of(bias)))


def _refuse_out(shape: tuple[int, ...]) -> NoReturn:
    raise UnsupportedError(f"out is given for tensors {_SEEN}; in a graph out must be of q's dtype and shape {shape}")


def _refuse_tangent() -> NoReturn:
    raise no_forward_mode("an array")


# torch.compile calls these instead of reading them.
_refuse._dynamo_marked_constant = _refuse_out._dynamo_marked_constant = True  # type: ignore[attr-defined]
_refuse_tangent._dynamo_marked_constant = in_forward_mode._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _tensors(mask: Any, biases: Any, arrays: list[Any], sink_logits: Any) -> list[Any]:
    """The arrays and the sink as torch's tensors, sharing memory with those of other libraries."""
    torch = sys.modules["torch"]
    if all(isinstance(array, torch.Tensor) for array in arrays) and (
        sink_logits is None or isinstance(sink_logits, torch.Tensor)
    ):
        return [*arrays, sink_logits]
    labelled = Given(mask, biases, sink_logits).arrays

    def tensor(array: Any) -> Any:
        library_of(array)
        try:
            return array if isinstance(array, torch.Tensor) else torch.as_tensor(array)
        except Exception as error:
            raise ProblemError([f"torch makes no tensor of it ({error}); pass a tensor"]) from None

    try:
        return [*map(tensor, arrays), None if sink_logits is None else tensor(sink_logits)]
    except ProblemError:
        raise named(tensor, labelled) from None


def _refuse_lost_gradients(program: str, arrays: list[Any], given: Given) -> None:
    """UnsupportedError where a gradient is wanted of an array that gets none: a user's function's, or a mask's."""
    if not arrays or not sys.modules["torch"].is_grad_enabled():
        return
    known = [arrays[i] for i in parameters(program).values()]
    wanting = [array for array in arrays if array.requires_grad and not any(array is one for one in known)]
    lost = [label for label, array in given.arrays if any(array is one for one in wanting)]
    if lost:
        one = len(lost) == 1
        raise UnsupportedError(
            f"{listed(lost)} {'requires' if one else 'require'} grad, and attention has no gradient of "
            f"{'it' if one else 'them'}; biases with parameters that have gradients are ALiBi, DenseBias and T5Bias"
        )
