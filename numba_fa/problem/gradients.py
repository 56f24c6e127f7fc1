"""What a backward is given besides a forward's arguments, checked against the problem it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.biases import Bias
from numba_fa.problem.declared import place_faults
from numba_fa.problem.problem import Problem

NAMES = ("q", "k", "v", "bias", "sink")
Wanted = frozenset[str]


class Saved(NamedTuple):
    """Views of dout and of what the forward left: out; lse and, if the LSE has a gradient, dlse."""

    dout: ArrayView
    out: ArrayView
    lse: ArrayView
    dlse: ArrayView | None = None


def wanted_of(wanted: Any, biases: Sequence[Bias], sink: bool) -> tuple[Wanted, list[str]]:
    """(the gradients that a caller's `wanted` means, with "bias0" on for "bias", which may be given too; its faults)."""
    several = isinstance(wanted, (tuple, list, set, frozenset))
    names = list(wanted) if several else [wanted] if isinstance(wanted, str) else []
    numbered = [f"bias{i}" for i, bias in enumerate(biases) if bias.parameter]
    unknown = [name for name in names if name not in NAMES and name not in numbered]
    faults = [f"wanted holds {name!r}; allowed: {', '.join(map(repr, NAMES))}" for name in unknown]
    if not names:
        faults.append(f"wanted is {wanted!r}; some of {', '.join(map(repr, NAMES))} are wanted")
    if "sink" in names and not sink:
        faults.append("wanted holds 'sink', and there are no sink_logits")
    if "bias" in names and not numbered:
        faults.append("wanted holds 'bias', and no bias has a parameter (ALiBi's slopes, DenseBias's array, T5Bias's table)")
    kept = [name for name in names if name != "bias"] + (numbered if "bias" in names else [])
    return frozenset(kept), faults


def saved_faults(problem: Problem, saved: Saved) -> list[str]:
    """Faults of dout, out, lse and dlse as what belongs to a forward of this problem."""
    rows = (problem.batch, problem.heads, problem.seqlen_q)
    faults = []
    for name, view in (("dout", saved.dout), ("out", saved.out)):
        faults += _kind_faults(name, view, problem.dtype.array_name, problem.out_shape, "out's")
        if view.shape == problem.out_shape and not view.contiguous_last:
            faults.append(f"{name}'s last axis has stride {view.strides[-1]}; it must be contiguous (stride 1)")
        faults += place_faults(name, view, problem.device)
    for name, view in (("lse", saved.lse), ("dlse", saved.dlse)):  # type: ignore[assignment]
        if view is not None:
            faults += _kind_faults(name, view, "float32", rows, "the LSE's") + place_faults(name, view, problem.device)
            dense = (rows[1] * rows[2], rows[2], 1)
            if view.shape == rows and any(n > 1 and s != d for n, s, d in zip(rows, view.strides, dense, strict=True)):
                faults.append(f"{name} has strides {view.strides}; contiguous {dense} is wanted")
    return faults


def _kind_faults(name: str, view: ArrayView, dtype: str, shape: tuple[int, ...], whose: str) -> list[str]:
    faults = [] if view.dtype == dtype else [f"{name} is {view.dtype}; {whose} dtype {dtype} is wanted"]
    return faults if view.shape == shape else [*faults, f"{name} has shape {view.shape}; {whose} shape {shape} is wanted"]
