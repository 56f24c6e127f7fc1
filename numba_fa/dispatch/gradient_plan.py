"""GradientPlan: a backward's kernels, ready, for problems that differ in addresses alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from numba_fa.dispatch.addresses import Address, aux_views, with_aux
from numba_fa.dispatch.device import Device
from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.variant import GradientArrays, Variant, Wanted
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.problem import Problem

Launch = Callable[[tuple[int, ...], int], None]  # (addresses, stream)
_FIELDS = ("q", "k", "v", "out", "dout", "lse", "dlse", "dq", "dk", "dv", "dsink")
_MOST_READY = 64  # ways for arrays to lie that a plan remembers


@dataclass(frozen=True)
class Kernel:
    """One of a backward's kernels. prepare makes a Launch of arguments with Addresses; without it, launch takes values."""

    variant: Variant
    key: DispatchKey
    device: Device
    prepare: Callable[[tuple[Any, ...]], Launch] | None = None
    launch: Callable[[tuple[Any, ...], int], None] | None = None

    def arguments(self, problem: Problem, arrays: GradientArrays) -> tuple[Any, ...]:
        """The values of the kernel's parameters."""
        own = self.variant.arguments(problem, self.key, self.device, arrays)
        return (*own, *self.variant.program(problem)) if self.variant.programmed else own


@dataclass(frozen=True)
class GradientPlan:
    """A chosen backward with its kernels loaded, in the order in which they run. rooms: bytes of memory by name."""

    variant: Variant
    key: DispatchKey
    wanted: Wanted
    kernels: tuple[Kernel, ...]
    rooms: Mapping[str, int]
    _ready: dict[Any, list[Launch]] = field(default_factory=dict, init=False, compare=False, repr=False)

    def run(self, problem: Problem, arrays: GradientArrays, stream: int) -> None:
        """Launch on a stream. problem: like the plan's but for the addresses of its arrays. Allocates nothing."""
        views = [*_views(arrays), *aux_views(problem)]
        if any(kernel.prepare is None for kernel in self.kernels):
            for kernel in self.kernels:
                assert kernel.launch is not None
                kernel.launch(kernel.arguments(problem, arrays), stream)
            return
        layout = tuple([view and (view.shape, view.strides) for view in views])  # dtypes are the problem's
        launches = self._ready.get(layout)
        if launches is None:
            if len(self._ready) >= _MOST_READY:
                self._ready.clear()
            launches = self._ready[layout] = self._prepared(problem, arrays)
        addresses = (*[view.pointer if view else 0 for view in views], *arrays.rooms.values())
        for launch in launches:
            launch(addresses, stream)

    def _prepared(self, problem: Problem, arrays: GradientArrays) -> list[Launch]:
        places = iter(range(1 << 30))

        def placed(view: ArrayView | None) -> ArrayView | None:
            place = Address(next(places))
            return view and replace(view, pointer=place)

        moved = {name: placed(getattr(arrays, name)) for name in _FIELDS}
        dbias = tuple(map(placed, arrays.dbias))
        problem = with_aux(problem, (Address(next(places)) for _ in aux_views(problem)))
        rooms = {name: Address(next(places)) for name in arrays.rooms}
        at = GradientArrays(**moved, dbias=dbias, rooms=rooms)  # type: ignore[arg-type]
        return [kernel.prepare(kernel.arguments(problem, at)) for kernel in self.kernels if kernel.prepare]


def _views(arrays: GradientArrays) -> Iterator[ArrayView | None]:
    yield from (getattr(arrays, name) for name in _FIELDS)
    yield from arrays.dbias


def without_addresses(problem: Problem) -> Problem:
    """The problem with its mask's, biases' and sink's arrays at no address: what a plan is made for."""
    return with_aux(problem, iter([0] * len(aux_views(problem))))
