"""Library: how to use one array library's arrays."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numba_fa.problem.arrays import ArrayView


def _never(array: Any) -> bool:
    return False


def _unseen(*arrays: Any) -> bool:
    return False


def _nothing(array: Any) -> None:
    return None


def same(array: Any) -> Any:
    """The array itself."""
    return array


def listed(names: Sequence[str]) -> str:
    """The names as a sentence has them: q, k and v."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


@dataclass(frozen=True)
class Library:
    """How to use one library's arrays.

    view(array) -> ArrayView, or ProblemError for an array that no ArrayView describes. stream(array) -> handle of the
    stream that the caller's work is on. empty(like, shape, dtype) -> new array beside `like`; dtype is an array
    library's name. finish(array) makes a result from an array that `empty` made (JAX alone needs it). holds(type) tells
    its arrays' types from its others; unfit maps a type of arrays that attention would read wrongly to the reason.
    wants_grad(array): whether a gradient is to be recorded. has_tangent(array): whether forward-mode differentiation, of
    which attention has none, follows it. seen(*arrays): whether the library must see a call on them, to record, transform,
    trace or cast it. wrote(array) tells the library that a caller's array was written.

    For calls made again and again, by default in terms of these: glance(array) -> (address, facts), facts equal only
    where views are equal but for the address, and wants_grad too. glances(q, k, v, out, lse) -> (their addresses, 0 for
    None, and the facts of all). Both may raise anything for arrays that are unfit, singly or together, and do for those with
    a tangent. guard(*arrays) -> check(*others), true only where the others' facts are the arrays', none has a tangent and
    `seen` is as of them, for libraries that know a quick way, else None; so is its result where no check can tell. With
    alone=True it is false also while a tracer or a mode follows what is called. address(array): of any that passed such a
    check or that `empty` made. maker(like, shape, dtype) and streams(like): functions of any array laid out like `like`
    that do as `empty` and `stream`. writes(*like): a function of a tuple of arrays that passed such a check, that does as
    `wrote` on each.
    """

    name: str
    view: Callable[[Any], ArrayView]
    stream: Callable[[Any], int]
    empty: Callable[[Any, tuple[int, ...], str], Any]
    holds: Callable[[type], bool]
    unfit: Mapping[type, str] = field(default_factory=dict)
    finish: Callable[[Any], Any] = same
    wants_grad: Callable[[Any], bool] = _never
    has_tangent: Callable[[Any], bool] = _never
    seen: Callable[..., bool] = _unseen
    wrote: Callable[[Any], None] = _nothing
    glance: Callable[[Any], tuple[int, Hashable]] = None  # type: ignore[assignment]
    glances: Callable[[Any, Any, Any, Any, Any], tuple[int, int, int, int, int, Hashable]] = None  # type: ignore[assignment]
    guard: Callable[..., Callable[..., bool] | None] | None = None
    address: Callable[[Any], int] = None  # type: ignore[assignment]
    maker: Callable[[Any, tuple[int, ...], str], Callable[[Any], Any]] = None  # type: ignore[assignment]
    streams: Callable[[Any], Callable[[Any], int]] = None  # type: ignore[assignment]
    writes: Callable[..., Callable[[tuple[Any, ...]], None]] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for name, plain in (
            ("glance", self._glance),
            ("glances", self._glances),
            ("address", lambda array: self.view(array).pointer),
            ("maker", lambda like, shape, dtype: lambda array: self.empty(array, shape, dtype)),
            ("streams", lambda like: self.stream),
            ("writes", lambda *like: self._wrote_all),
        ):
            if getattr(self, name) is None:
                object.__setattr__(self, name, plain)

    def _wrote_all(self, arrays: tuple[Any, ...]) -> None:
        for array in arrays:
            self.wrote(array)

    def _glance(self, array: Any) -> tuple[int, Hashable]:
        view = self.view(array)
        facts = self.name, view.shape, view.strides, view.dtype, view.device, view.writable, self.wants_grad(array)
        return view.pointer, facts

    def _glances(self, *arrays: Any) -> tuple[int, int, int, int, int, Hashable]:
        seen = [(0, None) if array is None else self.glance(array) for array in arrays]
        q_at, k_at, v_at, out_at, lse_at = (at for at, _ in seen)
        return q_at, k_at, v_at, out_at, lse_at, tuple(facts for _, facts in seen)
