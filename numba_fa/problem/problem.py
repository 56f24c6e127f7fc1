"""Problem: one call's request, frozen, validated once with every fault listed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from numba_fa.errors import ProblemError
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.biases import Bias, biases_of
from numba_fa.problem.declared import array_faults
from numba_fa.problem.dtypes import DType, dtype_named
from numba_fa.problem.masks import MASKS, Mask, mask_named
from numba_fa.problem.overlap import overlap, overlaps_itself, same_place
from numba_fa.problem.tokens import SINK

# Kernels multiply scores by scale * log2(e) in float32.
_MOST_SCALE = float.fromhex("0x1.fffffep127") / math.log2(math.e)


class CallSizes(NamedTuple):
    """The sizes of a call that may have faults, for its mask and biases to be checked against."""

    batch: int
    seqlen_q: int
    seqlen_k: int
    heads: int
    device: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Forward attention of q (batch, seqlen_q, heads, head_dim) over k (batch, seqlen_k, heads_kv, head_dim) and v (batch,
    seqlen_k, heads_kv, head_dim_v).

    alignment: the largest power of two (at most 16) that divides every address and stride of q, k, v, out, in
    bytes. scale multiplies q.k. device is "cpu" or "cuda:N". mask, biases (applied in order) and sink_logits hold
    ArrayViews of the user's arrays.
    """

    dtype: DType
    batch: int
    seqlen_q: int
    seqlen_k: int
    heads: int
    heads_kv: int
    head_dim: int
    head_dim_v: int
    mask: Mask
    scale: float
    device: str
    alignment: int
    biases: tuple[Bias, ...] = ()
    sink_logits: ArrayView | None = None

    @property
    def summary(self) -> str:
        """One line a person can read."""
        bias = "" if self.bias_name == "none" else f", {self.bias_name.replace('+', ', ')},"
        return (
            f"{self.dtype.array_name} {self.mask.name}{bias} attention on {self.device}, batch {self.batch}, "
            f"seqlen {self.seqlen_q} x {self.seqlen_k}, heads {self.heads} over {self.heads_kv}, "
            f"head_dim {self.head_dim}" + (f" (v's {self.head_dim_v})" if self.own_head_dim_v else "")
        )

    @property
    def own_head_dim_v(self) -> bool:
        """Whether values have another head_dim than queries and keys."""
        return self.head_dim_v != self.head_dim

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        """Of the output."""
        return self.batch, self.seqlen_q, self.heads, self.head_dim_v

    @property
    def operations(self) -> int:
        """Floating-point operations of the two matrix products where every query sees every key."""
        return 2 * self.batch * self.heads * self.seqlen_q * self.seqlen_k * (self.head_dim + self.head_dim_v)

    @property
    def bias_name(self) -> str:
        """The biases and the sink in a slug: their names in order, the sink last; "none" where there are none."""
        names = [bias.name for bias in self.biases] + (["sink"] if self.sink_logits else [])
        return "+".join(names) or "none"

    @property
    def program_tokens(self) -> tuple[str, ...]:
        """Kinds of the launch arguments of mask, biases and sink_logits, which a kernel takes as one tuple, last."""
        tokens = [token for part in (self.mask, *self.biases) for token in part.tokens]
        return (*tokens, *([SINK] if self.sink_logits else []))

    @property
    def program_arguments(self) -> tuple[Any, ...]:
        """Their values: ints, floats and ArrayViews."""
        values = [value for part in (self.mask, *self.biases) for value in part.arguments(self)]
        return (*values, *([self.sink_logits] if self.sink_logits else []))

    @classmethod
    def from_views(
        cls,
        q: ArrayView,
        k: ArrayView,
        v: ArrayView,
        *,
        mask: Mask | str | None = None,
        bias: Bias | Sequence[Bias] | None = None,
        sink_logits: ArrayView | None = None,
        scale: float | None = None,
        out: ArrayView | None = None,
        lse: ArrayView | None = None,
    ) -> Problem:
        """Describe the call, or raise ProblemError with every fault.

        Shapes are (batch, seqlen, heads, head_dim), of v and out with their own head_dim; lse is float32 (batch, heads,
        seqlen_q), contiguous; sink_logits float32 (heads,). Masks and biases are viewed (`Declaration.viewed`). `scale`
        defaults to 1/sqrt(head_dim).
        """
        arrays = {"q": q, "k": k, "v": v} | ({"out": out} if out else {})
        faults = _type_faults(arrays)
        # Rank faults stand for all that is said of axes.
        rank_faults = _rank_faults(arrays)
        faults += rank_faults or _axis_faults(arrays, out, lse)
        chosen, biases = mask_named(mask), biases_of(bias)
        faults += choice_faults(mask, chosen, bias, biases)
        if not rank_faults:
            sizes = CallSizes(q.shape[0], q.shape[1], k.shape[1], q.shape[2], q.device)
            faults += _program_faults(sizes, chosen, biases or (), sink_logits)
            faults += _written_faults(out, chosen, biases or (), sink_logits)
        faults += scale_faults(scale)
        if faults or chosen is None or biases is None:
            raise ProblemError(faults)
        dtype = dtype_named(q.dtype)
        assert dtype is not None
        batch, seqlen_q, heads, head_dim = q.shape
        return cls(
            dtype=dtype,
            batch=batch,
            seqlen_q=seqlen_q,
            seqlen_k=k.shape[1],
            heads=heads,
            heads_kv=k.shape[2],
            head_dim=head_dim,
            head_dim_v=v.shape[3],
            mask=chosen,
            scale=head_dim**-0.5 if scale is None else float(scale),
            device=q.device,
            alignment=min(view.alignment for view in arrays.values()),
            biases=biases,
            sink_logits=sink_logits,
        )


def choice_faults(mask: Any, chosen: Mask | None, bias: Any, biases: tuple[Bias, ...] | None) -> list[str]:
    """Faults of what is given for a mask and for biases, which are none."""
    faults = []
    if chosen is None:
        faults.append(f"mask is {mask!r}; allowed: None, {', '.join(map(repr, MASKS))} or a mask object")
    if biases is None:
        faults.append(f"bias is {bias!r}; allowed: None, a bias object or a sequence of them")
    return faults


def _program_faults(
    sizes: CallSizes, mask: Mask | None, biases: tuple[Bias, ...], sink_logits: ArrayView | None
) -> list[str]:
    """Faults of mask, biases and sink_logits for a call of these sizes."""
    faults = [fault for part in ([mask] if mask else []) for fault in part.faults(sizes)]
    faults += [fault for bias in biases for fault in bias.faults(sizes)]
    if sink_logits is not None:
        faults += array_faults("sink_logits", sink_logits, ("float32",), [(sizes.heads,)], "(heads,)", sizes.device)
    return faults


def _written_faults(
    out: ArrayView | None, mask: Mask | None, biases: tuple[Bias, ...], sink_logits: ArrayView | None
) -> list[str]:
    """Faults of memory that out shares with arrays of mask, biases and sink, which are read while it is written."""
    parts = [*([mask] if mask else []), *biases]
    read = [array for part in parts for array in part.arrays] + ([("sink_logits", sink_logits)] if sink_logits else [])
    return [
        f"out overlaps {label} in memory; memory of its own is wanted"
        for label, view in read
        if out is not None and overlap(out, view)
    ]


def _rank_faults(arrays: dict[str, ArrayView]) -> list[str]:
    return [
        f"{name} has {len(view.shape)} axes, shape {view.shape}; (batch, seqlen, heads, head_dim) is wanted"
        for name, view in arrays.items()
        if len(view.shape) != 4
    ]


def _type_faults(arrays: dict[str, ArrayView]) -> list[str]:
    """Faults of dtypes and devices."""
    faults = []
    dtypes = {name: view.dtype for name, view in arrays.items()}
    if len(set(dtypes.values())) > 1:
        faults.append(f"dtypes differ: {_listed(dtypes)}; one dtype is wanted")
    for name, dtype in dtypes.items():
        if dtype_named(dtype) is None:
            faults.append(f"{name} is {dtype}; allowed: float32, float16, bfloat16")
    devices = {name: view.device for name, view in arrays.items()}
    if len(set(devices.values())) > 1:
        faults.append(f"devices differ: {_listed(devices)}; one device is wanted")
    return faults


def _axis_faults(arrays: dict[str, ArrayView], out: ArrayView | None, lse: ArrayView | None) -> list[str]:
    """Faults of strides and shapes, and of where results would be written; every array has four axes."""
    faults = [
        f"{name}'s last axis has stride {view.strides[-1]}; it must be contiguous (stride 1)"
        for name, view in arrays.items()
        if not view.contiguous_last
    ]
    faults += _shape_faults(arrays["q"], arrays["k"], arrays["v"])
    if out is not None:
        faults += _out_faults((*arrays["q"].shape[:3], arrays["v"].shape[3]), out) + _shared_faults(out, arrays)
    if lse is not None:
        faults += _lse_faults(arrays["q"], lse)
    return faults


def scale_faults(scale: float | None) -> list[str]:
    """What is wrong with a scale."""
    if isinstance(scale, (str, bytes)) or not (scale is None or hasattr(scale, "__float__")):
        return [f"scale is {scale!r}; a number or None is wanted"]
    if scale is None or 0 < scale <= _MOST_SCALE:
        return []
    if not (math.isfinite(scale) and scale > 0):
        return [f"scale is {scale}; it must be finite and above 0"]
    return [f"scale is {scale}; times log2(e) it must fit float32, so at most {_MOST_SCALE:.3g}"]


def _shape_faults(q: ArrayView, k: ArrayView, v: ArrayView) -> list[str]:
    faults = []
    batch, seqlen_q, heads, head_dim = q.shape
    heads_kv = k.shape[2]
    if v.shape[:3] != k.shape[:3]:
        faults.append(f"v's shape {v.shape} does not go with k's {k.shape}; batch, seqlen and heads must be equal")
    if k.shape[0] != batch:
        faults.append(f"k has batch {k.shape[0]}, q has {batch}; they must be equal")
    if k.shape[3] != head_dim:
        faults.append(f"k has head_dim {k.shape[3]}, q has {head_dim}; they must be equal")
    own = {"v's head_dim": v.shape[3]} if v.shape[3] != head_dim else {}
    for name, dim in ({"head_dim": head_dim} | own).items():
        if dim == 0 or dim % 8:
            faults.append(f"{name} is {dim}; a multiple of 8 is wanted, the next is {dim // 8 * 8 + 8}")
    for name, length in (("batch", batch), ("seqlen_q", seqlen_q), ("heads", heads), ("heads_kv", heads_kv)):
        if length == 0:
            faults.append(f"{name} is 0; at least 1 is wanted")
    if heads_kv and heads % heads_kv:
        faults.append(f"{heads} heads over {heads_kv} key heads; heads must be a multiple of heads_kv")
    return faults


def _out_faults(wanted: tuple[int, ...], out: ArrayView) -> list[str]:
    faults = []
    if out.shape != wanted:
        faults.append(f"out has shape {out.shape}; {wanted} is wanted, q's with v's head_dim")
    if not out.writable:
        faults.append("out is read-only")
    if out.shape == wanted and overlaps_itself(out):
        kind = "zero" if any(n > 1 and s == 0 for n, s in zip(out.shape, out.strides, strict=True)) else "short"
        faults.append(f"out has strides {out.strides}; a {kind} stride would make elements overlap")
    return faults


def _lse_faults(q: ArrayView, lse: ArrayView) -> list[str]:
    batch, seqlen_q, heads, _ = q.shape
    wanted, dense = (batch, heads, seqlen_q), (heads * seqlen_q, seqlen_q, 1)
    faults = [] if lse.writable else ["lse is read-only"]
    if lse.shape != wanted or lse.dtype != "float32" or lse.device != q.device:
        faults.append(f"lse is {lse.dtype} {lse.shape} on {lse.device}; float32 {wanted} on {q.device} is wanted")
    elif 0 not in wanted and any(n > 1 and s != d for n, s, d in zip(wanted, lse.strides, dense, strict=True)):
        faults.append(f"lse has strides {lse.strides}; contiguous {dense} is wanted")
    return faults


def _shared_faults(out: ArrayView, arrays: dict[str, ArrayView]) -> list[str]:
    """Faults of memory that out shares with inputs.

    out may be q itself: a kernel reads each tile of queries before it writes the same place.
    """
    return [
        f"out overlaps {name} in memory; memory of its own is wanted, or q itself"
        for name in ("q", "k", "v")
        if overlap(out, arrays[name]) and not (name == "q" and same_place(out, arrays[name]))
    ]


def _listed(values: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
