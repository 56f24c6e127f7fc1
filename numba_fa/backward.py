"""attention_backward: the gradients of attention, for arrays of any library."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from operator import or_
from typing import Any, NamedTuple

import numba_fa.kernels  # noqa: F401  (registers the variants)
from numba_fa import env
from numba_fa.adapters import torch_around, torch_calls
from numba_fa.adapters.arrays import LIBRARIES
from numba_fa.adapters.calls import Calls
from numba_fa.adapters.given import Given, common_library, named, refuse_gradients
from numba_fa.adapters.library import Library, same
from numba_fa.dispatch.addresses import aux_views
from numba_fa.dispatch.device import device_of
from numba_fa.dispatch.gradient_plan import GradientPlan, Kernel, Launch, without_addresses
from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.registry import variant_of
from numba_fa.dispatch.select import select
from numba_fa.dispatch.variant import GradientArrays, Variant, Wanted
from numba_fa.errors import ProblemError
from numba_fa.prepared import prepared
from numba_fa.problem.arrays import ArrayView, dense_strides
from numba_fa.problem.biases import Bias, biases_of
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
    request or a derivative of these gradients would be lost (of torch's forward mode too), CompileError for a ScoreMod's
    function that has no derivative or does not compile; all before any launch.
    Method: Dao, FlashAttention-2 (2023), algorithm 2; on Hopper Shah et al., FlashAttention-3 (2024), section 3.
    """
    given = Given(mask, bias, sink_logits)
    arrays = (q, k, v, out, dout, lse) if dlse is None else (q, k, v, out, dout, lse, dlse)
    key: Any = None
    call: _Call | None = None
    inputs: Sequence[int] = ()
    aux: Sequence[int] = ()
    try:
        key, call, inputs, aux = _remembered(arrays, given, scale, wanted, deterministic)
    except Exception:  # a call not made before, or a fault, which is told below
        key = None
    if call is None:
        if torch_around.around(*arrays):
            return _in_a_transform(arrays, given, scale, wanted, deterministic)
        call, inputs, aux = _checked_call(key, arrays, given, scale, wanted, deterministic)
    return call.run(q, inputs, aux)


@dataclass(slots=True)
class _Call:
    """How to do a call that was checked, on arrays that lie as its did.

    makers: of the results, in number `results`, and then of the rooms. places: which of those are dq, dk, dv, dsink and
    the biases' gradients, -1 for none. returned: the same of those that the caller wanted. ending: `_ending` of the
    addresses. check(q, k, v, out, dout, lse[, dlse]): whether arrays lie so, where the library can tell quickly.
    """

    launches: list[Launch]
    makers: tuple[Callable[[Any], Any], ...]
    results: int
    places: tuple[int, ...]
    returned: tuple[int, ...]
    address: Callable[[Any], int]
    stream: Callable[[Any], int]
    finish: Callable[[Any], Any]
    ending: int
    check: Callable[..., bool] | None = None

    def inputs_of(self, *arrays: Any) -> list[int] | None:
        """Addresses as `run` takes them, of arrays that lie so; None of others. q, k, v, out, dout, lse and perhaps dlse."""
        if self.check is None or not self.check(*arrays):
            return None
        inputs = [*map(self.address, arrays)]
        if not all(inputs) or _ending(inputs) != self.ending:
            return None
        return inputs if len(arrays) == len(_INPUTS) else [*inputs, 0]

    def run(self, q: Any, inputs: Sequence[int], aux: Sequence[int]) -> Gradients:
        """Make the results, launch, and return them. Addresses: of q, k, v, out, dout, lse and dlse (0: none), and of the
        arrays of mask, biases and sink_logits."""
        made = [make(q) for make in self.makers]
        at = [*map(self.address, made), 0]
        addresses = (*inputs, *[at[place] for place in self.places], *aux, *at[self.results : -1])
        stream = self.stream(q)
        for launch in self.launches:
            launch(addresses, stream)
        made.append(None)
        dq, dk, dv, dsink, *dbias = [made[place] for place in self.returned]
        if self.finish is not same:
            dq, dk, dv, dsink, *dbias = [x if x is None else self.finish(x) for x in (dq, dk, dv, dsink, *dbias)]
        return Gradients(dq, dk, dv, tuple(dbias), dsink)


def _ending(inputs: Sequence[int]) -> int:
    """How addresses end in bits: those of q, k, v, out, dout, on which a plan's alignment rests; above, lse's and dlse's."""
    return reduce(or_, inputs[:5]) & 15 | (reduce(or_, inputs[5:]) & 15) << 4


_INPUTS = ("q", "k", "v", "out", "dout", "lse", "dlse")
_CALLS = Calls()
RECENT = _CALLS.recent  # by facts of mask and biases, scale, what is wanted, deterministic, how many arrays, backend's mark


def _remembered(
    arrays: tuple[Any, ...], given: Given, scale: Any, wanted: Any, deterministic: bool
) -> tuple[Any, _Call | None, Sequence[int], Sequence[int]]:
    """(what a call is known by, the call made before or None, addresses as of `_Call.run`).

    arrays: q, k, v, out, dout, lse and, if there is one, dlse. Raises anything for what is faulty.
    """
    facts, aux = given.glance()
    names = wanted if isinstance(wanted, str) else tuple(wanted)
    how = facts, scale, names, deterministic, len(arrays), env.backend_mark()
    recent = RECENT.get(how)
    found = None if recent is None else recent.inputs_of(*arrays)
    if found is not None:
        return None, recent, found, aux
    library = LIBRARIES[type(arrays[0])]
    if torch_around.beside(*arrays):
        raise ValueError("new arrays would be a transform's")
    if any(LIBRARIES[type(array)] is not library for array in arrays):
        raise ValueError("arrays of several libraries")
    seen = [library.glance(array) for array in arrays]
    inputs = [at for at, _ in seen]
    if not all(inputs):
        raise ValueError("an array without memory")
    key = (*[fact for _, fact in seen], _ending(inputs), *how)
    call = _CALLS.get(key)
    guard = library.guard
    if call is not None and guard is not None:
        _CALLS.met_again(how, call, lambda: guard(*arrays))
    return key, call, inputs if len(arrays) == 7 else [*inputs, 0], aux


def _in_a_transform(arrays: tuple[Any, ...], given: Given, scale: Any, wanted: Any, deterministic: bool) -> Gradients:
    """What `attention_backward` returns or raises inside of a transform of torch.func; arrays: as of `_remembered`."""
    q, k, v, out, dout, lse, *dlse = arrays
    if torch_around.beside(*arrays, *[array for _, array in given.arrays]):
        return torch_around.outside(lambda: attention_backward(
            dout, q, k, v, out, lse, **given._asdict(), scale=scale, dlse=dlse[0] if dlse else None, wanted=wanted,
            deterministic=deterministic,
        ))  # fmt: skip
    named = _named(arrays)
    common_library(given, **named)
    refuse_gradients(given, **named)
    found = torch_calls.transformed_gradients(attention_backward, arrays, given, scale, wanted, deterministic)
    dbias = tuple(found.get(f"bias{i}") for i, _ in enumerate(biases_of(given.bias) or ()))
    return Gradients(found.get("q"), found.get("k"), found.get("v"), dbias, found.get("sink"))


def _named(arrays: tuple[Any, ...]) -> dict[str, Any]:
    """q, k, v, out, dout, lse and, if there is one, dlse by name; ProblemError where there is no lse."""
    named = dict(zip(_INPUTS, arrays, strict=False))
    if named["lse"] is None:
        raise ProblemError(["lse is None; call attention(..., return_lse=True) and pass what it returns"])
    return named


def _checked_call(
    key: Any, arrays: tuple[Any, ...], given: Given, scale: float | None, wanted: Any, deterministic: bool
) -> tuple[_Call, Sequence[int], Sequence[int]]:
    """Check a call as if it were the first, and remember how it is made; that, and the addresses as of `_Call.run`.

    arrays: as of `_remembered`. Raises all that `attention_backward` does.
    """
    named = _named(arrays)
    library = common_library(given, **named)
    refuse_gradients(given, **named)
    views = _views_of(library, **named)
    saved = Saved(views["dout"], views["out"], views["lse"], views.get("dlse"))
    problem, asked = _checked(views, saved, given, scale, wanted)
    planned = _plan(without_addresses(problem), asked, deterministic, env.backend())
    inputs = [views[name].pointer if name in views else 0 for name in _INPUTS]
    call = _call(library, named["q"], views, saved, problem, planned, _ending(inputs))
    if key is not None:
        _CALLS.keep(key, call)
    return call, inputs, [view.pointer for view in aux_views(problem)]


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
    """Forget plans and calls; kernels stay loaded."""
    _plan.cache_clear()
    _CALLS.clear()


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
    return Kernel(variant, key, device, prepared(problem, variant, key, device))


def _call(
    library: Library, q: Any, views: dict[str, ArrayView], saved: Saved, problem: Problem, planned: GradientPlan, ending: int
) -> _Call:
    """How a call on such arrays, whose addresses end so, is done with a plan."""
    computed = planned.variant.along(planned.wanted)
    shapes = {name: (views[name].shape, views[name].dtype) for name in "qkv" if name in computed}
    shapes |= {"sink": ((problem.heads,), "float32")} if "sink" in computed else {}
    biases = [(f"bias{i}", bias) for i, bias in enumerate(problem.biases)]
    shapes |= {name: (bias.arrays[0][1].shape, "float32") for name, bias in biases if name in computed}
    rooms = [((-(-size // 4),), "float32") for size in planned.rooms.values()]
    at = {name: _dense(shape, dtype, views["q"]) for name, (shape, dtype) in shapes.items()}
    dbias = [bias.gradient_view(at[name], problem) if name in at else None for name, bias in biases]
    arrays = GradientArrays(
        views["q"], views["k"], views["v"], saved.out, saved.dout, saved.lse, saved.dlse,
        at.get("q"), at.get("k"), at.get("v"), at.get("sink"), tuple(dbias), dict.fromkeys(planned.rooms, 0),
    )  # fmt: skip
    names = ("q", "k", "v", "sink", *[name for name, _ in biases])
    number = {name: i for i, name in enumerate(shapes)}
    return _Call(
        planned.ready(problem, arrays), tuple(library.maker(q, *of) for of in (*shapes.values(), *rooms)), len(shapes),
        tuple(number.get(name, -1) for name in names),
        tuple(number[name] if name in planned.wanted else -1 for name in names),
        library.address, library.streams(q), library.finish, ending,
    )  # fmt: skip


def _dense(shape: tuple[int, ...], dtype: str, beside: ArrayView) -> ArrayView:
    """A new array, which has no address yet."""
    return ArrayView(0, shape, dense_strides(shape), dtype, 4 if dtype == "float32" else 2, beside.device)
