"""What declarations of masks and biases share: their arrays, their launch arguments, when two are one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol, TypeVar

from numba_fa.problem.arrays import ArrayView

Self = TypeVar("Self", bound="Declaration")


class Sizes(Protocol):
    """The numbers of a call that a declaration is checked against; a Problem has them, and so has `CallSizes`."""

    @property
    def batch(self) -> int: ...
    @property
    def seqlen_q(self) -> int: ...
    @property
    def seqlen_k(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def device(self) -> str: ...


class Declaration:
    """A mask or a bias as data. It holds the user's own arrays, so they live as long as it does.

    Dispatch sees its twin, `viewed`, with an ArrayView in place of each array; only that one has `arguments` and is
    free of faults. Two are equal when all but the arrays is, and the arrays are the same objects or equal views.
    """

    kind: ClassVar[str]
    ARRAYS: ClassVar[tuple[str, ...]] = ()  # fields that hold arrays, in the order of their launch arguments

    @property
    def name(self) -> str:
        """Its part of a slug: the kind and what else is known when a kernel is compiled."""
        return self.kind

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds it is made of, combinations included, each once."""
        return (self.kind,)

    @property
    def tokens(self) -> tuple[str, ...]:
        """Kinds of its launch arguments in order: "int32", "float32" or "array:<dtype>:<axes>"."""
        return ()

    @cached_property
    def arrays(self) -> tuple[tuple[str, Any], ...]:
        """(what it is called, array) of each array, in the order of the array tokens."""
        return tuple((f"{self.kind}'s {name}", getattr(self, name)) for name in self.ARRAYS)

    @cached_property
    def without_arrays(self) -> tuple[Any, ...]:
        """All but the arrays, hashable: with the arrays' dtypes and shapes it decides what is compiled and launched."""
        return (self.kind, *[getattr(self, f.name) for f in fields(self) if f.name not in self.ARRAYS])  # type: ignore[arg-type]

    @property
    def word(self) -> str:
        """What names it in a text of masks and biases (`problem/flat.py`)."""
        return self.kind

    @property
    def parts(self) -> tuple[Any, ...]:
        """What it is made of, such that its class makes it of them again."""
        return tuple([getattr(self, name) for name in type(self).__match_args__])  # type: ignore[attr-defined]

    def viewed(self: Self, view: Callable[[Any], ArrayView]) -> Self:
        """The same with `view(array)` in place of each array."""
        return self.with_arrays(iter([view(array) for _, array in self.arrays]))

    def with_arrays(self: Self, arrays: Iterator[Any]) -> Self:
        """The same with the next of `arrays` in place of each array."""
        return replace(self, **{name: next(arrays) for name in self.ARRAYS}) if self.ARRAYS else self  # type: ignore[type-var]

    def arguments(self, problem: Sizes) -> tuple[Any, ...]:
        """The launch arguments that `tokens` name: ints, floats and ArrayViews, broadcast axes with stride 0."""
        return ()

    def faults(self, problem: Sizes) -> list[str]:
        """What is wrong with it for a call of these sizes."""
        return []

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._identity() == other._identity()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[Any, ...]:
        return self.without_arrays, tuple(a if isinstance(a, ArrayView) else id(a) for _, a in self.arrays)


def dtype_text(array: Any) -> str:
    """The dtype of an ArrayView, or of any library's array, by NumPy's name."""
    return str(array.dtype).rpartition(".")[2]


def array_token(array: Any) -> str:
    """The token of a launch argument that is this array."""
    return f"array:{dtype_text(array)}:{len(array.shape)}"


def array_faults(label: str, view: ArrayView, dtypes: tuple[str, ...], shapes: Sequence[tuple[int, ...]], words: str,
                 device: str) -> list[str]:  # fmt: skip
    """Faults of dtype, shape and device of an array that must have one of `dtypes` and of `shapes`, in `words`."""
    faults = []
    if view.dtype not in dtypes:
        faults.append(f"{label} is {view.dtype}; {' or '.join(dtypes)} is wanted")
    if view.shape not in shapes:
        faults.append(f"{label} has shape {view.shape}; {words} is wanted, here {' or '.join(map(str, shapes))}")
    return faults + place_faults(label, view, device)


def place_faults(label: str, view: ArrayView, device: str) -> list[str]:
    """Faults of where an array lies."""
    faults = []
    if view.device != device:
        faults.append(f"{label} is on {view.device}; it must be on {device}, where q is")
    if view.pointer % view.itemsize:
        faults.append(f"{label} lies at an address that is no multiple of an element's {view.itemsize} bytes")
    if view.pointer == 0 and 0 not in view.shape:
        faults.append(f"{label} has no memory: it was freed, or resized to nothing")
    return faults


def spread(view: ArrayView, shape: tuple[int, ...]) -> ArrayView:
    """The view broadcast to `shape` as NumPy does it: missing leading axes and axes of length 1 get stride 0."""
    missing = len(shape) - len(view.shape)
    strides = [
        0 if length == 1 else stride for length, stride in zip(view.shape, view.strides, strict=True)
    ]
    return replace(view, shape=shape, strides=(*[0] * missing, *strides))


def is_count(value: Any) -> bool:
    """Whether a value is a whole number (True and False are not meant as one)."""
    from numbers import Integral

    return isinstance(value, Integral) and not isinstance(value, bool)
