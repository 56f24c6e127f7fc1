"""Biases as declarations: what changes a scaled score before the mask and the softmax, applied in the order given.

Each kind has a namesake in `flash/biases.py` (device) and `reference/biases.py` (truth). off = seqlen_k - seqlen_q.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import Any, ClassVar

from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.declared import (
    Declaration,
    Sizes,
    array_faults,
    dtype_text,
    is_count,
    place_faults,
    spread,
)
from numba_fa.problem.dtypes import DTYPES
from numba_fa.problem.functions import FromFunction

_MOST_FLOAT32 = float.fromhex("0x1.fffffep127")


class Bias(Declaration):
    """What happens to a scaled score, scale * q.k, or to what the biases before made of it.

    parameter: the field with the array that has a gradient, "" where there is none.
    """

    parameter: ClassVar[str] = ""

    def gradient_view(self, array: ArrayView, problem: Sizes) -> ArrayView:
        """Its parameter's gradient, an array of the parameter's shape, broadcast as the parameter among the arguments."""
        arguments = self.with_arrays(iter([array])).arguments(problem)
        return next(value for value in arguments if isinstance(value, ArrayView))


@dataclass(frozen=True, eq=False)
class ALiBi(Bias):
    """score - slopes[h] * |i + off - j| (Press et al. 2022). slopes: float32 (heads,) or (batch, heads), on q's device."""

    slopes: Any
    kind: ClassVar[str] = "alibi"
    parameter: ClassVar[str] = "slopes"
    ARRAYS: ClassVar[tuple[str, ...]] = ("slopes",)

    @property
    def tokens(self) -> tuple[str, ...]:
        return ("int32", "array:float32:2")

    def arguments(self, problem: Sizes) -> tuple[Any, ...]:
        return problem.seqlen_k - problem.seqlen_q, spread(self.slopes, (problem.batch, problem.heads))

    def faults(self, problem: Sizes) -> list[str]:
        shapes = list(dict.fromkeys([(problem.heads,), (problem.batch, problem.heads), (1, problem.heads)]))
        return array_faults(
            "alibi's slopes", self.slopes, ("float32",), shapes, "(heads,) or (batch, heads)", problem.device
        )


@dataclass(frozen=True, eq=False)
class DenseBias(Bias):
    """score + array[b, h, i, j]. array: float32, float16 or bfloat16, any strides, on q's device.

    It broadcasts as in NumPy: up to 4 axes (batch, heads, seqlen_q, seqlen_k), each of full length or 1.
    """

    array: Any
    kind: ClassVar[str] = "dense"
    parameter: ClassVar[str] = "array"
    ARRAYS: ClassVar[tuple[str, ...]] = ("array",)

    @property
    def name(self) -> str:
        dtype = DTYPES.get(dtype_text(self.array))
        return f"dense_{dtype.name if dtype else dtype_text(self.array)}"

    @property
    def tokens(self) -> tuple[str, ...]:
        return (f"array:{dtype_text(self.array)}:4",)

    def arguments(self, problem: Sizes) -> tuple[Any, ...]:
        return (spread(self.array, (problem.batch, problem.heads, problem.seqlen_q, problem.seqlen_k)),)

    def faults(self, problem: Sizes) -> list[str]:
        faults, shape = [], self.array.shape
        full = (problem.batch, problem.heads, problem.seqlen_q, problem.seqlen_k)
        if self.array.dtype not in DTYPES:
            faults.append(f"dense's array is {self.array.dtype}; {' or '.join(DTYPES)} is wanted")
        if len(shape) > 4 or any(n not in (1, wanted) for n, wanted in zip(shape[::-1], full[::-1])):
            faults.append(
                f"dense's array has shape {shape}; up to 4 axes, each of length 1 or of (batch, heads, seqlen_q, seqlen_k), "
                f"here {full}, are wanted"
            )
        return faults + place_faults("dense's array", self.array, problem.device)


@dataclass(frozen=True, eq=False)
class T5Bias(Bias):
    """score + table[bucket, h], bucket of the relative position j - (i + off) as in T5 (Raffel et al. 2020).

    table: float32 (num_buckets, heads), on q's device. Half the buckets are of single positions, the others widen
    up to max_distance; bidirectional: keys after the query have buckets of their own, half of all.
    """

    table: Any
    max_distance: int = 128
    bidirectional: bool = True
    kind: ClassVar[str] = "t5"
    parameter: ClassVar[str] = "table"
    ARRAYS: ClassVar[tuple[str, ...]] = ("table",)

    @property
    def name(self) -> str:
        """t5_<buckets>_<max_distance>_ and b (bidirectional) or u."""
        return f"t5_{self.table.shape[0]}_{self.max_distance}_{'b' if self.bidirectional else 'u'}"

    @property
    def tokens(self) -> tuple[str, ...]:
        return ("int32", "array:float32:2")

    def arguments(self, problem: Sizes) -> tuple[Any, ...]:
        return problem.seqlen_k - problem.seqlen_q, self.table

    def faults(self, problem: Sizes) -> list[str]:
        shape = self.table.shape
        wanted = (shape[0] if shape else 32, problem.heads)
        faults = array_faults("t5's table", self.table, ("float32",), [wanted], "(num_buckets, heads)", problem.device)
        exact = wanted[0] // (4 if self.bidirectional else 2)
        if exact < 1:
            faults.append(f"t5's table has {wanted[0]} buckets; at least {4 if self.bidirectional else 2} are wanted")
        if not is_count(self.max_distance) or not exact < self.max_distance < 2**31:
            faults.append(
                f"t5's max_distance is {self.max_distance!r}; a distance above {exact}, which {wanted[0]} buckets tell "
                "apart one by one, is wanted"
            )
        return faults


@dataclass(frozen=True, eq=False)
class Softcap(Bias):
    """cap * tanh(score / cap): scores stay between -cap and cap (Gemma 2)."""

    cap: float
    kind: ClassVar[str] = "softcap"

    @property
    def tokens(self) -> tuple[str, ...]:
        return ("float32",)

    def arguments(self, problem: Sizes) -> tuple[Any, ...]:
        return (float(self.cap),)

    def faults(self, problem: Sizes) -> list[str]:
        cap = self.cap
        if isinstance(cap, Real) and isfinite(cap) and 2**-126 <= cap <= _MOST_FLOAT32:
            return []
        return [f"softcap's cap is {cap!r}; a float32 number above 0 is wanted"]


@dataclass(frozen=True, eq=False, init=False)
class ScoreMod(FromFunction, Bias):
    """A Python function of the score: function(score, b, h, q_idx, kv_idx, *aux) -> score, h the query's head.

    It is compiled into the kernel. score is float32; the rest is as of `MaskMod`.
    """

    kind: ClassVar[str] = "score_mod"
    role: ClassVar[str] = "score"


KINDS: dict[str, type[Bias]] = {kind.kind: kind for kind in (ALiBi, DenseBias, T5Bias, Softcap, ScoreMod)}


def biases_of(bias: Bias | Sequence[Bias] | None) -> tuple[Bias, ...] | None:
    """The biases meant by None, one or several; None when anything else is meant."""
    if bias is None:
        return ()
    found = (bias,) if isinstance(bias, Bias) else tuple(bias) if isinstance(bias, (tuple, list)) else (None,)
    return found if all(isinstance(one, Bias) for one in found) else None  # type: ignore[return-value]
