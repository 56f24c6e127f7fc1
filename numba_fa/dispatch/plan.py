"""Plan: a problem with its kernel ready; running it allocates nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from numba_fa.dispatch.addresses import FIRST_AUX, LSE, OUT, aux_views, with_addresses, with_places
from numba_fa.dispatch.device import Device
from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.variant import Arrays, Variant
from numba_fa.errors import ProblemError
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.overlap import span
from numba_fa.problem.problem import Problem

Launch = Callable[[tuple[int, ...], int], None]  # (addresses, stream)
_MOST_READY = 64  # ways for arrays to lie that a plan remembers


@dataclass(frozen=True)
class Access:
    """How a plan reaches the caller's arrays (adapters).

    view(array) -> ArrayView, or an error that says what is wrong with it. glance(array) -> (address, facts), as of
    `adapters.library.Library`. stream(array) -> handle of the caller's stream. wrote(arrays) tells their library.
    """

    view: Callable[[Any], ArrayView]
    glance: Callable[[Any], tuple[int, Any]]
    stream: Callable[[Any], int]
    wrote: Callable[[tuple[Any, ...]], None] = lambda arrays: None


class Ready:
    """A plan for arrays that lie in one way, checked but for their addresses.

    launch(addresses of q, k, v, out, lse (0: none) and of the aux arrays, stream).
    """

    __slots__ = ("_apart", "_inputs", "_out", "launch")

    def __init__(self, launch: Launch, views: list[ArrayView]) -> None:
        self.launch = launch
        spans = [(low - view.pointer, high - view.pointer) for view in views for low, high in [span(view)]]
        self._out = spans[OUT]
        # Of each array that is read: which address, and where its bytes begin and end beside it.
        self._inputs = [(i, *reach) for i, reach in enumerate(spans) if i not in (OUT, LSE)]
        self._apart: set[tuple[int, ...]] = set()

    def out_is_apart(self, addresses: tuple[int, ...]) -> bool:
        """Whether out shares no byte with what is read, or lies to it as it lay in a call that was checked."""
        out = addresses[OUT]
        low, high = out + self._out[0], out + self._out[1]
        for i, start, end in self._inputs:
            at = addresses[i]
            if at + start < high and low < at + end:
                return self._distances(addresses) in self._apart
        return True

    def note_apart(self, addresses: tuple[int, ...]) -> None:
        """Remember that out may lie so to what is read; only of arrays whose ranges interleave that is news."""
        if not self.out_is_apart(addresses):
            if len(self._apart) >= _MOST_READY:
                self._apart.clear()
            self._apart.add(self._distances(addresses))

    def _distances(self, addresses: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(addresses[i] - addresses[OUT] for i, _, _ in self._inputs)


@dataclass(frozen=True)
class Plan:
    """A chosen, compiled and loaded kernel for one problem.

    launch(arguments, stream) takes the kernel's parameter values and a stream's handle. prepare, where there is one,
    takes them with an Address for each address, once, and gives what launches on addresses alone. `kept` are the arrays
    of mask, biases and sink_logits, as (what it is called, array, facts at a glance).
    """

    problem: Problem
    variant: Variant
    key: DispatchKey
    device: Device
    access: Access = field(repr=False)
    launch: Callable[[tuple[Any, ...], int], None] | None = field(default=None, repr=False)
    prepare: Callable[[tuple[Any, ...]], Launch] | None = field(default=None, repr=False)
    kept: tuple[tuple[str, Any, Any], ...] = field(default=(), repr=False)
    _ready: dict[Any, Ready] = field(default_factory=dict, init=False, compare=False, repr=False)

    def run(self, q: Any, k: Any, v: Any, out: Any, lse: Any = None) -> None:
        """Compute into `out` and, if given, `lse`, on the caller's current stream. Allocates no device memory.

        Arrays must be such as the plan was made for: same dtype, device, shapes and alignment; ProblemError
        otherwise. q, out (batch, seqlen_q, heads, head_dim); k, v (batch, seqlen_k, heads_kv, head_dim); lse float32
        (batch, heads, seqlen_q). out and lse share no memory with other arrays, but out may be q itself; of lse this
        is not checked. JAX arrays are immutable, so no plan writes to them. Mask, biases and sink_logits are those that
        the plan was made with; their arrays may have other contents since, but must lie where they lay.
        """
        access = self.access
        glance = access.glance
        try:
            q_at, q_facts = glance(q)
            k_at, k_facts = glance(k)
            v_at, v_facts = glance(v)
            out_at, out_facts = glance(out)
            lse_at, lse_facts = (0, None) if lse is None else glance(lse)
            addresses = (q_at, k_at, v_at, out_at, lse_at)
            if self.kept:
                addresses += self._kept_addresses()
            ready = self._ready[q_facts, k_facts, v_facts, out_facts, lse_facts, (q_at | k_at | v_at | out_at) & 15]
            known = ready.out_is_apart(addresses)
        except Exception:  # a new way to lie, or a fault, which is told below
            known = False
        if not known:
            ready, addresses = self._checked(q, k, v, out, lse)
        ready.launch(addresses, access.stream(q))
        access.wrote((out,) if lse is None else (out, lse))

    def ready(self, arrays: Arrays) -> Ready:
        """The plan for arrays that lie as these do, which were viewed and checked already."""
        views = [arrays.q, arrays.k, arrays.v, arrays.out, arrays.lse or arrays.out, *aux_views(self.problem)]
        if self.prepare is None:
            return Ready(self._by_values(arrays), views)
        return Ready(self.prepare(self._arguments(*with_places(self.problem, arrays))), views)

    def _arguments(self, problem: Problem, arrays: Arrays) -> tuple[Any, ...]:
        own = self.variant.arguments(problem, self.key, arrays)
        return (*own, *self.variant.program(problem)) if self.variant.programmed else own

    def _by_values(self, arrays: Arrays) -> Launch:
        """Launching on addresses where every argument is made anew for them."""
        assert self.launch is not None
        run, problem = self.launch, self.problem

        def launch(addresses: tuple[int, ...], stream: int) -> None:
            run(self._arguments(*with_addresses(problem, arrays, addresses)), stream)

        return launch

    def _checked(self, q: Any, k: Any, v: Any, out: Any, lse: Any) -> tuple[Ready, tuple[int, ...]]:
        """Ready for these arrays, and their addresses; ProblemError for any fault of theirs."""
        view, glance = self.access.view, self.access.glance
        aux = self._kept_addresses()
        arrays = Arrays(view(q), view(k), view(v), view(out), None if lse is None else view(lse))
        asked = self.problem
        found = Problem.from_views(
            arrays.q, arrays.k, arrays.v, mask=asked.mask, bias=asked.biases, sink_logits=asked.sink_logits,
            scale=asked.scale, out=arrays.out, lse=arrays.lse,
        )  # fmt: skip
        if found != asked and not self._covers(found):
            raise ProblemError([f"this plan is for {asked.summary}, alignment {asked.alignment}; "
                                f"the arrays make {found.summary}, alignment {found.alignment}"])  # fmt: skip
        seen = [glance(array) if array is not None else (0, None) for array in (q, k, v, out, lse)]
        addresses = (*[at for at, _ in seen], *aux)
        key = (*[facts for _, facts in seen], (addresses[0] | addresses[1] | addresses[2] | addresses[OUT]) & 15)
        ready = self._ready.get(key)
        if ready is None:
            ready = self.ready(arrays)
            if len(self._ready) >= _MOST_READY:
                self._ready.clear()
            self._ready[key] = ready
        ready.note_apart(addresses)
        return ready, addresses

    def _kept_addresses(self) -> tuple[int, ...]:
        """Where the arrays of mask, biases and sink_logits are; ProblemError where one was freed, moved or resized."""
        glance = self.access.glance
        seen = [(label, planned, glance(array)) for label, array, planned in self.kept]
        faults = [
            f"{label} is not where and as it was when this plan was made; its memory was freed, moved or resized"
            for label, planned, now in seen
            if now != planned
        ]
        if faults:
            raise ProblemError(faults)
        return tuple(at for _, _, (at, _) in seen)

    def _covers(self, found: Problem) -> bool:
        """Whether `found` differs in alignment only, and has enough of it."""
        same = all(
            getattr(found, name) == getattr(self.problem, name)
            for name in Problem.__dataclass_fields__
            if name != "alignment"
        )
        return same and found.alignment >= self.variant.alignment


assert FIRST_AUX == LSE + 1
