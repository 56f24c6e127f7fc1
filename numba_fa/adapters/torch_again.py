"""Calls that torch records, made again: what was found out about one is kept for tensors that lie as its did."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import compress
from typing import Any

from numba_fa import env
from numba_fa.adapters import torch as tensors
from numba_fa.adapters.given import Given
from numba_fa.adapters.torch_ops import alone, strictly
from numba_fa.problem.biases import biases_of
from numba_fa.problem.flat import flat
from numba_fa.problem.masks import mask_named

_MOST_CALLS = 1024


@dataclass(slots=True)
class Recorded:
    """How to do a recorded call again, of no arrays but q, k and v.

    guard(q, k, v): whether they lie as its did and the same gradients are wanted. call: how `attention` does it, with the
    LSE, when nothing is recorded. rest: what the operator takes behind the arrays. facts: of its mask and biases. backs: the
    last calls of `attention_backward`, by what they are known by there.
    """

    guard: Callable[..., bool]
    call: Any
    record: Callable[..., Any]
    rest: tuple[Any, ...]
    facts: Any
    backs: Mapping[Any, Any]

    def fits(self, q: Any, k: Any, v: Any) -> bool:
        """Whether it is such a call again."""
        if not (self.guard(q, k, v) and alone(sys.modules["torch"], ())):
            return False
        address = self.call.address
        q_at, k_at, v_at = address(q), address(k), address(v)
        return bool((q_at | k_at | v_at) & 15 == self.call.ending and q_at and k_at and v_at)

    def run(self, q: Any, k: Any, v: Any, return_lse: bool) -> Any:
        """What `attention` returns, recorded; of tensors that fit."""
        made = self.record(self._compute, self._back, q, k, v, (), None, *self.rest)
        return made if return_lse else made[0]

    def _compute(self, q: Any, k: Any, v: Any, *rest: Any) -> Any:
        address = self.call.address
        return self.call.run(q, None, True, address(q), address(k), address(v), 0, ())

    def _back(self, saved: tuple[Any, ...], needs: tuple[bool, ...], dout: Any, dlse: Any) -> tuple[Any, ...] | None:
        """The gradients of q, k, v and of two inputs that have none, or None: `adapters.torch_func.recorded_of`."""
        torch = sys.modules["torch"]
        if dout is None or dlse is not None or torch.is_grad_enabled():
            return None
        q, k, v, out, lse, _ = saved
        scale = self.rest[3]
        how = self.facts, scale, tuple(compress("qkv", needs)), strictly(torch), 6, env.backend_mark()
        call = self.backs.get(how)
        inputs = call and call.inputs_of(q, k, v, out, dout, lse)
        if call is None or inputs is None or not alone(torch, ()):
            return None
        made = call.run(q, inputs, ())
        return made.dq, made.dk, made.dv, None, None


class RecordedCalls:
    """Recorded calls by all but how q, k and v lie, the last of them, and by the call that computes, each.

    recent: such calls that record nothing (`Calls.recent`); the one that computes a recorded call is there from its second
    time on. backs: the same of `attention_backward`.
    """

    def __init__(self, recent: Mapping[Any, Any], backs: Mapping[Any, Any]) -> None:
        self._recent, self._backs = recent, backs
        self._known: dict[Any, Recorded] = {}

    def find(self, how: Any, q: Any, k: Any, v: Any) -> Recorded | None:
        """The call made before that this is again, or None."""
        again = self._known.get(how)
        return again if again is not None and again.fits(q, k, v) else None

    def note(self, how: Any, given: Given, scale: Any, record: Callable[..., Any], arrays: tuple[Any, Any, Any]) -> None:
        """Remember a call of q, k and v that was recorded, if it is one that can be made again so."""
        if given.arrays or not alone(sys.modules["torch"], arrays):
            return
        mask, biases = mask_named(given.mask), biases_of(given.bias)
        assert mask is not None and biases is not None
        facts, _ = Given(mask, biases or None, None).glance()
        call, library = self._recent.get((facts, scale, True, True, how[-1])), tensors.library()
        if call is None or library.guard is None:
            return
        again = self._known.get((how, id(call)))
        if again is None or again.call is not call or not again.guard(*arrays):
            with sys.modules["torch"].no_grad():
                same = call.check(*arrays)
            guard = library.guard(*arrays)
            if not same or guard is None:
                return
            if len(self._known) >= _MOST_CALLS:
                self._known.clear()
            program, ints, floats, _ = flat(mask, biases)
            rest = program, ints, floats, scale, False
            again = self._known[how, id(call)] = Recorded(guard, call, record, rest, facts, self._backs)
        self._known[how] = again

    def __len__(self) -> int:
        return len(self._known)

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()
