"""Variant: one kernel's declared capabilities, and how a problem becomes its key, grid and arguments."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from numba_fa.dispatch.device import Device
from numba_fa.dispatch.key import DispatchKey
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.problem import Problem


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


@dataclass(frozen=True, slots=True)
class TensorMap:
    """A launch argument: a TMA descriptor of `view`, (batch, seqlen, heads, head_dim), moving boxes rows x columns."""

    view: ArrayView
    rows: int
    columns: int


@dataclass(frozen=True)
class Variant:
    """One kernel: what it computes (declared, so that tests and the support matrix follow) and how it is called.

    masks: kinds. head_dims: supported values. alignment: bytes that must divide every address and stride.
    source: "module:factory", imported only to compile. signature(dtype): kinds of the kernel's parameters, as
    in `jit.TOKENS`. configure, grid and arguments turn a problem into a key, a launch grid and parameter values.
    limits: further reasons against a problem.
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
        if problem.mask.kind not in self.masks:
            reasons.append(f"mask {problem.mask.kind}, not one of {', '.join(self.masks)}")
        if problem.alignment < self.alignment:
            reasons.append(
                f"an address or stride is a multiple of {problem.alignment} bytes only, {self.alignment} are needed"
            )
        return reasons + self.limits(problem)

    def factory(self) -> Callable[[DispatchKey], Any]:
        """The function that makes the kernel for a key; imports the compiler."""
        module, _, name = self.source.partition(":")
        return getattr(importlib.import_module(module), name)

    def cells(self) -> Iterator[tuple[str, int, str]]:
        """Every (dtype, head_dim, mask) it declares."""
        for dtype in self.dtypes:
            for head_dim in self.head_dims:
                for mask in self.masks:
                    yield dtype, head_dim, mask
