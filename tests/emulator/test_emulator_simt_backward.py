"""The portable backward's own source, and that of parameters' gradients, emulated, against float64 gradients."""

import numpy as np
import pytest

import numba_fa
from numba_fa.kernels.common import gradient_variant
from numba_fa.kernels.simt.backward_variant import BACKWARD
from numba_fa.testing.inputs import LAYOUTS
from numba_fa.testing.programs import PROGRAMS, Asked, Sizes, lengths, random
from tests.emulator.backward_calls import check, make_call, run


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Of the biases' kernels, so that small problems have several."""
    monkeypatch.setitem(gradient_variant._TILES, 64, (16, 16))


def bits(results):
    return [x.tobytes() for x in (*results[:3], *results.dbias, results.dsink) if x is not None]


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program(program):
    # Two heads where they differ.
    heads = 1 if any(word in program for word in ("full", "window", "padding", "document", "prefix", "causal")) else 2
    call = make_call(BACKWARD, PROGRAMS[program], Sizes(2, 10, 18, heads), seed=len(program))
    check(call, run(call))


CASES = {
    "ragged": dict(sizes=Sizes(1, 20, 37, 1), dtype="float32"),
    "wide": dict(sizes=Sizes(1, 5, 20, 1), dtype="float16", head_dim=88),
    "tall tiles": dict(sizes=Sizes(1, 33, 20, 1), dtype="bfloat16", head_dim=16, tile=(32, 16)),
    "broad tiles": dict(sizes=Sizes(1, 20, 33, 1), dtype="bfloat16", head_dim=24, tile=(16, 32)),
    "unseen queries": dict(sizes=Sizes(1, 36, 17, 1), dtype="float16"),
    "one": dict(sizes=Sizes(1, 1, 1, 1), dtype="bfloat16"),
    "groups": dict(sizes=Sizes(1, 9, 18, 4), heads_kv=2, dtype="float32", head_dim=16),
    "narrow values": dict(sizes=Sizes(1, 20, 18, 2), dtype="float32", head_dim=24, head_dim_v=8),
    "wide values": dict(sizes=Sizes(1, 20, 18, 1), dtype="bfloat16", head_dim=8, head_dim_v=40),
    "no keys": dict(sizes=Sizes(1, 3, 0, 1), dtype="float32"),
}


@pytest.mark.parametrize("name", CASES)
def test_causal(name):
    call = make_call(BACKWARD, PROGRAMS["causal"], **CASES[name], dlse=name != "one")
    check(call, run(call, seed=len(name)))


def offset(values):
    """A view that no vector load could read: rows of an odd length, of an odd address."""
    storage = np.full((*values.shape[:3], values.shape[3] + 3), np.nan, values.dtype)
    view = storage[..., 1:-2]
    view[...] = values
    return view


@pytest.mark.parametrize("layout", [*LAYOUTS.values(), offset], ids=lambda layout: layout.__name__)
def test_any_layout(layout):
    call = make_call(BACKWARD, PROGRAMS["alibi"], Sizes(2, 5, 9, 2), dtype="bfloat16", layout=layout)
    check(call, run(call))


def test_only_what_is_wanted_is_made():
    call = make_call(BACKWARD, PROGRAMS["everything"], Sizes(1, 9, 10, 2))
    whole = run(call)
    for wanted in ({"q"}, {"k"}, {"v", "sink"}, {"bias1"}):
        part = run(call, wanted)
        for name in ("dq", "dk", "dv", "dsink"):
            assert (getattr(part, name) is None) == (name[1:] not in wanted)
        for one, other in ((part.dq, whole.dq), (part.dk, whole.dk), (part.dv, whole.dv), (part.dbias[1], whole.dbias[1])):
            assert one is None or np.array_equal(one, other)


def test_order_of_threads_changes_nothing():
    call = make_call(BACKWARD, PROGRAMS["everything"], Sizes(1, 18, 10, 1))
    assert bits(run(call)) == bits(run(call, seed=1))


def test_what_is_hidden_may_be_anything():
    """Keys past the lengths, here the second half and then all: they and their values NaN, and infinite."""
    def make(sizes):
        return Asked(numba_fa.KeyPadding(lengths(sizes) // 2), (numba_fa.Softcap(2.0), numba_fa.DenseBias(random(30))))

    call = make_call(BACKWARD, make, Sizes(2, 9, 30, 2))
    clean = run(call)
    check(call, clean)
    for array, fill in ((call.arrays["k"], np.inf), (call.arrays["v"], np.nan)):
        array[0, 15:], array[1] = fill, fill
    assert bits(run(call)) == bits(clean)
    assert not clean.dq[1].any() and not clean.dk[0, 15:].any() and not clean.dv[1].any()


@pytest.mark.parametrize("shape", [(1, 2, 18, 20), (2, 1, 1, 20), (2, 2, 18, 1), (2, 1, 1), (1,), (18, 20), ()])
def test_a_dense_bias_is_summed_where_it_is_broadcast(shape):
    make = lambda sizes: Asked("causal", (numba_fa.DenseBias(random(*shape)),))  # noqa: E731
    call = make_call(BACKWARD, make, Sizes(2, 18, 20, 2))
    check(call, run(call, {"bias0"}))
