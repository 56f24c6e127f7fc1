"""Gradients by the CPU kernels for declared masks and biases, and what they must be, by the reference."""

from contextlib import contextmanager
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.lib.stride_tricks import as_strided

import reference
from numba_fa.adapters.arrays import library_of
from numba_fa.dispatch.key import DispatchKey
from numba_fa.kernels.cpu.backward import backward_of
from numba_fa.kernels.cpu.forward import forward_of
from numba_fa.kernels.cpu.variant import numpy_arguments
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.masks import mask_named
from numba_fa.problem.problem import CallSizes
from numba_fa.testing.inputs import DTYPES, random_qkv
from numba_fa.testing.programs import Sizes
from numba_fa.testing.tolerance import assert_within
from tests.declared import truth_of

SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
SCALE = 0.3
TILE = (32, 16)


class Results(NamedTuple):
    """Of a backward; None what is not wanted. dbias: an entry a bias."""

    dq: Any
    dk: Any
    dv: Any
    dsink: Any
    dbias: tuple


class Case(NamedTuple):
    """Inputs of a backward, float arrays of one dtype; asked: mask, biases and sink_logits, as of `PROGRAMS`."""

    asked: Any
    q: Any
    k: Any
    v: Any
    dout: Any
    dlse: Any

    @property
    def sizes(self):
        batch, seqlen_q, heads, _ = self.q.shape
        return Sizes(batch, seqlen_q, self.k.shape[1], heads)

    @property
    def truth(self):
        """The reference's Gradients in float64."""
        return reference.attention_backward(*self[1:5], **truth_of(self.asked, self.sizes), dlse=self.dlse, scale=SCALE)

    @property
    def naive(self):
        """And in the case's dtype, naively."""
        return reference.attention_backward_rounded(
            *self[1:5], **truth_of(self.asked, self.sizes), dlse=self.dlse, scale=SCALE, dtype=self.q.dtype.name
        )


def make_case(make, lengths, heads=(4, 2), head_dim=24, dtype="float32", dlse=True, layout="bshd"):
    """A Case of standard normal values, of a program made for lengths (batch, seqlen_q, seqlen_k)."""
    batch, seqlen_q, seqlen_k = lengths
    q, k, v = random_qkv(*lengths, *heads, head_dim, dtype, layout=layout)
    rng = np.random.default_rng(9)
    dout = rng.standard_normal(q.shape).astype(DTYPES[dtype])
    dlse = rng.standard_normal((batch, heads[0], seqlen_q)).astype(np.float32) if dlse else None
    return Case(make(Sizes(batch, seqlen_q, seqlen_k, heads[0])), q, k, v, dout, dlse)


def arguments_of(asked, sizes):
    """The launch arguments of a program."""
    call = CallSizes(sizes.batch, sizes.seqlen_q, sizes.seqlen_k, sizes.heads, "cpu")
    view = library_of(np.empty(0)).view
    parts = [part.viewed(view).arguments(call) for part in (mask_named(asked.mask), *asked.biases)]
    sink = () if asked.sink_logits is None else (view(asked.sink_logits),)
    return numpy_arguments(sum(parts, ()) + sink)


def parameter_of(bias):
    """The array of a bias that gradients are wanted of, or None."""
    return next((getattr(bias, name) for name in ("slopes", "array", "table") if hasattr(bias, name)), None)


def spread(gradient, argument):
    """A gradient of a parameter's own shape as that of its launch argument, with strides 0 where it is broadcast."""
    missing = argument.ndim - gradient.ndim
    strides = [0 if length == 1 else stride for length, stride in zip(gradient.shape, gradient.strides)]
    return as_strided(gradient, argument.shape, [0] * missing + strides)


def key_of(asked, dtype, head_dim, op="bwd", tile=TILE):
    """The key of a program."""
    mask, bias = asked.names
    return DispatchKey(op, "cpu", SHORT[dtype.name], head_dim, mask, *tile, 1, bias)


def carrier(x):
    """What a kernel takes: bfloat16 as bit patterns."""
    return x.view(np.uint16) if x is not None and x.dtype.name == "bfloat16" else x


def exact_forward(case):
    """(out, lse) of a case, by the reference, rounded."""
    out, lse = reference.attention(case.q, case.k, case.v, **truth_of(case.asked, case.sizes), scale=SCALE)
    return out.astype(case.q.dtype), lse.astype(np.float32)


def forward(case, tile=TILE):
    """(out, lse) of a case, by the kernel."""
    out, lse = np.empty(case.q.shape, case.q.dtype), np.empty((case.q.shape[0], *case.q.shape[2:0:-1]), np.float32)
    key = key_of(case.asked, case.q.dtype, case.q.shape[3], "fwd", tile)
    forward_of(key)(*map(carrier, (case.q, case.k, case.v, out)), lse, SCALE, arguments_of(case.asked, case.sizes))
    return out, lse


def backward(case, wanted="qkvbs", tile=TILE, passed=None):
    """Results of a case by the kernel; what is written starts as NaN. passed: (out, lse), by default exact."""
    out, lse = passed or exact_forward(case)
    aux = arguments_of(case.asked, case.sizes)
    asked, sizes = case.asked, case.sizes
    d = [np.full(x.shape, np.nan, x.dtype) if name in wanted else None for name, x in zip("qkv", case[1:4])]
    dsink = np.full(sizes.heads, np.nan, np.float32) if asked.sink_logits is not None and "s" in wanted else None
    dbias, places = [], []
    for bias in asked.biases:
        parameter = parameter_of(bias) if "b" in wanted else None
        dbias.append(None if parameter is None else np.zeros(parameter.shape, np.float32))
        shape = None if parameter is None else argument_of(bias, sizes)
        places.append(None if parameter is None else spread(dbias[-1], shape))
    run = backward_of(key_of(asked, case.q.dtype, case.q.shape[3], tile=tile))
    arrays = map(carrier, (case.q, case.k, case.v, out, case.dout))
    run(*arrays, lse, case.dlse, *map(carrier, d), dsink, places, SCALE, aux)
    return Results(*d, dsink, tuple(dbias))


def argument_of(bias, sizes):
    """The array among a bias's launch arguments."""
    call = CallSizes(sizes.batch, sizes.seqlen_q, sizes.seqlen_k, sizes.heads, "cpu")
    views = bias.viewed(library_of(np.empty(0)).view).arguments(call)
    return next(x for x in numpy_arguments(tuple(x for x in views if isinstance(x, ArrayView))))


def check(case, results, truth=None, naive=None):
    """AssertionError unless every gradient's error is at most twice the naive one's."""
    truth, naive = truth or case.truth, naive or case.naive
    for name in ("dq", "dk", "dv", "dsink"):
        actual = getattr(results, name)
        if actual is not None:
            # dsink is a sum of what `out` was rounded to, which few numbers may by luck hardly feel in the naive result.
            assert_within(actual, getattr(truth, name), getattr(naive, name), case.q.dtype, name)
    for n, (actual, exact, rough) in enumerate(zip(results.dbias, truth.dbias, naive.dbias)):
        if actual is not None:
            ((name, exact),) = exact.items()
            assert_within(actual, exact, rough[name], np.float32, f"dbias {n}")


@contextmanager
def threads(count):
    """Numba's threads."""
    before = numba.get_num_threads()
    numba.set_num_threads(count)
    try:
        yield
    finally:
        numba.set_num_threads(before)
