"""GradientPlan: a backward's kernels, ready, for problems that differ in addresses alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

    def ready(self, problem: Problem, arrays: GradientArrays) -> list[Launch]:
        """Launches of the kernels for arrays that lie as these do, and a problem like the plan's.

        Their addresses are `addresses_of` such arrays; those that the problem and the arrays have here do not matter.
        """
        layout = tuple([view and (view.shape, view.strides) for view in _views(problem, arrays)])  # dtypes are the problem's
        launches = self._ready.get(layout)
        if launches is None:
            if len(self._ready) >= _MOST_READY:
                self._ready.clear()
            launches = self._ready[layout] = [_launch(kernel, problem, arrays) for kernel in self.kernels]
        return launches


def addresses_of(problem: Problem, arrays: GradientArrays) -> tuple[int, ...]:
    """What a launch takes: addresses, 0 where there is no array, in the order of `GradientArrays`, those of the arrays of
    mask, biases and sink_logits before the rooms."""
    return (*[view.pointer if view else 0 for view in _views(problem, arrays)], *arrays.rooms.values())


def _launch(kernel: Kernel, problem: Problem, arrays: GradientArrays) -> Launch:
    if kernel.prepare is not None:
        places = [Address(i) for i, _ in enumerate(addresses_of(problem, arrays))]
        return kernel.prepare(kernel.arguments(*_moved(problem, arrays, places)))
    run = kernel.launch
    assert run is not None

    def launch(addresses: tuple[int, ...], stream: int) -> None:
        run(kernel.arguments(*_moved(problem, arrays, addresses)), stream)

    return launch


def _moved(problem: Problem, arrays: GradientArrays, addresses: Sequence[int]) -> tuple[Problem, GradientArrays]:
    """The same at other addresses."""
    left = iter(addresses)

    def moved(view: ArrayView | None) -> ArrayView | None:
        at = next(left)
        return view and replace(view, pointer=at)

    named = {name: moved(getattr(arrays, name)) for name in _FIELDS}
    dbias = tuple(map(moved, arrays.dbias))
    problem = with_aux(problem, left)
    rooms = dict(zip(arrays.rooms, left, strict=True))
    return problem, GradientArrays(**named, dbias=dbias, rooms=rooms)  # type: ignore[arg-type]


def _views(problem: Problem, arrays: GradientArrays) -> list[ArrayView | None]:
    return [*(getattr(arrays, name) for name in _FIELDS), *arrays.dbias, *aux_views(problem)]


def without_addresses(problem: Problem) -> Problem:
    """The problem with its mask's, biases' and sink's arrays at no address: what a plan is made for."""
    return with_aux(problem, iter([0] * len(aux_views(problem))))
