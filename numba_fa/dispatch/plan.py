"""Plan: a problem with its kernel ready; running it allocates nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from numba_fa.dispatch.device import Device
from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.variant import Arrays, Variant
from numba_fa.errors import ProblemError
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.problem import Problem


def _untold(array: Any) -> None:
    """Say to nobody that an array was written."""


@dataclass(frozen=True)
class Plan:
    """A chosen, compiled and loaded kernel for one problem.

    `run` takes the caller's arrays; `view` turns an array into an ArrayView and its stream (adapters); `launch`
    takes the kernel's parameter values and a stream handle; `wrote` tells an array's library that it was written.
    `kept` are the arrays of mask, biases and sink_logits, as (what it is called, array, its view when planned).
    """

    problem: Problem
    variant: Variant
    key: DispatchKey
    device: Device
    launch: Callable[[tuple[Any, ...], int], None]
    view: Callable[[Any], ArrayView] = field(repr=False)
    stream_of: Callable[[Any], int] = field(repr=False)
    wrote: Callable[[Any], None] = field(default=_untold, repr=False)
    kept: tuple[tuple[str, Any, ArrayView], ...] = field(default=(), repr=False)

    def run(self, q: Any, k: Any, v: Any, out: Any, lse: Any = None) -> None:
        """Compute into `out` and, if given, `lse`, on the caller's current stream. Allocates no device memory.

        Arrays must be such as the plan was made for: same dtype, device, shapes and alignment; ProblemError
        otherwise. q, out (batch, seqlen_q, heads, head_dim); k, v (batch, seqlen_k, heads_kv, head_dim); lse float32
        (batch, heads, seqlen_q). out and lse share no memory with other arrays, but out may be q itself; of lse this
        is not checked. JAX arrays are immutable, so no plan writes to them. Mask, biases and sink_logits are those that
        the plan was made with; their arrays may have other contents since, but must lie where they lay.
        """
        self._check_kept()
        view = self.view
        arrays = Arrays(view(q), view(k), view(v), view(out), None if lse is None else view(lse))
        found = Problem.from_views(
            arrays.q, arrays.k, arrays.v, mask=self.problem.mask, bias=self.problem.biases,
            sink_logits=self.problem.sink_logits, scale=self.problem.scale, out=arrays.out, lse=arrays.lse,
        )  # fmt: skip
        if found != self.problem and not self._covers(found):
            raise ProblemError([f"this plan is for {self.problem.summary}, alignment {self.problem.alignment}; "
                                f"the arrays make {found.summary}, alignment {found.alignment}"])  # fmt: skip
        self.run_arrays(arrays, self.stream_of(q))
        self.wrote(out)
        if lse is not None:
            self.wrote(lse)

    def run_arrays(self, arrays: Arrays, stream: int) -> None:
        """`run` for arrays that were viewed and checked already."""
        arguments = self.variant.arguments(self.problem, self.key, arrays)
        self.launch(arguments + self.variant.program(self.problem) if self.variant.programmed else arguments, stream)

    def _check_kept(self) -> None:
        """ProblemError where an array of mask, biases or sink_logits has been freed, moved or resized since."""
        faults = []
        for label, array, planned in self.kept:
            now = self.view(array)
            if now != planned:
                faults.append(f"{label} was {_place(planned)} when this plan was made; it is {_place(now)} now")
        if faults:
            raise ProblemError(faults)

    def _covers(self, found: Problem) -> bool:
        """Whether `found` differs in alignment only, and has enough of it."""
        same = all(
            getattr(found, name) == getattr(self.problem, name)
            for name in Problem.__dataclass_fields__
            if name != "alignment"
        )
        return same and found.alignment >= self.variant.alignment


def _place(view: ArrayView) -> str:
    return f"{view.dtype} {view.shape} with strides {view.strides} at {view.pointer:#x} on {view.device}"
