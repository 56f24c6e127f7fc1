"""Calls that torch records, made again: what was found out about one is kept for tensors that lie as its did."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from numba_fa import env
from numba_fa.adapters import torch as tensors
from numba_fa.adapters.given import Given
from numba_fa.adapters.torch_ops import alone, classes, needed, strictly
from numba_fa.problem.biases import biases_of
from numba_fa.problem.flat import flat, parameters
from numba_fa.problem.masks import mask_named

_MOST_CALLS = 1024
_FOUND = tuple["Recorded", list[Any]]  # and the arrays of mask, biases and sink_logits


class _Rest(NamedTuple):
    """What the operator `attention` takes behind the arrays."""

    program: str
    ints: list[int]
    floats: list[float]
    scale: float | None
    deterministic: bool = False


@dataclass(slots=True)
class Recorded:
    """How to do a recorded call again.

    guard(q, k, v): whether they lie as its did and the same gradients are wanted. call: how `attention` does it, with the
    LSE, when nothing is recorded. has_sink: whether the last of the arrays is sink_logits. facts: of mask, biases and
    arrays, where nothing is recorded; seen: of each array, and how their addresses end. backs: the last calls of
    `attention_backward`, by what they are known by there.
    """

    guard: Callable[..., bool]
    call: Any
    record: Callable[..., Any]
    rest: _Rest
    has_sink: bool
    facts: Any
    seen: tuple[Any, ...]
    backs: Mapping[Any, Any]

    def fits(self, q: Any, k: Any, v: Any, arrays: list[Any]) -> bool:
        """Whether it is such a call again; of mask, biases and arrays that is known but for the arrays' classes."""
        if not (self.guard(q, k, v) and alone(sys.modules["torch"], arrays)):
            return False
        address = self.call.address
        q_at, k_at, v_at = address(q), address(k), address(v)
        return bool((q_at | k_at | v_at) & 15 == self.call.ending and q_at and k_at and v_at)

    def run(self, q: Any, k: Any, v: Any, arrays: list[Any], return_lse: bool) -> Any:
        """What `attention` returns, recorded; of tensors that fit."""
        sink = arrays.pop() if self.has_sink else None
        made = self.record(self._compute, self._back, q, k, v, arrays, sink, *self.rest)
        return made if return_lse else made[0]

    def _compute(self, q: Any, k: Any, v: Any, arrays: Sequence[Any], sink: Any, *rest: Any) -> Any:
        address = self.call.address
        aux = (*map(address, arrays), *(() if sink is None else (address(sink),)))
        return self.call.run(q, None, True, address(q), address(k), address(v), 0, aux)

    def _back(self, saved: tuple[Any, ...], needs: tuple[bool, ...], dout: Any, dlse: Any) -> tuple[Any, ...] | None:
        """The gradients of all inputs, or None: as `adapters.torch_func.recorded_of` asks for."""
        torch = sys.modules["torch"]
        if dout is None or dlse is not None or torch.is_grad_enabled():
            return None
        q, k, v, out, lse, sink, *arrays = saved
        others = arrays if sink is None else [*arrays, sink]
        if not (classes(torch).issuperset(map(type, (q, k, v, out, lse))) and alone(torch, [dout, *others])):
            return None
        names, of_arrays = _wanted(needs, self.rest.program)
        call = self.backs.get((self.facts, self.rest.scale, names, strictly(torch), 6, env.backend_mark()))
        inputs = call and call.inputs_of(q, k, v, out, dout, lse)
        aux = self._addresses(others) if inputs else None
        if call is None or inputs is None or aux is None:
            return None
        dq, dk, dv, dbias, dsink = call.run(q, inputs, aux)
        darrays = [None if bias is None else dbias[bias].to(array.dtype) for array, bias in zip(arrays, of_arrays)]
        return (dq, dk, dv, dsink, None, *darrays)

    def _addresses(self, arrays: list[Any]) -> list[int] | None:
        """Where the arrays are, or None where they are not as they were."""
        if not arrays:
            return []
        aux, seen = _glances(arrays)
        return aux if seen == self.seen and all(aux) else None


@lru_cache(maxsize=1024)
def _wanted(needs: tuple[bool, ...], program: str) -> tuple[tuple[str, ...], tuple[int | None, ...]]:
    """(names of the gradients that are needed; of each array the number of the bias whose gradient is its own, or None).

    needs: of q, k, v, sink_logits, nothing, and each array.
    """
    numbers, of_arrays = parameters(program), needs[5:]
    names = needed(needs[:4], of_arrays, numbers)
    biases = {i: int(name.removeprefix("bias")) for name, i in numbers.items() if name in names}
    return tuple(names), tuple(biases.get(i) for i in range(len(of_arrays)))


def _glances(arrays: Sequence[Any]) -> tuple[list[int], tuple[Any, ...]]:
    """Addresses of torch's tensors, and all else that is known of them, with how the addresses end."""
    glance, aux, seen, bits = tensors.library().glance, [], [], 0
    for array in arrays:
        at, facts = glance(array)
        aux.append(at)
        seen.append(facts)
        bits |= at
    return aux, (*seen, bits & 15)


class RecordedCalls:
    """Recorded calls by all but how q, k and v lie, the last of them, and by the call that computes, each.

    recent: such calls that record nothing (`Calls.recent`); the one that computes a recorded call is there from its second
    time on. backs: the same of `attention_backward`.
    """

    def __init__(self, recent: Mapping[Any, Any], backs: Mapping[Any, Any]) -> None:
        self._recent, self._backs = recent, backs
        self._known: dict[Any, Recorded] = {}

    def find(self, how: Any, q: Any, k: Any, v: Any, given: tuple[Any, Any, Any]) -> _FOUND | None:
        """The call made before that this is again, with this one's arrays, or None; given: of what `Given` is made."""
        again = self._known.get(how)
        if again is None:
            return None
        arrays = [array for _, array in Given(*given).arrays] if len(again.seen) > 1 else []
        return (again, arrays) if again.fits(q, k, v, arrays) else None

    def note(self, how: Any, given: Given, scale: Any, record: Callable[..., Any], arrays: tuple[Any, Any, Any]) -> None:
        """Remember a call that was recorded, if it is one that can be made again so."""
        torch, others = sys.modules["torch"], [array for _, array in given.arrays]
        if not alone(torch, (*arrays, *others)):
            return
        mask, biases, has_sink = mask_named(given.mask), biases_of(given.bias), given.sink_logits is not None
        assert mask is not None and biases is not None
        program, ints, floats, inside = flat(mask, biases)
        learnt = parameters(program).values()
        for i, (one, other) in enumerate(zip(inside, others)):
            if one is not other or (one.requires_grad and i not in learnt):  # another order, or an error of some way back
                return
        with torch.no_grad():
            facts, _ = Given(mask, biases or None, given.sink_logits).glance()
            _, seen = _glances(others)
        call, library = self._recent.get((facts, scale, True, True, how[-1])), tensors.library()
        if call is None or library.guard is None:
            return
        again = self._known.get((how, id(call)))
        if again is None or again.call is not call or not again.guard(*arrays):
            with torch.no_grad():
                same = call.check(*arrays)
            guard = library.guard(*arrays)
            if not same or guard is None:
                return
            if len(self._known) >= _MOST_CALLS:
                self._known.clear()
            rest = _Rest(program, ints, floats, scale)
            again = self._known[how, id(call)] = Recorded(guard, call, record, rest, has_sink, facts, seen, self._backs)
        self._known[how] = again

    def __len__(self) -> int:
        return len(self._known)

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()
