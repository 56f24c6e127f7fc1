"""The composition root: from arrays to a Problem, a Variant and its key, an Artifact, a Plan, and its run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numba_fa.kernels  # noqa: F401  (registers the variants)
from numba_fa import env
from numba_fa.adapters.arrays import Library, library_of
from numba_fa.dispatch.device import device_of
from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.plan import Plan
from numba_fa.dispatch.select import Explanation, select
from numba_fa.dispatch.variant import Arrays, Variant
from numba_fa.errors import ProblemError, UnsupportedError
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.biases import Bias, biases_of
from numba_fa.problem.declared import Declaration
from numba_fa.problem.masks import Mask
from numba_fa.problem.problem import Problem


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    mask: Mask | str | None = None,
    bias: Bias | Sequence[Bias] | None = None,
    sink_logits: Any = None,
    scale: float | None = None,
    out: Any = None,
    return_lse: bool = False,
) -> Any:
    """Exact attention: softmax of the biased, masked scores scale * q k^T, times v.

    q: (batch, seqlen_q, heads, head_dim). k, v: (batch, seqlen_k, heads_kv, head_dim), heads a multiple of heads_kv
    (MQA, GQA). float32, float16 or bfloat16 of NumPy, torch, CuPy, JAX or Numba; any strides with a contiguous last
    axis. mask: None or "full", "causal" (query i sees key j when j <= i + seqlen_k - seqlen_q), or a mask object:
    Causal, SlidingWindow, KeyPadding, Document, PrefixLM, MaskMod (a Python function), a BlockMask, or several of them
    combined with & and |. bias: ALiBi, DenseBias, T5Bias, Softcap or ScoreMod (a Python function), or a sequence of
    them, applied in order to the scaled scores. sink_logits: float32 (heads,), a logit a head that joins the
    denominator and the LSE only. scale: of the scores, 1/sqrt(head_dim) by default. out: where to write, like q; it
    shares no memory with what is read, but for q where it is q.

    Returns the output, an array of the caller's kind and of q's shape and dtype, enqueued on the caller's current
    stream; with return_lse also the natural-log-sum-exp of the scores that are seen, float32 (batch, heads, seqlen_q).
    A query that sees no key has output 0 and LSE -inf (with sink_logits: its head's logit).

    Raises ProblemError (a ValueError) listing every fault of the arguments, UnsupportedError (a NotImplementedError)
    when no kernel computes the request or a gradient is to be recorded, CompileError for a MaskMod's or ScoreMod's
    function that does not compile; all before any launch. Method: Dao,
    FlashAttention-2 (2023), algorithm 1; on Hopper Shah et al., FlashAttention-3 (2024).
    """
    library = _common_library(q=q, k=k, v=v, out=out)
    views = _views(library, q, k, v)
    given = None if out is None else _writable(library, out)
    ready = _planned(views, _Program(mask, bias, sink_logits), scale, given)
    if out is None:
        out = library.empty(q, views[0].shape, views[0].dtype)
    batch, seqlen_q, heads, _ = views[0].shape
    lse = library.empty(q, (batch, heads, seqlen_q), "float32") if return_lse else None
    arrays = Arrays(*views, given or library.view(out), None if lse is None else library.view(lse))
    ready.run_arrays(arrays, library.stream(q))
    if given:
        library.wrote(out)
    out = library.finish(out)
    return (out, library.finish(lse)) if return_lse else out


def plan(
    q: Any,
    k: Any,
    v: Any,
    *,
    mask: Mask | str | None = None,
    bias: Bias | Sequence[Bias] | None = None,
    sink_logits: Any = None,
    scale: float | None = None,
    out: Any = None,
) -> Plan:
    """Choose, compile and load for arrays like these; `Plan.run(q, k, v, out, lse=None)` then only launches.

    Arguments and errors as of `attention`. `out` defaults to an array laid out like a new one. The plan keeps the
    arrays of mask, biases and sink_logits; each run reads them where they lie.
    """
    library = _common_library(q=q, k=k, v=v, out=out)
    given = None if out is None else _writable(library, out)
    return _planned(_views(library, q, k, v), _Program(mask, bias, sink_logits), scale, given)


def explain(
    q: Any,
    k: Any,
    v: Any,
    *,
    mask: Mask | str | None = None,
    bias: Bias | Sequence[Bias] | None = None,
    sink_logits: Any = None,
    scale: float | None = None,
    out: Any = None,
) -> Explanation:
    """Which kernel `attention` would run on these arrays, and why not another. Compiles and launches nothing.

    Arguments and errors as of `attention`.
    """
    library = _common_library(q=q, k=k, v=v, out=out)
    given = None if out is None else _writable(library, out)
    problem = _described(_views(library, q, k, v), _Program(mask, bias, sink_logits), scale, given)
    return select(problem, device_of(problem.device))


class _Program(NamedTuple):
    """What the caller gave beside q, k and v."""

    mask: Any
    bias: Any
    sink_logits: Any

    @property
    def arrays(self) -> list[tuple[str, Any]]:
        """(what it is called, array) of every array in it."""
        parts = [part for part in (self.mask, *(biases_of(self.bias) or ())) if isinstance(part, Declaration)]
        found = [array for part in parts for array in part.arrays]
        return found + ([] if self.sink_logits is None else [("sink_logits", self.sink_logits)])

    def viewed(self) -> _Program:
        """The same with ArrayViews; ProblemError naming every array that cannot be viewed."""
        try:
            return _Program(*[_viewed(part) for part in self])
        except ProblemError:
            raise _named(_view, **dict(self.arrays)) from None


def _viewed(part: Any) -> Any:
    if part is None or isinstance(part, str):
        return part
    if isinstance(part, Declaration):
        return part.viewed(_view)
    if isinstance(part, (tuple, list)):
        return tuple(_viewed(one) if isinstance(one, Declaration) else one for one in part)
    return part if biases_of(part) is None and not hasattr(part, "dtype") else _view(part)


def _described(
    views: tuple[ArrayView, ArrayView, ArrayView], program: _Program, scale: float | None, out: ArrayView | None
) -> Problem:
    mask, bias, sink_logits = program.viewed()
    return Problem.from_views(*views, mask=mask, bias=bias, sink_logits=sink_logits, scale=scale, out=out)


def _planned(
    views: tuple[ArrayView, ArrayView, ArrayView], program: _Program, scale: float | None, out: ArrayView | None
) -> Plan:
    problem = _described(views, program, scale, out)
    ready = _plan(problem, env.backend())
    arrays = program.arrays
    return replace(ready, kept=tuple((*array, _view(array[1])) for array in arrays)) if arrays else ready


def _views(library: Library, q: Any, k: Any, v: Any) -> tuple[ArrayView, ArrayView, ArrayView]:
    try:
        return library.view(q), library.view(k), library.view(v)
    except ProblemError:
        raise _named(library.view, q=q, k=k, v=v) from None


def _writable(library: Library, out: Any) -> ArrayView:
    if library.name == "jax":
        raise ProblemError(["out is a JAX array, which is immutable; take the returned array instead"])
    try:
        return library.view(out)
    except ProblemError:
        raise _named(library.view, out=out) from None


def _named(look: Callable[[Any], Any], **arrays: Any) -> ProblemError:
    """The error of all arrays that `look` refuses, by their names."""
    faults = []
    for name, array in arrays.items():
        try:
            look(array)
        except ProblemError as error:
            faults += [f"{name}: {fault}" for fault in error.faults]
    return ProblemError(faults)


@lru_cache(maxsize=1024)
def _plan(problem: Problem, backend: str | None) -> Plan:
    """The plan for a problem. `backend` is in the cache's key only."""
    chosen = select(problem, device_of(problem.device))
    return plan_for(problem, chosen.variant, chosen.key)


def plan_for(problem: Problem, variant: Variant, key: DispatchKey) -> Plan:
    """A plan with this kernel and no other, compiled and loaded."""
    device = device_of(problem.device)
    if device.arch == "cpu":
        launch = _call_on_cpu(variant.factory()(key))
    else:
        from numba_fa.build.launch import make_launch
        from numba_fa.build.loader import load

        grid = variant.grid(problem, key, device)
        signature = variant.signature(key.dtype) + (problem.program_tokens if variant.programmed else ())
        launch = make_launch(load(key, variant, device), signature, grid, device)
    return Plan(problem, variant, key, device, launch, _view, _stream, _wrote)


def _call_on_cpu(kernel: Callable[..., None]) -> Callable[[tuple[Any, ...], int], None]:
    def launch(arguments: tuple[Any, ...], stream: int) -> None:
        kernel(*arguments)

    return launch


def _view(array: Any) -> ArrayView:
    library = library_of(array)
    if library.wants_grad(array):
        raise _no_backward("an array")
    return library.view(array)


def _stream(array: Any) -> int:
    return library_of(array).stream(array)


def _wrote(array: Any) -> None:
    library_of(array).wrote(array)


def _common_library(q: Any, k: Any, v: Any, out: Any) -> Library:
    """The one library that all the arrays come from; UnsupportedError when a gradient is wanted of it."""
    arrays = {"q": q, "k": k, "v": v} | ({} if out is None else {"out": out})
    try:
        libraries = {name: library_of(array) for name, array in arrays.items()}
    except ProblemError:
        raise _named(library_of, **arrays) from None
    library = libraries["q"]
    if any(other is not library for other in libraries.values()):
        listed = ", ".join(f"{name} {other.name}" for name, other in libraries.items())
        raise ProblemError([f"arrays of different libraries: {listed}; one library is wanted"])
    wanting = [name for name, array in arrays.items() if library.wants_grad(array)]
    if wanting:
        raise _no_backward(" and ".join(wanting))
    return library


def _no_backward(what: str) -> UnsupportedError:
    return UnsupportedError(
        f"{what} requires grad, and attention has no backward yet; call under torch.no_grad() or detach() the inputs"
    )
