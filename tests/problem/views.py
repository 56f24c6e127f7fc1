"""ArrayViews of arrays that do not exist: what problems and dispatch are asked about, with no memory behind it."""

from dataclasses import replace

from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.problem import Problem

ITEMSIZES = {"int32": 4, "float32": 4, "float16": 2, "bfloat16": 2, "float64": 8, "int64": 8, "float8_e4m3fn": 1}
ADDRESS = 1 << 40


def dense(shape):
    """Strides, in elements, of a C-contiguous array, as torch counts them: an empty axis as one of length 1."""
    strides = [1]
    for length in shape[:0:-1]:
        strides.insert(0, strides[0] * max(length, 1))
    return tuple(strides)


def view(shape, dtype="float32", device="cpu", **changes):
    """A C-contiguous view at an address that 2**20 divides, with some fields changed."""
    plain = ArrayView(ADDRESS, tuple(shape), dense(shape), dtype, ITEMSIZES[dtype], device)
    return replace(plain, **changes)


def request(
    batch=2, seqlen_q=5, seqlen_k=7, heads=6, heads_kv=3, head_dim=64, dtype="float32", device="cpu", with_out=True
):
    """Keyword arguments of Problem.from_views for a faultless call; each view has an address of its own."""
    q = view((batch, seqlen_q, heads, head_dim), dtype, device)
    k = view((batch, seqlen_k, heads_kv, head_dim), dtype, device, pointer=2 * ADDRESS)
    asked = {"q": q, "k": k, "v": replace(k, pointer=3 * ADDRESS)}
    return asked | ({"out": replace(q, pointer=4 * ADDRESS)} if with_out else {})


def problem(mask=None, scale=None, bias=None, sink_logits=None, **sizes):
    """The Problem of a faultless call."""
    return Problem.from_views(**request(**sizes), mask=mask, bias=bias, sink_logits=sink_logits, scale=scale)
