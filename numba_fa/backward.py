"""attention_backward: the gradients of attention, for arrays of any library."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numba_fa.kernels  # noqa: F401  (registers the variants)
from numba_fa import env
from numba_fa.adapters.given import Given, common_library, named, refuse_gradients
from numba_fa.adapters.library import Library
from numba_fa.dispatch.device import device_of
from numba_fa.dispatch.gradient_plan import GradientPlan, Kernel, without_addresses
from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.registry import variant_of
from numba_fa.dispatch.select import select
from numba_fa.dispatch.variant import GradientArrays, Variant, Wanted
from numba_fa.errors import ProblemError
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.biases import Bias
from numba_fa.problem.gradients import Saved, saved_faults, wanted_of
from numba_fa.problem.masks import Mask
from numba_fa.problem.problem import Problem


class Gradients(NamedTuple):
    """What `attention_backward` returns; None what was not wanted.

    dq, dk, dv: of the shape and dtype of q, k and v. dbias: one entry a bias, float32 in the shape of its parameter (an
    ALiBi's slopes, a DenseBias's array, a T5Bias's table), None for biases without one. dsink: float32 (heads,).
    """

    dq: Any = None
    dk: Any = None
    dv: Any = None
    dbias: tuple[Any, ...] = ()
    dsink: Any = None


def attention_backward(
    dout: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    lse: Any,
    *,
    mask: Mask | str | None = None,
    bias: Bias | Sequence[Bias] | None = None,
    sink_logits: Any = None,
    scale: float | None = None,
    dlse: Any = None,
    wanted: Collection[str] = ("q", "k", "v"),
    deterministic: bool = False,
) -> Gradients:
    """The gradients of a loss through `out, lse = attention(q, k, v, ..., return_lse=True)` of the same arguments.

    dout: the gradient of the loss by out, (batch, seqlen_q, heads, v's head_dim) in q's dtype with a contiguous last axis.
    dlse: by lse, float32 (batch, heads, seqlen_q), if the loss takes it. out and lse must be as the forward left them.
    wanted: which gradients, of "q", "k", "v", "bias" (of every bias that has a parameter; "bias0" on: of that one) and
    "sink"; others are None.
    deterministic: bit-equal results from run to run. By default the order in which dq is added up may differ between
    runs on a Hopper GPU, and with it the last bits of dq; all else is deterministic anyway.

    Gradients pass through ScoreMod functions by forward-mode differentiation, done when they are compiled. Rows that see
    no key have no gradients. dk and dv are summed over the query heads of a key head in float32.

    Returns `Gradients`, enqueued on the caller's current stream. Beside them memory is taken for dq in float32 and two
    numbers a query, and freed when all is done.

    Raises ProblemError (a ValueError) listing every fault of the arguments, UnsupportedError when no kernel computes the
    request, CompileError for a ScoreMod's function that has no derivative or does not compile; all before any launch.
    Method: Dao, FlashAttention-2 (2023), algorithm 2; on Hopper Shah et al., FlashAttention-3 (2024), section 3.
    """
    given = Given(mask, bias, sink_logits)
    if lse is None:
        raise ProblemError(["lse is None; call attention(..., return_lse=True) and pass what it returns"])
    extra = {} if dlse is None else {"dlse": dlse}
    library = common_library(given, q=q, k=k, v=v, dout=dout, out=out, lse=lse, **extra)
    refuse_gradients(given, q=q, k=k, v=v, dout=dout, out=out, lse=lse, **extra)
    views = _views_of(library, q=q, k=k, v=v, dout=dout, out=out, lse=lse, **extra)
    saved = Saved(views["dout"], views["out"], views["lse"], views.get("dlse"))
    problem, asked = _checked(views, saved, given, scale, wanted)
    planned = _plan(without_addresses(problem), asked, deterministic, env.backend())
    made, arrays = _results(library, q, views, saved, problem, planned)
    planned.run(problem, arrays, library.stream(q))
    return _gradients(library, made, asked, len(problem.biases))


def _views_of(library: Library, **arrays: Any) -> dict[str, ArrayView]:
    try:
        return {name: library.view(array) for name, array in arrays.items()}
    except ProblemError:
        raise named(library.view, list(arrays.items())) from None


def _checked(
    views: dict[str, ArrayView], saved: Saved, given: Given, scale: float | None, wanted: Any
) -> tuple[Problem, Wanted]:
    """The problem, aligned as all its arrays are, and what is wanted of it; ProblemError with every fault."""
    mask, bias, sink_logits = given.viewed()
    problem = Problem.from_views(
        views["q"], views["k"], views["v"], mask=mask, bias=bias, sink_logits=sink_logits, scale=scale
    )
    asked, faults = wanted_of(wanted, problem.biases, problem.sink_logits is not None)
    faults = saved_faults(problem, saved) + faults
    if faults:
        raise ProblemError(faults)
    alignment = min(problem.alignment, saved.out.alignment, saved.dout.alignment)
    return replace(problem, alignment=alignment), asked


def forget() -> None:
    """Forget plans; kernels stay loaded."""
    _plan.cache_clear()


@lru_cache(maxsize=1024)
def _plan(problem: Problem, wanted: Wanted, deterministic: bool, backend: str | None) -> GradientPlan:
    """The kernels for a problem. `backend` is in the cache's key only."""
    chosen = select(problem, device_of(problem.device), "bwd", deterministic)
    return plan_for(problem, chosen.variant, chosen.key, wanted)


def plan_for(problem: Problem, variant: Variant, key: DispatchKey, wanted: Wanted) -> GradientPlan:
    """A plan with this main kernel and what goes with it, compiled and loaded."""
    kernels = [
        _kernel(problem, variant if stage.op == key.op else variant_of(stage), stage)
        for stage in variant.stages(key, wanted)
    ]
    return GradientPlan(variant, key, wanted, tuple(kernels), variant.rooms(problem, key, wanted))


def _kernel(problem: Problem, variant: Variant, key: DispatchKey) -> Kernel:
    device = device_of(problem.device)
    if device.arch == "cpu":
        run = variant.factory()(key)
        return Kernel(variant, key, device, launch=lambda arguments, stream: run(*arguments))
    from numba_fa.build.launch import make_prepare
    from numba_fa.build.loader import load

    signature = variant.signature(key.dtype) + (problem.program_tokens if variant.programmed else ())
    grid = variant.grid(problem, key, device)
    prepare = make_prepare(load(key, variant, device), signature, grid, device, variant.early)
    return Kernel(variant, key, device, prepare)


def _results(
    library: Library, q: Any, views: dict[str, ArrayView], saved: Saved, problem: Problem, planned: GradientPlan
) -> tuple[dict[str, Any], GradientArrays]:
    """(new arrays by the names of gradients and rooms, views of all that the kernels use)."""
    wanted = planned.variant.along(planned.wanted)
    made = {name: library.empty(q, views[name].shape, views[name].dtype) for name in "qkv" if name in wanted}
    if "sink" in wanted:
        made["sink"] = library.empty(q, (problem.heads,), "float32")
    shapes = {f"bias{i}": bias.arrays[0][1].shape for i, bias in enumerate(problem.biases) if f"bias{i}" in wanted}
    made |= {name: library.empty(q, shape, "float32") for name, shape in shapes.items()}
    made |= {f"room {name}": library.empty(q, (-(-size // 4),), "float32") for name, size in planned.rooms.items()}
    at = {name: library.view(array) for name, array in made.items()}
    dbias = tuple(
        bias.gradient_view(at[f"bias{i}"], problem) if f"bias{i}" in at else None for i, bias in enumerate(problem.biases)
    )
    arrays = GradientArrays(
        views["q"], views["k"], views["v"], saved.out, saved.dout, saved.lse, saved.dlse,
        at.get("q"), at.get("k"), at.get("v"), at.get("sink"), dbias,
        {name: at[f"room {name}"].pointer for name in planned.rooms},
    )  # fmt: skip
    return made, arrays


def _gradients(library: Library, made: dict[str, Any], wanted: Wanted, biases: int) -> Gradients:
    found = {name: library.finish(array) for name, array in made.items() if name in wanted}
    dbias = tuple(found.get(f"bias{i}") for i in range(biases))
    return Gradients(found.get("q"), found.get("k"), found.get("v"), dbias, found.get("sink"))
