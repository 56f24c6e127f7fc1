"""Masks as declarations. Each kind has a namesake in `flash/masks.py` (device) and `reference/masks.py` (truth).

Throughout off = seqlen_k - seqlen_q: masks are aligned bottom-right, so that the last query meets the last key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any as Anything
from typing import ClassVar

from numba_fa.errors import ProblemError
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.declared import Declaration, Sizes, array_faults, is_count, place_faults, spread
from numba_fa.problem.functions import FromFunction

UNBOUNDED = 2**30  # a bound that lies beyond every key


class Mask(Declaration):
    """Which keys a query sees. `a & b` sees what both see, `a | b` what either sees."""

    def __and__(self, other: Anything) -> All:
        return All((self, other)) if isinstance(other, Mask) else NotImplemented

    def __or__(self, other: Anything) -> Any:
        return Any((self, other)) if isinstance(other, Mask) else NotImplemented

    @property
    def bounds(self) -> bool:
        """Whether it bounds the keys by the query's position, so that a window beside it may keep sink tokens."""
        return False

    def faults(self, problem: Sizes, bounded: bool = False) -> list[str]:
        """As of a declaration. bounded: whether a mask that holds together with this one bounds the keys."""
        return []


def _offset(problem: Sizes) -> int:
    return problem.seqlen_k - problem.seqlen_q


def _clamped(bound: int) -> int:
    return max(-UNBOUNDED, min(UNBOUNDED, bound))


@dataclass(frozen=True, eq=False)
class Full(Mask):
    """Every query sees every key."""

    kind: ClassVar[str] = "full"


@dataclass(frozen=True, eq=False)
class Causal(Mask):
    """Query i sees key j when j <= i + seqlen_k - seqlen_q: the last query sees the last key (bottom-right)."""

    kind: ClassVar[str] = "causal"

    @property
    def bounds(self) -> bool:
        return True

    @property
    def tokens(self) -> tuple[str, ...]:
        return ("int32",)

    def arguments(self, problem: Sizes) -> tuple[Anything, ...]:
        return (_offset(problem),)


@dataclass(frozen=True, eq=False)
class SlidingWindow(Mask):
    """Query i sees the keys from i + off - left to i + off + right; -1 or None is no bound on that side.

    sinks: the first keys, which stay visible whatever the left bound says, never against the right one (StreamingLLM,
    Xiao et al. 2023); they need a bound here, or a causal mask or another window beside this one (`&`).
    """

    left: int | None = -1
    right: int | None = -1
    sinks: int = 0
    kind: ClassVar[str] = "window"

    def __post_init__(self) -> None:
        for name in ("left", "right", "sinks"):
            value = getattr(self, name)
            object.__setattr__(self, name, -1 if value is None else int(value) if is_count(value) else value)

    @property
    def bounds(self) -> bool:
        return self.left != -1 or self.right != -1

    @property
    def tokens(self) -> tuple[str, ...]:
        return ("int32", "int32", "int32")

    def arguments(self, problem: Sizes) -> tuple[Anything, ...]:
        off, left, right = _offset(problem), self.left, self.right
        assert left is not None and right is not None
        low = -UNBOUNDED if left == -1 else _clamped(off - left)
        high = UNBOUNDED if right == -1 else _clamped(off + right)
        return low, high, _clamped(self.sinks)

    def faults(self, problem: Sizes, bounded: bool = False) -> list[str]:
        faults = [
            f"window's {side} is {value!r}; -1 or None (no bound), or at least 0 is wanted"
            for side, value in (("left", self.left), ("right", self.right))
            if not is_count(value) or value < -1  # type: ignore[operator]
        ]
        if not is_count(self.sinks) or self.sinks < 0:
            faults.append(f"window's sinks is {self.sinks!r}; a number of keys, at least 0, is wanted")
        elif self.sinks and not (self.bounds or bounded):
            faults.append(f"window has {self.sinks} sinks but no bound; left, right, or a causal mask beside it is wanted")
        return faults


@dataclass(frozen=True, eq=False)
class KeyPadding(Mask):
    """Batch entry b has lengths[b] keys; those behind are not seen. lengths: int32 (batch,), on q's device."""

    lengths: Anything
    kind: ClassVar[str] = "padding"
    ARRAYS: ClassVar[tuple[str, ...]] = ("lengths",)

    @property
    def tokens(self) -> tuple[str, ...]:
        return ("array:int32:1",)

    def arguments(self, problem: Sizes) -> tuple[Anything, ...]:
        return (spread(self.lengths, (problem.batch,)),)

    def faults(self, problem: Sizes, bounded: bool = False) -> list[str]:
        return _lengths_faults("padding's lengths", self.lengths, problem)


@dataclass(frozen=True, eq=False)
class Document(Mask):
    """Packed documents: query i sees key j when q_ids[b, i] == k_ids[b, j].

    q_ids: int32 (batch, seqlen_q), k_ids: int32 (batch, seqlen_k), on q's device; a batch of 1 stands for every entry.
    k_ids defaults to q_ids, for which seqlen_q must equal seqlen_k.
    """

    q_ids: Anything
    k_ids: Anything = None
    kind: ClassVar[str] = "document"
    ARRAYS: ClassVar[tuple[str, ...]] = ("q_ids", "k_ids")

    def __post_init__(self) -> None:
        if self.k_ids is None:
            object.__setattr__(self, "k_ids", self.q_ids)

    @property
    def tokens(self) -> tuple[str, ...]:
        return ("array:int32:2", "array:int32:2")

    def arguments(self, problem: Sizes) -> tuple[Anything, ...]:
        lengths = problem.seqlen_q, problem.seqlen_k
        return tuple(
            spread(ids, (problem.batch, length)) for ids, length in zip((self.q_ids, self.k_ids), lengths, strict=True)
        )

    def faults(self, problem: Sizes, bounded: bool = False) -> list[str]:
        faults = []
        if self.q_ids == self.k_ids and problem.seqlen_q != problem.seqlen_k:
            faults.append(
                f"document's k_ids defaults to q_ids, but seqlen_q is {problem.seqlen_q} and seqlen_k is "
                f"{problem.seqlen_k}; give k_ids, int32 (batch, seqlen_k)"
            )
        sides = (("q_ids", self.q_ids, problem.seqlen_q), ("k_ids", self.k_ids, problem.seqlen_k))
        for name, ids, length in sides[: 1 if self.q_ids == self.k_ids else 2]:
            shapes = list(dict.fromkeys([(problem.batch, length), (1, length)]))
            words = f"(batch, seqlen_{name[0]}) or (1, seqlen_{name[0]})"
            faults += array_faults(f"document's {name}", ids, ("int32",), shapes, words, problem.device)
        return faults


@dataclass(frozen=True, eq=False)
class PrefixLM(Mask):
    """Causal, but the first prefix keys are seen by every query (prefix-LM, T5). prefix: an int, or int32 (batch,)."""

    prefix: Anything
    kind: ClassVar[str] = "prefix"

    def __post_init__(self) -> None:
        if is_count(self.prefix):
            object.__setattr__(self, "prefix", int(self.prefix))

    @property
    def _number(self) -> bool:
        return isinstance(self.prefix, int)

    @property
    def name(self) -> str:
        return "prefix_int" if self._number else "prefix"

    @property
    def tokens(self) -> tuple[str, ...]:
        return ("int32", "int32" if self._number else "array:int32:1")

    @cached_property
    def arrays(self) -> tuple[tuple[str, Anything], ...]:
        return () if self._number else (("prefix's lengths", self.prefix),)

    @cached_property
    def without_arrays(self) -> tuple[Anything, ...]:
        return ("prefix", self.prefix if self._number else None)

    def with_arrays(self, arrays: Iterator[Anything]) -> PrefixLM:
        return self if self._number else PrefixLM(next(arrays))

    def arguments(self, problem: Sizes) -> tuple[Anything, ...]:
        prefix = _clamped(self.prefix) if self._number else spread(self.prefix, (problem.batch,))
        return _offset(problem), prefix

    def faults(self, problem: Sizes, bounded: bool = False) -> list[str]:
        if self._number:
            return [f"prefix is {self.prefix}; at least 0 keys are wanted"] if self.prefix < 0 else []
        return _lengths_faults("prefix's lengths", self.prefix, problem)


def _lengths_faults(label: str, view: ArrayView, problem: Sizes) -> list[str]:
    shapes = list(dict.fromkeys([(problem.batch,), (1,)]))
    return array_faults(label, view, ("int32",), shapes, "(batch,)", problem.device)


@dataclass(frozen=True, eq=False, init=False)
class MaskMod(FromFunction, Mask):
    """A mask that a Python function decides: function(b, h, q_idx, kv_idx, *aux) -> bool, h the query's head.

    It is compiled into the kernel, and called with indices that exist. aux: arrays on q's device, which the function
    indexes, and numbers, which it gets as int32 or float32. What else it refers to is taken as it is now: numbers,
    tuples of them, modules, and functions, which may be plain ones or Numba's.
    """

    kind: ClassVar[str] = "mod"
    role: ClassVar[str] = "mask"


@dataclass(frozen=True, eq=False)
class _Combined(Mask):
    """Several masks at once, flattened: a member of the same class gives its members."""

    masks: tuple[Mask, ...]

    def __post_init__(self) -> None:
        masks = tuple(self.masks) if isinstance(self.masks, (tuple, list)) else (self.masks,)
        wrong = [f"{self.kind} combines masks, not {mask!r}" for mask in masks if not isinstance(mask, Mask)]
        if wrong or not masks:
            raise ProblemError(wrong or [f"{self.kind} of no masks; at least one is wanted"])
        flat = [inner for mask in masks for inner in (mask.masks if isinstance(mask, type(self)) else (mask,))]
        object.__setattr__(self, "masks", tuple(flat))

    @property
    def name(self) -> str:
        return "+".join([f"{self.kind}{len(self.masks)}", *[mask.name for mask in self.masks]])

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([self.kind, *[kind for mask in self.masks for kind in mask.kinds]]))

    @property
    def tokens(self) -> tuple[str, ...]:
        return tuple(token for mask in self.masks for token in mask.tokens)

    @cached_property
    def arrays(self) -> tuple[tuple[str, Anything], ...]:
        return tuple(array for mask in self.masks for array in mask.arrays)

    @cached_property
    def without_arrays(self) -> tuple[Anything, ...]:
        return (self.kind, *[mask.without_arrays for mask in self.masks])

    def with_arrays(self, arrays: Iterator[Anything]) -> Anything:
        return type(self)(tuple(mask.with_arrays(arrays) for mask in self.masks))

    def arguments(self, problem: Sizes) -> tuple[Anything, ...]:
        return tuple(value for mask in self.masks for value in mask.arguments(problem))


class All(_Combined):
    """Query i sees the keys that every one of `masks` shows it; what `a & b` makes."""

    kind: ClassVar[str] = "all"

    @property
    def bounds(self) -> bool:
        return any(mask.bounds for mask in self.masks)

    def faults(self, problem: Sizes, bounded: bool = False) -> list[str]:
        return [fault for mask in self.masks for fault in mask.faults(problem, bounded or self.bounds)]


class Any(_Combined):
    """Query i sees the keys that at least one of `masks` shows it; what `a | b` makes."""

    kind: ClassVar[str] = "any"

    @property
    def bounds(self) -> bool:
        return all(mask.bounds for mask in self.masks)

    def faults(self, problem: Sizes, bounded: bool = False) -> list[str]:
        return [fault for mask in self.masks for fault in mask.faults(problem, bounded)]


@dataclass(frozen=True, eq=False)
class BlockMask(Mask):
    """A mask with a table of which blocks of it hold anything; `block_mask` makes it.

    table: int32 (batch, heads, query blocks, key blocks), an axis of length 1 for all; element [b, h, m, n] is 2 * t +
    whole for the last key block t up to n of which a query of block m sees a key, whole 1 when each sees each, and -1
    when there is none. block_size: queries, keys; powers of two. seqlens: those the table is for.
    """

    table: Anything
    mask: Mask
    block_size: tuple[int, int]
    seqlens: tuple[int, int]
    kind: ClassVar[str] = "block"

    @property
    def name(self) -> str:
        return f"block+{self.mask.name}"

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([self.kind, *self.mask.kinds]))

    @property
    def bounds(self) -> bool:
        return self.mask.bounds

    @property
    def tokens(self) -> tuple[str, ...]:
        return ("array:int32:2", "int32", "int32", "int32", "int32", *self.mask.tokens)

    @cached_property
    def arrays(self) -> tuple[tuple[str, Anything], ...]:
        return (("block's table", self.table), *self.mask.arrays)

    @cached_property
    def without_arrays(self) -> tuple[Anything, ...]:
        return ("block", self.block_size, self.seqlens, self.mask.without_arrays)

    def with_arrays(self, arrays: Iterator[Anything]) -> BlockMask:
        table = next(arrays)
        return replace(self, table=table, mask=self.mask.with_arrays(arrays))

    def arguments(self, problem: Sizes) -> tuple[Anything, ...]:
        # As a matrix, and with shifts for sizes: what a kernel's loading thread asks of it must fit few registers.
        batches, heads, rows, columns = self.table.shape
        table = replace(self.table, shape=(batches * heads * rows, columns), strides=(columns, 1))
        steps = heads * rows if batches > 1 else 0, rows if heads > 1 else 0
        return (table, *steps, *[size.bit_length() - 1 for size in self.block_size], *self.mask.arguments(problem))

    def faults(self, problem: Sizes, bounded: bool = False) -> list[str]:
        faults = self.mask.faults(problem, bounded)
        asked = problem.seqlen_q, problem.seqlen_k
        if asked != self.seqlens:
            faults.append(f"the block mask is for seqlen_q, seqlen_k {self.seqlens}, the arrays have {asked}")
        shape = self.table.shape
        for axis, name, wanted in ((0, "batch", problem.batch), (1, "heads", problem.heads)):
            if shape[axis] not in (1, wanted):
                faults.append(f"the block mask is for {name} {shape[axis]}, the arrays have {wanted}; that or 1 is wanted")
        return faults + place_faults("block's table", self.table, problem.device)


MASKS: dict[str, Mask] = {"full": Full(), "causal": Causal()}  # those that have a name in place of an object
KINDS: dict[str, type[Mask]] = {
    kind.kind: kind
    for kind in (Full, Causal, SlidingWindow, KeyPadding, Document, PrefixLM, MaskMod, BlockMask, All, Any)
}


def mask_named(mask: Mask | str | None) -> Mask | None:
    """The mask meant by an object, a name or None (full); None when nothing is meant."""
    if mask is None:
        return MASKS["full"]
    if isinstance(mask, str):
        return MASKS.get(mask)
    return mask if isinstance(mask, Mask) else None
