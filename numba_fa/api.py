"""The composition root: from arrays to a Problem, a Variant and its key, an Artifact, a Plan, and its run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock
from typing import Any

import numba_fa.kernels  # noqa: F401  (registers the variants)
from numba_fa import env
from numba_fa.adapters import torch_again, torch_around, torch_calls
from numba_fa.adapters.arrays import LIBRARIES
from numba_fa.adapters.calls import Calls
from numba_fa.adapters.given import (
    Given,
    Views,
    checked_view,
    common_library,
    glance_at,
    refuse_gradients,
    views_of,
    writable,
)  # fmt: skip
from numba_fa.adapters.library import Library, same
from numba_fa.adapters.torch_ops import Operators, operators
from numba_fa.backward import RECENT as RECENT_BACKWARD
from numba_fa.backward import attention_backward
from numba_fa.dispatch.addresses import aux_views
from numba_fa.dispatch.device import device_of
from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.plan import Access, Plan, Ready
from numba_fa.dispatch.select import Explanation, select
from numba_fa.dispatch.variant import Arrays, Variant
from numba_fa.errors import ProblemError
from numba_fa.prepared import prepared
from numba_fa.problem.arrays import ArrayView, dense_strides
from numba_fa.problem.biases import Bias
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

    q: (batch, seqlen_q, heads, head_dim). k: (batch, seqlen_k, heads_kv, head_dim), heads a multiple of heads_kv (MQA,
    GQA). v: like k, or with a head_dim of its own (multi-head latent attention: 192 beside 128). float32, float16 or
    bfloat16 of NumPy, torch, CuPy, JAX or Numba; any strides with a contiguous last axis. mask: None or "full", "causal"
    (query i sees key j when j <= i + seqlen_k - seqlen_q), or a mask object: Causal, SlidingWindow, KeyPadding, Document,
    PrefixLM, MaskMod (a Python function), a BlockMask, or several of them combined with & and |. bias: ALiBi, DenseBias,
    T5Bias, Softcap or ScoreMod (a Python function), or a sequence of them, applied in order to the scaled scores.
    sink_logits: float32 (heads,), a logit a head that joins the denominator and the LSE only. scale: of the scores,
    1/sqrt(head_dim) by default. out: where to write, like q with v's head_dim; it shares no memory with what is read, but
    for q where it is q.

    Returns the output, an array of the caller's kind, of q's dtype and of q's shape with v's head_dim, enqueued on the
    caller's current stream; with return_lse also the natural-log-sum-exp of the scores that are seen, float32 (batch,
    heads, seqlen_q). A query that sees no key has output 0 and LSE -inf (with sink_logits: its head's logit).

    On torch's tensors that require grad, gradients of q, k, v, DenseBias's array, ALiBi's slopes, T5Bias's table and
    sink_logits are recorded, through the output and the LSE; out is not given then. Autocast casts q, k and v as it does
    for torch's own attention; torch.compile takes the call into its graph. Of other libraries: `attention_backward`.

    Raises ProblemError (a ValueError) with every fault, UnsupportedError (a NotImplementedError) when no kernel computes
    the request or a derivative would be lost (of torch's forward mode there is none), CompileError for a MaskMod's or
    ScoreMod's function that does not compile; all before any launch. Method: Dao, FlashAttention-2 (2023), algorithm 1;
    on Hopper Shah et al. 2024, FlashAttention-3.
    """
    given: Any = mask
    aux: Any = ()
    how = key = call = again = None
    try:
        scale = None if scale is None else float(scale + 0.0)  # which a text does not let pass
        if bias is not None or sink_logits is not None or (mask is not None and type(mask) is not str):
            given, aux = Given(mask, bias, sink_logits).glance()
        how = given, scale, return_lse, out is None, env.backend_mark()
        recent = _RECENT.get(how)
        if recent is not None and (recent.check(q, k, v) if out is None else recent.check(q, k, v, out)):
            address = recent.address
            q_at, k_at, v_at, out_at = address(q), address(k), address(v), 0 if out is None else address(out)
            lies_so = (q_at | k_at | v_at | out_at) & 15 == recent.ending and q_at and k_at and v_at
            if lies_so and (out is None or (out_at and recent.out_is_apart((q_at, k_at, v_at, out_at, 0, *aux)))):
                call = recent
        if call is None:
            again = None if out is not None else _RECORDED.find(how, q, k, v, (mask, bias, sink_logits))
            if again is None:
                key, call, q_at, k_at, v_at, out_at = _remembered(how, q, k, v, out, aux)
    except Exception:  # a call not made before, or a fault, which is told below
        call = again = None
    if again is not None:
        recorded, arrays = again
        return recorded.run(q, k, v, arrays, return_lse)
    if call is None:
        return _anew(how, key, q, k, v, Given(mask, bias, sink_logits), scale, out, return_lse)
    return call.run(q, out, return_lse, q_at, k_at, v_at, out_at, aux)


def deterministic_attention(
    q: Any, k: Any, v: Any, *, mask: Any = None, bias: Any = None, sink_logits: Any = None, scale: float | None = None,
    return_lse: bool = False,
) -> Any:  # fmt: skip
    """`attention`, whose gradients are bit-equal from run to run, as `attention_backward(..., deterministic=True)`'s."""
    if _is_seen(q, k, v, given := Given(mask, bias, sink_logits)):
        return torch_calls.recorded(_operators(), q, k, v, given, scale, None, return_lse, True)
    return attention(q, k, v, mask=mask, bias=bias, sink_logits=sink_logits, scale=scale, return_lse=return_lse)


def _is_seen(q: Any, k: Any, v: Any, given: Given) -> bool:
    """Whether the arrays' library must see the call, to record, transform, trace or cast it."""
    try:
        library = LIBRARIES[type(q)]
        ours = [array for _, array in given.arrays if LIBRARIES[type(array)] is library]
        return LIBRARIES[type(k)] is library is LIBRARIES[type(v)] and library.seen(q, k, v, *ours)
    except ProblemError:  # told with all other faults
        return False


def _operators() -> Operators:
    with _LOCK:
        return operators(attention, attention_backward)


def _operators_are_there() -> bool:
    return bool(_operators())


def _attention_traced(
    q: Any, k: Any, v: Any, *, mask: Any = None, bias: Any = None, sink_logits: Any = None, scale: Any = None,
    out: Any = None, return_lse: bool = False,
) -> Any:  # fmt: skip
    _operators_are_there()
    return torch_calls.traced(q, k, v, mask, bias, sink_logits, scale, out, return_lse, False)


def _deterministic_attention_traced(
    q: Any, k: Any, v: Any, *, mask: Any = None, bias: Any = None, sink_logits: Any = None, scale: Any = None,
    return_lse: bool = False,
) -> Any:  # fmt: skip
    _operators_are_there()
    return torch_calls.traced(q, k, v, mask, bias, sink_logits, scale, None, return_lse, True)


# What torch.compile calls when it reads a program, and what it reads in place of the others; nobody else is slowed down.
_operators_are_there._dynamo_marked_constant = True  # type: ignore[attr-defined]
attention._torchdynamo_inline = _attention_traced  # type: ignore[attr-defined]
deterministic_attention._torchdynamo_inline = _deterministic_attention_traced  # type: ignore[attr-defined]


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
    given = Given(mask, bias, sink_logits)
    problem = _examined(q, k, v, given, scale, out)[3]
    refuse_gradients(given, q=q, k=k, v=v, out=out)
    ready = _plan(problem, env.backend())
    kept = tuple((label, array, glance_at(array)) for label, array in given.arrays)
    return replace(ready, kept=kept) if kept else ready


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
    backward: bool = False,
) -> Explanation:
    """Which kernel `attention` would run on these arrays, and why not another. Compiles and launches nothing.

    backward: which one `attention_backward` would. Other arguments and errors as of `attention`.
    """
    problem = _examined(q, k, v, Given(mask, bias, sink_logits), scale, out)[3]
    return select(problem, device_of(problem.device), "bwd" if backward else "fwd")


@dataclass(slots=True)
class _Call:
    """How to do a call that was checked, on arrays that lie as its did: `Ready`, and what the library does for it.

    ending: of the addresses of q, k, v and out, in bits. check(q, k, v[, out]): whether arrays lie so, where the library
    can tell quickly.
    """

    ready: Ready
    launch: Callable[[tuple[int, ...], int], None]
    out_is_apart: Callable[[tuple[int, ...]], bool]
    new_out: Callable[[Any], Any]
    new_lse: Callable[[Any], Any]
    address: Callable[[Any], int]
    stream: Callable[[Any], int]
    wrote: Callable[[Any], None]
    finish: Callable[[Any], Any] | None
    ending: int
    check: Callable[..., bool] | None = None

    def run(
        self, q: Any, out: Any, return_lse: bool, q_at: int, k_at: int, v_at: int, out_at: int, aux: Any
    ) -> Any:
        """Make what the caller did not give, launch, and return what `attention` returns.

        Addresses: of q, k, v and out (0 where there is none), and of the arrays of mask, biases and sink_logits.
        """
        result, lse, lse_at = out, None, 0
        if out is None:
            result = self.new_out(q)
            out_at = self.address(result)
        if return_lse:
            lse = self.new_lse(q)
            lse_at = self.address(lse)
        self.launch((q_at, k_at, v_at, out_at, lse_at, *aux), self.stream(q))
        if out is not None:
            self.wrote(out)
        if self.finish is not None:
            result, lse = self.finish(result), lse if lse is None else self.finish(lse)
        return (result, lse) if return_lse else result


# Floating-point operations from which a launch does not go as a graph. An H200 takes some 15 us for so many, in which a host
# enqueues three launches of either kind, and between other kernels a graph costs the GPU up to 0.8 us (docs/findings/0023).
_LONG = 10**10
_LOCK = Lock()  # torch's operators are registered once
_CALLS = Calls()
_RECENT = _CALLS.recent
_RECORDED = torch_again.RecordedCalls(_RECENT, RECENT_BACKWARD)


def forget() -> None:
    """Forget plans and calls; kernels stay loaded."""
    _plan.cache_clear()
    _CALLS.clear()
    _RECORDED.clear()


def _remembered(how: Any, q: Any, k: Any, v: Any, out: Any, aux: Any) -> tuple[Any, _Call | None, int, int, int, int]:
    """(key, the call made before or None, addresses of q, k, v and out); raises anything for what is faulty."""
    library = LIBRARIES[type(q)]
    q_at, k_at, v_at, out_at, _, facts = library.glances(q, k, v, out, None)
    key = facts, (q_at | k_at | v_at | out_at) & 15, how
    call = _CALLS.get(key)
    if call is not None and out is not None and not call.out_is_apart((q_at, k_at, v_at, out_at, 0, *aux)):
        call = None
    guard = library.guard
    if call is not None and guard is not None:
        _CALLS.met_again(how, call, lambda: guard(q, k, v, *(() if out is None else (out,)), alone=True))
    return key, call, q_at, k_at, v_at, out_at


def _anew(
    how: Any, key: Any, q: Any, k: Any, v: Any, given: Given, scale: float | None, out: Any, return_lse: bool
) -> Any:
    """A call not made before, or a faulty one: what `attention` returns, or raises. how, key: of `_RECENT` and `_CALLS`."""
    if not _is_seen(q, k, v, given):
        if torch_around.beside(q, k, v, out):
            return torch_around.outside(
                lambda: attention(q, k, v, **given._asdict(), scale=scale, out=out, return_lse=return_lse), out
            )
        call, (q_at, k_at, v_at, out_at, _, *aux) = _checked_call(key, q, k, v, given, scale, out, return_lse)
        return call.run(q, out, return_lse, q_at, k_at, v_at, out_at, aux)
    made = torch_calls.recorded(_operators(), q, k, v, given, scale, out, return_lse, False)
    if how is not None:
        _RECORDED.note(how, given, scale, _operators().recorded, (q, k, v))
    return made


def _checked_call(
    key: Any, q: Any, k: Any, v: Any, given: Given, scale: float | None, out: Any, return_lse: bool
) -> tuple[_Call, tuple[int, ...]]:
    """Check a call as if it were the first, and remember how it is made; that, and the addresses of its arrays.

    Raises all that `attention` does.
    """
    library, views, out_view, problem = _examined(q, k, v, given, scale, out)
    refuse_gradients(given, q=q, k=k, v=v, out=out)
    call = None if key is None else _CALLS.get(key)
    if call is None:
        ready = _ready(problem, q, views, out_view, return_lse)
        call = _Call(
            ready, ready.launch, ready.out_is_apart, library.maker(q, problem.out_shape, views[0].dtype),
            library.maker(q, _lse_shape(problem), "float32"), library.address, ready.stream, library.wrote,
            None if library.finish is same else library.finish, 0 if key is None else key[1],
        )  # fmt: skip
        if key is not None:
            _CALLS.keep(key, call)
    aux = [view.pointer for view in aux_views(problem)]
    addresses = (*[view.pointer for view in views], out_view.pointer if out_view else 0, 0, *aux)
    if out_view is not None:
        call.ready.note_apart(addresses)
    return call, addresses


def _ready(problem: Problem, q: Any, views: Views, out: ArrayView | None, return_lse: bool) -> Ready:
    """A plan's launch for arrays that lie so; results that are to be made will be dense."""
    lse_shape = _lse_shape(problem)
    lse = ArrayView(0, lse_shape, dense_strides(lse_shape), "float32", 4, problem.device) if return_lse else None
    made = replace(views[0], shape=problem.out_shape, strides=dense_strides(problem.out_shape), writable=True)
    return _plan(problem, env.backend()).ready(Arrays(*views, out or made, lse), q)


def _lse_shape(problem: Problem) -> tuple[int, int, int]:
    return problem.batch, problem.heads, problem.seqlen_q


def _examined(
    q: Any, k: Any, v: Any, given: Given, scale: float | None, out: Any
) -> tuple[Library, Views, ArrayView | None, Problem]:
    """The arrays' library and views, and the problem; ProblemError with every fault."""
    library = common_library(given, q=q, k=k, v=v, out=out)
    views, out_view = views_of(library, q, k, v), writable(library, out)
    mask, bias, sink_logits = given.viewed()
    problem = Problem.from_views(*views, mask=mask, bias=bias, sink_logits=sink_logits, scale=scale, out=out_view)
    return library, views, out_view, problem


@lru_cache(maxsize=1024)
def _plan(problem: Problem, backend: str | None) -> Plan:
    """The plan for a problem. `backend` is in the cache's key only."""
    chosen = select(problem, device_of(problem.device))
    return plan_for(problem, chosen.variant, chosen.key)


def plan_for(problem: Problem, variant: Variant, key: DispatchKey) -> Plan:
    """A plan with this kernel and no other, compiled and loaded."""
    device, access = device_of(problem.device), Access(checked_view, LIBRARIES)
    if device.arch == "cpu":
        kernel = variant.factory()(key)
        return Plan(problem, variant, key, device, access, launch=lambda arguments, stream: kernel(*arguments))
    prepare = prepared(problem, variant, key, device, by_graph=problem.operations < _LONG)
    return Plan(problem, variant, key, device, access, prepare=prepare)
