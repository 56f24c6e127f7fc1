"""Variant: one kernel's declared capabilities, and how a problem becomes its key, grid and arguments."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from numba_fa.dispatch.device import Device
from numba_fa.dispatch.key import NO_BIAS, DispatchKey
from numba_fa.problem import biases, masks
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.problem import Problem

# What a kernel computes that takes a program (`flash/program.py`).
MASKS, BIASES = tuple(masks.KINDS), tuple(biases.KINDS)


@dataclass(frozen=True, slots=True)
class Arrays:
    """A call's arrays: q, k, v, out (batch, seqlen, heads, head_dim), lse (batch, heads, seqlen_q) or None."""

    q: ArrayView
    k: ArrayView
    v: ArrayView
    out: ArrayView
    lse: ArrayView | None = None

    @property
    def lse_pointer(self) -> int:
        """Address of lse; 0 says to a kernel that it is not wanted."""
        return self.lse.pointer if self.lse else 0


# Users' functions and biases compute with positions as float32, by a trick that is exact below this (docs/adr/0008).
MOST_POSITIONS = 1 << 22


def position_limits(problem: Problem) -> list[str]:
    """Reasons against a call whose positions a GPU's score and mask functions could not tell apart."""
    if not (problem.biases or "mod" in problem.mask.kinds):
        return []
    lengths = (("seqlen_q", problem.seqlen_q), ("seqlen_k", problem.seqlen_k))
    return [
        f"{name} {length} with biases or a mask function, which take positions below {MOST_POSITIONS}"
        for name, length in lengths
        if length > MOST_POSITIONS
    ]


@dataclass(frozen=True, slots=True)
class TensorMap:
    """A launch argument: a TMA descriptor of `view`, (batch, seqlen, heads, head_dim), moving boxes rows x columns."""

    view: ArrayView
    rows: int
    columns: int


@dataclass(frozen=True)
class Variant:
    """One kernel: what it computes (declared, so that tests and the support matrix follow) and how it is called.

    masks, biases: kinds; sink: whether it takes sink_logits. head_dims: supported values. alignment: bytes that must
    divide every address and stride. source: "module:factory", imported only to compile. signature(dtype): kinds of the
    kernel's own parameters, as in `jit.TOKENS`. configure, grid and arguments turn a problem into a key, a launch grid
    and the values of these. programmed: whether the kernel takes, last, what mask, biases and sink_logits pass;
    program(problem) gives that. limits: further reasons against a problem.
    """

    name: str
    op: str
    family: str
    dtypes: tuple[str, ...]
    head_dims: range
    masks: tuple[str, ...]
    alignment: int
    source: str
    signature: Callable[[str], tuple[str, ...]]
    configure: Callable[[Problem], DispatchKey]
    grid: Callable[[Problem, DispatchKey, Device], tuple[int, int, int]]
    arguments: Callable[[Problem, DispatchKey, Arrays], tuple[Any, ...]]
    limits: Callable[[Problem], list[str]] = lambda problem: []
    biases: tuple[str, ...] = ()
    sink: bool = False
    programmed: bool = False
    program: Callable[[Problem], tuple[Any, ...]] = lambda problem: problem.program_arguments

    def not_supported(self, problem: Problem, device: Device) -> list[str]:
        """Why this variant does not compute `problem` on `device`; empty when it does."""
        reasons = []
        if self.family not in device.families:
            reasons.append(f"{self.family} kernels do not run on {device.name} ({device.arch})")
        if problem.dtype.name not in self.dtypes:
            reasons.append(f"dtype {problem.dtype.array_name}, not one of {', '.join(self.dtypes)}")
        if problem.head_dim not in self.head_dims:
            least, most = self.head_dims[0], self.head_dims[-1]
            reasons.append(f"head_dim {problem.head_dim}, not {least} to {most} in steps of {self.head_dims.step}")
        missing = [kind for kind in problem.mask.kinds if kind not in self.masks]
        reasons += [f"mask {kind}, not one of {', '.join(self.masks)}" for kind in missing]
        lacking = dict.fromkeys(bias.kind for bias in problem.biases if bias.kind not in self.biases)
        reasons += [f"bias {kind}, not one of {', '.join(self.biases) or NO_BIAS}" for kind in lacking]
        if problem.sink_logits and not self.sink:
            reasons.append("sink_logits, which it does not take")
        if problem.alignment < self.alignment:
            reasons.append(
                f"an address or stride is a multiple of {problem.alignment} bytes only, {self.alignment} are needed"
            )
        return reasons + self.limits(problem)

    def factory(self) -> Callable[[DispatchKey], Any]:
        """The function that makes the kernel for a key; imports the compiler."""
        module, _, name = self.source.partition(":")
        return getattr(importlib.import_module(module), name)

    def cells(self) -> Iterator[tuple[str, int, str, str]]:
        """What it declares, as (dtype, head_dim, mask, bias): each mask alone, and each bias with its last plain mask.

        Masks and biases are kinds ("sink" for sink_logits). Any of them combine; cells are what is worth a test each.
        """
        plain = [mask for mask in self.masks if mask in ("full", "causal")]
        biases = (*self.biases, *(["sink"] if self.sink else []))
        programs = [(mask, NO_BIAS) for mask in self.masks] + [(plain[-1], bias) for bias in biases if plain]
        for dtype in self.dtypes:
            for head_dim in self.head_dims:
                for mask, bias in programs:
                    yield dtype, head_dim, mask, bias
