"""More of `shortcuts`: what Numba-CUDA asks of types while it finds those of a function's variables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numba_fa.build.shortcuts_passes import Replacement


def replacements(typing: Any) -> Iterator[Replacement]:
    """(owner, attribute, what to put there)."""
    yield _calls_resolved_once(typing)
    yield from _kinds_without_abc()
    yield from _variables_at_once()
    yield _numbers_are_no_arrays()


def _calls_resolved_once(typing: Any) -> Replacement:
    """What a call of a type of function or class is, asked at each call: once a type."""
    owner = type(typing)
    resolve, known = owner.resolve_getattr, dict[Any, Any]()

    def resolve_getattr(self: Any, kind: Any, name: str) -> Any:
        if name != "__call__" or self is not typing:
            return resolve(self, kind, name)
        if kind not in known:
            known[kind] = resolve(self, kind, name)
        return known[kind]

    return owner, "resolve_getattr", resolve_getattr


def _kinds_without_abc() -> Iterator[Replacement]:
    """Whether a type is of a kind, asked 70 thousand times: by inheritance, which no kind of Numba's adds to."""
    from numba.cuda import types  # type: ignore[attr-defined]

    owner = type(types.Type)  # type: ignore[attr-defined]
    yield owner, "__instancecheck__", type.__instancecheck__
    yield owner, "__subclasscheck__", type.__subclasscheck__


def _variables_at_once() -> Iterator[Replacement]:
    """What is known of a variable: one look-up, and not three of which two are in Python."""
    from numba.cuda.core.typeinfer import TypeVar, TypeVarMap

    def missing(self: Any, name: str) -> Any:
        self[name] = made = TypeVar(self.context, name)
        return made

    yield TypeVarMap, "__missing__", missing
    yield TypeVarMap, "__getitem__", dict.__getitem__


def _numbers_are_no_arrays() -> Replacement:
    """An operator on numbers is none of NumPy's on arrays; else all loops of the ufunc are gone through to find that."""
    from numba.cuda import types  # type: ignore[attr-defined]
    from numba.cuda.typing.npydecl import NumpyRulesArrayOperator

    number, plain = types.Number, NumpyRulesArrayOperator.generic  # type: ignore[attr-defined]

    def generic(self: Any, arguments: Any, keywords: Any) -> Any:
        if not keywords and all(isinstance(one, number) for one in arguments):
            return None
        return plain(self, arguments, keywords)

    return NumpyRulesArrayOperator, "generic", generic
