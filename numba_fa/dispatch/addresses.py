"""Launch arguments with places for addresses: made once for arrays that lie in one way, filled in at every launch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from numba_fa.dispatch.variant import Arrays, TensorMap
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.problem import Problem

OUT, LSE, FIRST_AUX = 3, 4, 5  # of the addresses of a launch: q, k, v, out, lse (0: not wanted), aux arrays


class Address(int):
    """A stand-in for the address of an array, to be handed on as it is; `index` says which of a launch's it is."""

    index: int

    def __new__(cls, index: int) -> Address:
        self = super().__new__(cls, 0)
        self.index = index
        return self

    def _refuse(self, *others: Any) -> NoReturn:
        raise TypeError("arithmetic on an address that is not known yet; pass it to the kernel and let that do it")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __floordiv__ = __or__ = __and__ = _refuse


def with_places(problem: Problem, arrays: Arrays) -> tuple[Problem, Arrays]:
    """The same with an Address in place of each address."""
    return with_addresses(problem, arrays, [Address(i) for i in range(FIRST_AUX + len(aux_views(problem)))])


def with_addresses(problem: Problem, arrays: Arrays, addresses: Sequence[int]) -> tuple[Problem, Arrays]:
    """The same at other addresses: of q, k, v, out, lse, and of mask's, biases' and sink's arrays."""
    views = [arrays.q, arrays.k, arrays.v, arrays.out, arrays.lse]
    moved = [view and replace(view, pointer=at) for view, at in zip(views, addresses)]
    return with_aux(problem, iter(addresses[FIRST_AUX:])), Arrays(*moved)  # type: ignore[arg-type]


def aux_views(problem: Problem) -> list[ArrayView]:
    """The arrays of mask, biases and sink_logits, in that order."""
    views = [view for part in (problem.mask, *problem.biases) for _, view in part.arrays]
    return views + ([problem.sink_logits] if problem.sink_logits else [])


def with_aux(problem: Problem, addresses: Iterator[int]) -> Problem:
    """The problem with its mask's, biases' and sink's arrays at the next of these addresses."""

    def moved(view: ArrayView) -> ArrayView:
        return replace(view, pointer=next(addresses))

    mask, biases = problem.mask.viewed(moved), tuple(bias.viewed(moved) for bias in problem.biases)
    return replace(problem, mask=mask, biases=biases, sink_logits=problem.sink_logits and moved(problem.sink_logits))


def place_of(value: Any) -> Address | None:
    """The place in a launch argument, if it has one."""
    if isinstance(value, (ArrayView, TensorMap)):
        value = (value.view if isinstance(value, TensorMap) else value).pointer
    return value if isinstance(value, Address) else None
