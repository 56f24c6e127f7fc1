"""What a caller gave, of whichever libraries: at a glance for a call made before, or viewed with every fault named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numba_fa.adapters.arrays import LIBRARIES, library_of
from numba_fa.adapters.library import Library, listed
from numba_fa.adapters.torch import no_forward_mode
from numba_fa.errors import ProblemError, UnsupportedError
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.biases import biases_of
from numba_fa.problem.declared import Declaration

Views = tuple[ArrayView, ArrayView, ArrayView]


class Given(NamedTuple):
    """mask, bias and sink_logits of a call."""

    mask: Any
    bias: Any
    sink_logits: Any

    @property
    def arrays(self) -> list[tuple[str, Any]]:
        """(what it is called, array) of every array in it, in the order of the launch arguments."""
        parts = [part for part in (self.mask, *(biases_of(self.bias) or ())) if isinstance(part, Declaration)]
        found = [array for part in parts for array in part.arrays]
        return found + ([] if self.sink_logits is None else [("sink_logits", self.sink_logits)])

    def viewed(self) -> Given:
        """The same with ArrayViews; ProblemError naming every array that cannot be viewed."""
        try:
            mask, bias = (_viewed(part) for part in (self.mask, self.bias))
            return Given(mask, bias, None if self.sink_logits is None else view_of(self.sink_logits))
        except ProblemError:
            raise named(view_of, self.arrays) from None

    def glance(self) -> tuple[tuple[Any, ...], tuple[int, ...]]:
        """(what of it decides how a call is made, addresses of its arrays); for a call made before, in little time.

        May raise anything for what is faulty.
        """
        mask, bias, sink_logits = self
        facts: list[Any] = []
        addresses: list[int] = []
        bits = 0
        several = isinstance(bias, (tuple, list))
        if several and any(part is None for part in bias):
            raise ValueError("no bias")
        for part in (mask, *bias) if several else (mask, bias):
            if not isinstance(part, Declaration):
                if part is not None and type(part) is not str:  # such as the tuple that a declaration has for its facts
                    raise ValueError("no mask, and no bias")
                facts.append(part)
                continue
            facts.append(part.without_arrays)
            for _, array in part.arrays:
                at, seen = LIBRARIES[type(array)].glance(array)
                facts.append(seen)
                addresses.append(at)
                bits |= at
        if sink_logits is not None:
            at, seen = LIBRARIES[type(sink_logits)].glance(sink_logits)
            facts += ("sink", seen)
            addresses.append(at)
            bits |= at
        if not all(addresses):
            raise ValueError("an array without memory")
        facts.append(bits & 15)
        return tuple(facts), tuple(addresses)


def _viewed(part: Any) -> Any:
    if isinstance(part, Declaration):
        return part.viewed(view_of)
    return tuple(map(_viewed, part)) if isinstance(part, (tuple, list)) else part


def common_library(given: Given, **arrays: Any) -> Library:
    """The one library that the arrays (those not None) come from; ProblemError naming those of none or of several."""
    arrays = {name: array for name, array in arrays.items() if array is not None or name != "out"}
    try:
        libraries = {name: library_of(array) for name, array in arrays.items()}
        for _, array in given.arrays:
            library_of(array)
    except ProblemError:
        raise named(library_of, [*arrays.items(), *given.arrays]) from None
    library = libraries["q"]
    if any(other is not library for other in libraries.values()):
        listed = ", ".join(f"{name} {other.name}" for name, other in libraries.items())
        raise ProblemError([f"arrays of different libraries: {listed}; one library is wanted"])
    return library


def refuse_gradients(given: Given, **arrays: Any) -> None:
    """UnsupportedError when a gradient is to be recorded of any array, each of a known library, or one has a tangent."""
    refuse_tangents(given, **arrays)
    wanting = [name for name, array in _present(given, arrays) if library_of(array).wants_grad(array)]
    if wanting:
        raise records_nothing(*wanting)


def refuse_tangents(given: Given, **arrays: Any) -> None:
    """UnsupportedError when forward-mode differentiation follows any array, each of a known library."""
    followed = [name for name, array in _present(given, arrays) if library_of(array).has_tangent(array)]
    if followed:
        raise no_forward_mode(*followed)


def _present(given: Given, arrays: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, array) for name, array in arrays.items() if array is not None] + given.arrays


def views_of(library: Library, q: Any, k: Any, v: Any) -> Views:
    """Views of q, k and v; ProblemError naming those that cannot be viewed."""
    try:
        return library.view(q), library.view(k), library.view(v)
    except ProblemError:
        raise named(library.view, [("q", q), ("k", k), ("v", v)]) from None


def writable(library: Library, out: Any) -> ArrayView | None:
    """The view of an output, None for none; ProblemError for one that cannot be written."""
    if out is None:
        return None
    if library.name == "jax":
        raise ProblemError(["out is a JAX array, which is immutable; take the returned array instead"])
    try:
        return library.view(out)
    except ProblemError:
        raise named(library.view, [("out", out)]) from None


def named(look: Callable[[Any], Any], arrays: list[tuple[str, Any]]) -> ProblemError:
    """The error of all arrays that `look` refuses, by their names."""
    faults = []
    for name, array in arrays:
        try:
            look(array)
        except ProblemError as error:
            faults += [f"{name}: {fault}" for fault in error.faults]
    return ProblemError(list(dict.fromkeys(faults)))


def view_of(array: Any) -> ArrayView:
    """The view of any library's array."""
    return library_of(array).view(array)


def checked_view(array: Any) -> ArrayView:
    """The view of an array that no gradient is wanted of and that has no tangent; UnsupportedError where it is otherwise."""
    library = library_of(array)
    if library.has_tangent(array):
        raise no_forward_mode("an array")
    if library.wants_grad(array):
        raise records_nothing("an array")
    return library.view(array)


def glance_at(array: Any) -> tuple[int, Any]:
    """(address, facts) of any library's array, as of `Library.glance`."""
    return LIBRARIES[type(array)].glance(array)


def records_nothing(*names: str) -> UnsupportedError:
    """The error of gradients that would be lost, of the arrays of these names."""
    wants = f"{listed(names)} {'requires' if len(names) == 1 else 'require'} grad"
    return UnsupportedError(
        f"{wants}, and this records no gradient; attention(q, k, v, ...) without out does, or call under "
        "torch.no_grad() or detach() the arrays"
    )
