"""What the driver is given for a backward, on a pretended GPU, read as it reads it: every kernel's parameters in order."""

import ctypes
from dataclasses import replace

import pytest

import numba_fa
from numba_fa import backward
from numba_fa.build.launch import _packing
from numba_fa.dispatch.addresses import with_aux
from numba_fa.dispatch.registry import variants
from numba_fa.dispatch.variant import GradientArrays
from numba_fa.problem.arrays import ArrayView
from numba_fa.testing.pretended_gpu import grid_of, places_of, pretended_gpu

torch = pytest.importorskip("torch")
C_TYPES = {"int32": ctypes.c_int32, "float32": ctypes.c_float}
FAMILIES = sorted({variant.family for variant in variants("bwd")} - {"cpu"})


@pytest.fixture
def launches():
    with pretended_gpu() as launches:
        yield launches


@pytest.fixture
def runs(monkeypatch):
    """(plan, problem, arrays) of every call, the arrays where that call had them; the first of a kind is planned."""
    found, planned, ready, run = [], {}, backward.GradientPlan.ready, backward._Call.run

    def noted(self, problem, arrays):
        launches = ready(self, problem, arrays)
        planned[id(launches)] = (self, problem, arrays, launches)
        return launches

    def run_and_noted(self, q, inputs, aux):
        made = []
        makers = [lambda like, make=make: made.append(make(like)) or made[-1] for make in self.makers]
        result = run(replace(self, makers=makers), q, inputs, aux)
        plan, problem, arrays, _ = planned[id(self.launches)]
        at = [x.data_ptr() for x in made] + [0]
        found.append((plan, *moved(problem, arrays, inputs, [at[i] for i in self.places], aux, at[self.results : -1])))
        return result

    monkeypatch.setattr(backward.GradientPlan, "ready", noted)
    monkeypatch.setattr(backward._Call, "run", run_and_noted)
    return found


def moved(problem, arrays, inputs, results, aux, rooms):
    """The problem and the arrays at other addresses."""
    names = ("q", "k", "v", "out", "dout", "lse", "dlse", "dq", "dk", "dv", "dsink")

    def at(view, pointer):
        assert (view is None) == (pointer == 0)
        return view and replace(view, pointer=pointer)

    found = {name: at(getattr(arrays, name), pointer) for name, pointer in zip(names, [*inputs, *results[:4]], strict=True)}
    found |= {"dbias": tuple(map(at, arrays.dbias, results[4:])), "rooms": dict(zip(arrays.rooms, rooms, strict=True))}
    return with_aux(problem, iter(aux)), GradientArrays(**found)


def inputs(seqlen=64):
    q, dout, out = (torch.zeros(1, seqlen, 4, 64, dtype=torch.bfloat16) for _ in range(3))
    k, v = (torch.zeros(1, seqlen, 2, 64, dtype=torch.bfloat16) for _ in range(2))
    return dout, q, k, v, out, torch.zeros(1, 4, seqlen)


def parameters(signature, launch):
    """A kernel's parameters, an array as (elements, address, ...), a tensor map as the address it begins with."""
    kinds = [token for token in signature for _ in _packing(token)]
    places = places_of(launch, len(kinds))
    return [C_TYPES.get(kind, ctypes.c_int64).from_address(place).value for kind, place in zip(kinds, places)]


def expected(arguments):
    """The same of the values that a variant gives."""
    for value in arguments:
        if isinstance(value, ArrayView):
            strides = [stride * value.itemsize for stride in value.strides]
            elements = 1
            for length in value.shape:
                elements *= length
            yield from (0, 0, elements, value.itemsize, value.pointer, *value.shape, *strides)
        else:
            yield value.view.pointer if hasattr(value, "view") else value


def check(launches, plan, problem, arrays):
    for kernel, launch in zip(plan.kernels, list(launches)[-len(plan.kernels) :], strict=True):
        signature = kernel.variant.signature(kernel.key.dtype)
        signature += problem.program_tokens if kernel.variant.programmed else ()
        found, wanted = parameters(signature, launch), list(expected(kernel.arguments(problem, arrays)))
        assert found == pytest.approx(wanted, rel=1e-6), kernel.key.slug
        assert grid_of(launch) == kernel.variant.grid(problem, kernel.key, backward.device_of("cuda:0"))


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_get_their_arguments(launches, runs, monkeypatch, family, deterministic):
    monkeypatch.setenv("NUMBA_FA_BACKEND", family)
    for _ in range(3):  # the second finds how the arrays lie, the third too
        found = numba_fa.attention_backward(*inputs(), mask="causal", deterministic=deterministic)
        plan, problem, arrays = runs[-1]
        assert plan.variant.family == family and plan.variant.deterministic >= deterministic
        assert [arrays.dq.pointer, arrays.dk.pointer, arrays.dv.pointer] == [x.data_ptr() for x in found[:3]]
        check(launches, plan, problem, arrays)
    assert runs[0][0] is runs[2][0] and len(runs[0][0]._ready) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_arrays_of_masks_and_biases_may_move(launches, runs, monkeypatch, family):
    monkeypatch.setenv("NUMBA_FA_BACKEND", family)
    for n in (60, 50):
        mask = numba_fa.KeyPadding(torch.tensor([n], dtype=torch.int32)) & numba_fa.Causal()
        bias, dlse = [numba_fa.Softcap(9.0), numba_fa.ALiBi(torch.ones(4))], torch.zeros(1, 4, 64)
        numba_fa.attention_backward(*inputs(), mask=mask, bias=bias, dlse=dlse)
        check(launches, *runs[-1])
    assert runs[0][0] is runs[1][0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("wanted", [("q",), ("k", "v"), ("bias",), ("sink",), ("q", "k", "v", "bias", "sink")], ids="+".join)
def test_kernels_of_what_is_not_wanted_stay_away(launches, runs, monkeypatch, family, wanted):
    monkeypatch.setenv("NUMBA_FA_BACKEND", family)
    bias = [numba_fa.DenseBias(torch.zeros(4, 1, 64)), numba_fa.Softcap(9.0), numba_fa.ALiBi(torch.ones(4))]
    found = numba_fa.attention_backward(*inputs(), bias=bias, sink_logits=torch.zeros(4), wanted=wanted)
    check(launches, *runs[-1])
    ops = [kernel.key.op for kernel in runs[-1][0].kernels]
    assert any(op.startswith("bwd_dense") for op in ops) == ("bias" in wanted)
    assert ("bwd_sink" in ops) == ("sink" in wanted)
    assert ("bwd" in ops) == bool(set(wanted) & {"k", "v"} or (family == "sm90" and "q" in wanted))
    assert [x is not None for x in (found.dq, found.dk, found.dv)] == [name in wanted for name in "qkv"]
    assert [x is not None for x in found.dbias] == ["bias" in wanted, False, "bias" in wanted]


def test_nothing_but_results_and_rooms_is_allocated(launches, runs):
    """Beside the gradients: dq in float32, two numbers a query (docs/adr/0011)."""
    numba_fa.attention_backward(*inputs(128), mask="causal")
    plan, *_ = runs[-1]
    assert plan.rooms == {"rows": 4 * 128 * 2 * 4, "sums": 4 * 128 * 64 * 4}


def test_an_odd_lse_is_not_an_odd_q(launches, runs):
    """TMA wants q, k, v, out and dout at multiples of 16 bytes, the LSE anywhere: calls are told apart by which is odd."""
    def at(x, odd):
        room = torch.zeros(x.numel() * x.element_size() + 64, dtype=torch.uint8)
        start = (odd - room.data_ptr()) % 16
        return room[start : start + x.numel() * x.element_size()].view(x.dtype).view(x.shape)

    given = inputs()
    for odd_q, odd_lse, family in ((0, 4, "sm90"), (4, 0, "simt"), (0, 0, "sm90"), (4, 4, "simt")) * 3:
        dout, q, k, v, out, lse = (at(x, odd_lse if i == 5 else odd_q if i == 1 else 0) for i, x in enumerate(given))
        numba_fa.attention_backward(dout, q, k, v, out, lse)
        assert runs[-1][0].variant.family == family
        check(launches, *runs[-1])
