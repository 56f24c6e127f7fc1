"""Variant: one kernel's declared capabilities, and how a problem becomes its key, grid and arguments."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
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
    """A call's arrays: q, k (batch, seqlen, heads, head_dim), v, out (batch, seqlen, heads, head_dim_v), lse (batch, heads,
    seqlen_q) or None."""

    q: ArrayView
    k: ArrayView
    v: ArrayView
    out: ArrayView
    lse: ArrayView | None = None

    @property
    def lse_pointer(self) -> int:
        """Address of lse; 0 says to a kernel that it is not wanted."""
        return self.lse.pointer if self.lse else 0


# Names of gradients: "q", "k", "v", "sink", and "bias0" on for those biases that have parameters.
Wanted = frozenset[str]


@dataclass(frozen=True, slots=True)
class GradientArrays:
    """A backward's arrays. q, k: (batch, seqlen, heads, head_dim); v, out, dout: (batch, seqlen, heads, head_dim_v); lse:
    float32 (batch, heads, seqlen_q).

    dlse, like lse: the gradient of the LSE, if it has one. Results, None where not wanted: dq, dk, dv like q, k, v; dsink,
    float32 (heads,); dbias, one entry a bias, float32, broadcast as the bias's own array is among its launch arguments.
    rooms: addresses by name, each a multiple of 16, of memory that the kernels use between them.
    """

    q: ArrayView
    k: ArrayView
    v: ArrayView
    out: ArrayView
    dout: ArrayView
    lse: ArrayView
    dlse: ArrayView | None = None
    dq: ArrayView | None = None
    dk: ArrayView | None = None
    dv: ArrayView | None = None
    dsink: ArrayView | None = None
    dbias: tuple[ArrayView | None, ...] = ()
    rooms: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dlse_pointer(self) -> int:
        """Address of dlse; 0 where the LSE has no gradient."""
        return self.dlse.pointer if self.dlse else 0


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

    masks, biases: kinds; sink: whether it takes sink_logits. head_dims: supported values, of head_dim_v too. alignment:
    bytes that must divide every address and stride. source: "module:factory", imported only to compile.
    signature(dtype): kinds of the kernel's own parameters, as in `jit.TOKENS`. key_for(dtype, head_dim, mask, bias,
    head_dim_v) gives a key, of mask and bias as in slugs, by default with head_dim_v as head_dim; for_length(key,
    longest), the one for calls of at most `longest` queries and keys; grid and arguments turn a problem into a launch
    grid and the values of the parameters, from `Arrays` or `GradientArrays`. programmed: whether the kernel takes,
    last, what mask, biases and sink_logits pass; program(problem) gives that. limits: further reasons against a
    problem. task: what it is chosen for, "fwd" or "bwd"; by default its op. early: whether it is
    launched before the kernel before it in the stream has ended, and waits for that itself (`ptx/order.py: grid_wait`).

    Of a backward: deterministic, whether results are bit-equal from run to run. along(wanted): gradients that are made
    along with those wanted, and need room. stages(key, wanted): the keys of all its kernels in order, its own
    among them; rooms(problem, key, wanted): bytes of each room that they use between them, by name.
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
    key_for: Callable[..., DispatchKey]
    grid: Callable[[Problem, DispatchKey, Device], tuple[int, int, int]]
    arguments: Callable[[Problem, DispatchKey, Device, Any], tuple[Any, ...]]
    limits: Callable[[Problem], list[str]] = lambda problem: []
    for_length: Callable[[DispatchKey, int], DispatchKey] = lambda key, longest: key
    biases: tuple[str, ...] = ()
    sink: bool = False
    programmed: bool = False
    program: Callable[[Problem], tuple[Any, ...]] = lambda problem: problem.program_arguments
    task: str = ""
    early: bool = False
    deterministic: bool = True
    along: Callable[[Wanted], Wanted] = lambda wanted: wanted
    stages: Callable[[DispatchKey, Wanted], tuple[DispatchKey, ...]] = lambda key, wanted: (key,)
    rooms: Callable[[Problem, DispatchKey, Wanted], Mapping[str, int]] = lambda problem, key, wanted: {}

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", self.task or self.op)

    def configure(self, problem: Problem) -> DispatchKey:
        """The key of the kernel for a problem."""
        names = problem.mask.name, problem.bias_name
        key = self.key_for(problem.dtype.name, problem.head_dim, *names, problem.head_dim_v)
        return self.for_length(key, max(problem.seqlen_q, problem.seqlen_k))

    def not_supported(self, problem: Problem, device: Device) -> list[str]:
        """Why this variant does not compute `problem` on `device`; empty when it does."""
        reasons = []
        if self.family not in device.families:
            reasons.append(f"{self.family} kernels do not run on {device.name} ({device.arch})")
        if problem.dtype.name not in self.dtypes:
            reasons.append(f"dtype {problem.dtype.array_name}, not one of {', '.join(self.dtypes)}")
        least, most, step = self.head_dims[0], self.head_dims[-1], self.head_dims.step
        dims = {"head_dim": problem.head_dim} | ({"v's head_dim": problem.head_dim_v} if problem.own_head_dim_v else {})
        wide = {name: dim for name, dim in dims.items() if dim not in self.head_dims}
        reasons += [f"{name} {dim}, not {least} to {most} in steps of {step}" for name, dim in wide.items()]
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
