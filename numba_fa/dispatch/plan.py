"""Plan: a problem with its kernel ready; running it allocates nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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

    view(array) -> ArrayView, or an error that says what is wrong with it. libraries: by the type of an array what its
    library does, of which `glance`, `glances`, `guard`, `address`, `streams`, `wrote` and `writes` are used
    (`adapters.library.Library`).
    """

    view: Callable[[Any], ArrayView]
    libraries: Mapping[type, Any]


class Ready:
    """A plan for arrays that lie in one way, checked but for their addresses.

    launch(addresses of q, k, v, out, lse (0: none) and of the aux arrays, stream). stream(q): the caller's. wrote(array)
    tells the library of a result.
    """

    __slots__ = ("_apart", "_inputs", "_last", "_out", "launch", "stream", "wrote")

    def __init__(self, launch: Launch, library: Any, q: Any, views: list[ArrayView]) -> None:
        self.launch, self.stream, self.wrote = launch, library.streams(q), library.wrote
        self._last: tuple[int, ...] = ()
        spans = [(low - view.pointer, high - view.pointer) for view in views for low, high in [span(view)]]
        self._out = spans[OUT]
        # Of each array that is read: which address, and where its bytes begin and end beside it.
        self._inputs = [(i, *reach) for i, reach in enumerate(spans) if i not in (OUT, LSE)]
        self._apart: set[tuple[int, ...]] = set()

    def out_is_apart(self, addresses: tuple[int, ...]) -> bool:
        """Whether out shares no byte with what is read, or lies to it as it lay in a call that was checked."""
        if addresses == self._last:
            return True
        out = addresses[OUT]
        low, high = out + self._out[0], out + self._out[1]
        for i, start, end in self._inputs:
            at = addresses[i]
            if at + start < high and low < at + end:
                return self._distances(addresses) in self._apart
        self._last = addresses
        return True

    def note_apart(self, addresses: tuple[int, ...]) -> None:
        """Remember that out may lie so to what is read; only of arrays whose ranges interleave that is news."""
        if not self.out_is_apart(addresses):
            if len(self._apart) >= _MOST_READY:
                self._apart.clear()
            self._apart.add(self._distances(addresses))

    def _distances(self, addresses: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(addresses[i] - addresses[OUT] for i, _, _ in self._inputs)


Again = Callable[[Any, Any, Any, Any, Any], bool]  # (q, k, v, out, lse) -> whether it ran


def _never(*arrays: Any) -> bool:
    return False


def _again(ready: Ready, library: Any, arrays: tuple[Any, ...], aux: tuple[Any, ...], addresses: tuple[int, ...]) -> Again:
    """Runs on arrays that lie as these at these addresses do; on others does nothing and returns False.

    arrays: q, k, v, out and lse or None. One function, with all that it needs at hand: before a driver that does nothing,
    `Plan.run` takes 2.4 us with it, and 7 where it asks for `glances`.
    """
    *inputs, lse = arrays
    with_lse = lse is not None
    results = (arrays[OUT], lse) if with_lse else (arrays[OUT],)
    check = library.guard and library.guard(*inputs, *results[1:], *aux)
    if check is None:
        return _never
    address, ending = library.address, _ending(addresses)
    last: tuple[int, ...] = ()  # addresses that were found right
    launch, stream, writes, aux_at = ready.launch, ready.stream, library.writes(*results), addresses[FIRST_AUX:]

    def again(q: Any, k: Any, v: Any, out: Any, lse: Any) -> bool:
        nonlocal last
        if with_lse:
            if lse is None or not check(q, k, v, out, lse, *aux):
                return False
        elif lse is not None or not (check(q, k, v, out, *aux) if aux else check(q, k, v, out)):
            return False
        addresses: tuple[int, ...] = (
            address(q), address(k), address(v), address(out), address(lse) if with_lse else 0,
        )  # fmt: skip
        if aux_at:
            addresses += tuple(map(address, aux)) if aux else aux_at
        known = last
        if addresses != known:
            if _ending(addresses) != ending or not all(addresses[:LSE]) or addresses[FIRST_AUX:] != aux_at:
                return False
            if not ready.out_is_apart(addresses):
                return False
            last = known = addresses
        launch(known, stream(q))
        writes((out, lse) if with_lse else (out,))
        return True

    return again


def _ending(addresses: Sequence[int]) -> int:
    """How the addresses of q, k, v and out end in bits, together: 0 where each is aligned to 16 bytes."""
    return (addresses[0] | addresses[1] | addresses[2] | addresses[OUT]) & 15


@dataclass(frozen=True)
class Plan:
    """A chosen, compiled and loaded kernel for one problem.

    launch(arguments, stream) takes the kernel's parameter values and a stream's handle. prepare, where there is one,
    takes them with an Address for each address, once, and gives what launches on addresses alone. `kept` are the arrays
    of mask, biases and sink_logits, as (what it is called, array, (address, facts) at a glance); a plan without them
    trusts that the problem's stay where they are.
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
    _last: list[Again] = field(default_factory=lambda: [_never], init=False, compare=False, repr=False)

    @cached_property
    def _aux(self) -> tuple[Any, ...]:
        return tuple(array for _, array, _ in self.kept)

    @cached_property
    def _aux_at(self) -> tuple[int, ...]:
        planned = [view.pointer for view in aux_views(self.problem)]
        return tuple(at for _, _, (at, _) in self.kept) or tuple(planned)

    def run(self, q: Any, k: Any, v: Any, out: Any, lse: Any = None) -> None:
        """Compute into `out` and, if given, `lse`, on the caller's current stream. Allocates no device memory.

        Arrays must be such as the plan was made for: same dtype, device, shapes and alignment; ProblemError otherwise. q
        (batch, seqlen_q, heads, head_dim); k, v (batch, seqlen_k, heads_kv, head_dim), out like q, both of v's head_dim
        where that is another; lse float32 (batch, heads, seqlen_q). out and lse share no memory with other arrays, but
        out may be q itself; of lse this is not checked. JAX arrays are immutable, so no plan writes to them. Mask,
        biases and sink_logits are those that the plan was made with; their arrays may have other contents since, but
        must lie where they lay.
        """
        if self._last[0](q, k, v, out, lse):
            return
        try:
            ready, addresses = self._remembered(q, k, v, out, lse)
            known = ready.out_is_apart(addresses)
        except Exception:  # arrays that lie in a new way, or a fault, which is told below
            known = False
        if not known:
            ready, addresses = self._checked(q, k, v, out, lse)
        ready.launch(addresses, ready.stream(q))
        ready.wrote(out)
        if lse is not None:
            ready.wrote(lse)

    def _remembered(self, q: Any, k: Any, v: Any, out: Any, lse: Any) -> tuple[Ready, tuple[int, ...]]:
        """Ready for these arrays, and their addresses; KeyError, or anything else, where that must be found out."""
        libraries = self.access.libraries
        library = libraries[type(q)]
        *found, facts = library.glances(q, k, v, out, lse)
        addresses = (*found, *self._kept_addresses())
        ready: Ready = self._ready[facts, _ending(addresses)]
        if library.guard is not None and all(libraries[type(array)] is library for array in self._aux):
            self._last[0] = _again(ready, library, (q, k, v, out, lse), self._aux, addresses)
        return ready, addresses

    def ready(self, arrays: Arrays, q: Any) -> Ready:
        """The plan for arrays that lie as these do, which were viewed and checked already; q is the caller's."""
        views = [arrays.q, arrays.k, arrays.v, arrays.out, arrays.lse or arrays.out, *aux_views(self.problem)]
        if self.prepare is None:
            launch = self._by_values(arrays)
        else:
            launch = self.prepare(self._arguments(*with_places(self.problem, arrays)))
        return Ready(launch, self.access.libraries[type(q)], q, views)

    def _arguments(self, problem: Problem, arrays: Arrays) -> tuple[Any, ...]:
        own = self.variant.arguments(problem, self.key, self.device, arrays)
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
        view, aux = self.access.view, self._kept_addresses()
        arrays = Arrays(view(q), view(k), view(v), view(out), None if lse is None else view(lse))
        asked = self.problem
        found = Problem.from_views(
            arrays.q, arrays.k, arrays.v, mask=asked.mask, bias=asked.biases, sink_logits=asked.sink_logits,
            scale=asked.scale, out=arrays.out, lse=arrays.lse,
        )  # fmt: skip
        if found != asked and not self._covers(found):
            raise ProblemError([f"this plan is for {asked.summary}, alignment {asked.alignment}; "
                                f"the arrays make {found.summary}, alignment {found.alignment}"])  # fmt: skip
        addresses = (
            arrays.q.pointer, arrays.k.pointer, arrays.v.pointer, arrays.out.pointer, arrays.lse_pointer, *aux,
        )  # fmt: skip
        try:
            facts = self.access.libraries[type(q)].glances(q, k, v, out, lse)[-1]
            key = facts, _ending(addresses)
        except Exception:  # arrays of several libraries: checked each time
            return self.ready(arrays, q), addresses
        ready = self._ready.get(key)
        if ready is None:
            ready = self.ready(arrays, q)
            if len(self._ready) >= _MOST_READY:
                self._ready.clear()
            self._ready[key] = ready
        ready.note_apart(addresses)
        return ready, addresses

    def _kept_addresses(self) -> tuple[int, ...]:
        """Where the arrays of mask, biases and sink_logits are; ProblemError where one was freed, moved or resized."""
        libraries = self.access.libraries
        seen = [(label, planned, libraries[type(array)].glance(array)) for label, array, planned in self.kept]
        faults = [
            f"{label} is not where and as it was when this plan was made; its memory was freed, moved or resized"
            for label, planned, now in seen
            if now != planned
        ]
        if faults:
            raise ProblemError(faults)
        return self._aux_at

    def _covers(self, found: Problem) -> bool:
        """Whether `found` differs in alignment only, and has enough of it."""
        same = all(
            getattr(found, name) == getattr(self.problem, name)
            for name in Problem.__dataclass_fields__
            if name != "alignment"
        )
        return same and found.alignment >= self.variant.alignment


assert FIRST_AUX == LSE + 1
