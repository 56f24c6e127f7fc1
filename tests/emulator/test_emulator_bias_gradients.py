"""The Hopper kernels for gradients of biases' parameters, emulated, against float64 gradients."""

import numpy as np
import pytest

import numba_fa
import reference
from numba_fa.dispatch.device import Device
from numba_fa.emulator import EmulationError
from numba_fa.kernels.sm90 import bias_collect, bias_gradients, bias_tile
from numba_fa.kernels.sm90.backward_variant import BACKWARD, main_key, stages
from numba_fa.testing.inputs import LAYOUTS
from numba_fa.testing.programs import PROGRAMS, Asked, Sizes, lengths, random, slopes
from tests.declared import truth_of
from tests.emulator import backward_calls, mutants
from tests.emulator.backward_calls import check, make_call, run
from tests.emulator.test_emulator_simt_backward import bits


def make(program, sizes, head_dim=64, **facts):
    """A call beside the Hopper backward, by its tile for such a head_dim.

    Rounding the output shifts a query's scores' gradients together, by more than all else that is rounded here, and a few
    slopes may be lucky in it: the gradient of the LSE, which shifts them too, is given less that.
    """
    main = main_key("bf16", head_dim, "full", "alibi", facts.get("head_dim_v", 0))
    call = make_call(BACKWARD, program, sizes, head_dim=head_dim, tile=(main.block_m, main.block_n),
                     **{"dtype": "bfloat16"} | facts)  # fmt: skip
    dout, out = (np.asarray(call.arrays[name], np.float64) for name in ("dout", "out"))
    exact, _ = reference.attention(*[call.arrays[name] for name in "qkv"], **truth_of(call.asked, sizes))
    call.arrays["dlse"] += np.einsum("bqhd,bqhd->bhq", dout, out - exact).astype(np.float32)
    return call


def learnt(call):
    return {name for name in call.everything if name.startswith("bias")}


def learning(name):
    """Whether a program has a bias with a parameter."""
    return any(bias.parameter for bias in PROGRAMS[name](Sizes(1, 64, 64, 2)).biases)


@pytest.mark.parametrize("program", list(filter(learning, PROGRAMS)))
def test_every_program(program):
    """Two tiles of queries and three of keys, none of them whole."""
    call = make(PROGRAMS[program], Sizes(2, 140, 150, 2), head_dim=16, seed=len(program))
    check(call, run(call, learnt(call)))


@pytest.mark.parametrize(("head_dim", "head_dim_v"), [(8, 8), (72, 72), (128, 128), (192, 192), (256, 256), (192, 128),
                                                      (40, 136)])  # fmt: skip
@pytest.mark.parametrize("program", ["alibi", "dense"])
def test_head_dims(program, head_dim, head_dim_v):
    dtype = "float16" if head_dim == head_dim_v else "bfloat16"
    call = make(PROGRAMS[program], Sizes(1, 70, 140, 2), head_dim, head_dim_v=head_dim_v, dtype=dtype, heads_kv=1)
    check(call, run(call, learnt(call)))


SIZES = [Sizes(1, 1, 1, 1), Sizes(1, 300, 40, 1), Sizes(1, 40, 300, 1), Sizes(2, 128, 128, 1)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("program", ["alibi", "t5", "t5-one-way", "dense"])
def test_sizes(program, sizes):
    """Queries that see nothing, and many more of one than of the other."""
    call = make(PROGRAMS[program], sizes, head_dim=24)
    check(call, run(call, learnt(call)))


@pytest.mark.parametrize("shape", [(1, 2, 140, 90), (2, 1, 1, 90), (2, 2, 140, 1), (2, 1, 1), (1,), (140, 90), ()])
def test_a_dense_bias_is_summed_where_it_is_broadcast(shape):
    call = make(lambda sizes: Asked("causal", (numba_fa.DenseBias(random(*shape)),)), Sizes(2, 140, 90, 2), head_dim=8)
    check(call, run(call, {"bias0"}))


@pytest.mark.parametrize("shape", [(2, 2, 140, 150), (2, 1, 140, 150), (2, 1, 150), (1, 140, 1)])
def test_a_block_makes_several_tiles(shape, monkeypatch):
    monkeypatch.setattr(backward_calls, "HOPPER", Device("emulated", 0, "sm_90a", 3))
    call = make(lambda sizes: Asked("causal", (numba_fa.DenseBias(random(*shape)),)), Sizes(2, 140, 150, 2), head_dim=136)
    check(call, run(call, {"bias0"}))


@pytest.mark.parametrize("mask", [numba_fa.SlidingWindow(9, 0), numba_fa.SlidingWindow(100, 20, sinks=3)])
@pytest.mark.parametrize("bias", ["dense", "alibi"])
def test_tiles_that_nothing_is_seen_of_are_left_out(mask, bias):
    def program(sizes):
        made = numba_fa.ALiBi(slopes(sizes)) if bias == "alibi" else numba_fa.DenseBias(random(300, 300))
        return Asked(mask, (made,))

    call = make(program, Sizes(1, 300, 300, 1), head_dim=8)
    check(call, run(call, {"bias0"}))


@pytest.mark.parametrize("n", range(4))
def test_a_bias_among_others(n):
    """Its gradient passes through those after it."""
    def program(sizes):
        dense = numba_fa.DenseBias(random(sizes.heads, 1, sizes.seqlen_k))
        biases = numba_fa.ALiBi(slopes(sizes)), numba_fa.Softcap(1.5), numba_fa.T5Bias(random(8, 2), 20), dense
        return Asked("causal", biases)

    call = make(program, Sizes(1, 70, 90, 2), head_dim=8)
    if f"bias{n}" in call.everything:
        check(call, run(call, {f"bias{n}"}))
    else:
        assert n == 1


@pytest.mark.parametrize("mask", ["full", "causal", numba_fa.SlidingWindow(200, 30)], ids=str)
@pytest.mark.parametrize("bidirectional", [True, False])
def test_t5_far_from_the_queries(mask, bidirectional):
    """Most tiles are of one bucket each."""
    bias = numba_fa.T5Bias(random(8, 2), 20, bidirectional=bidirectional)
    call = make(lambda sizes: Asked(mask, (bias,)), Sizes(1, 300, 330, 2), head_dim=8)
    check(call, run(call, {"bias0"}))


@pytest.mark.parametrize("program", ["alibi", "t5", "dense"])
def test_order_of_threads_changes_nothing(program):
    call = make(PROGRAMS[program], Sizes(1, 140, 150, 1), head_dim=128)
    assert len({tuple(bits(run(call, learnt(call), seed=seed))) for seed in range(3)}) == 1


@pytest.mark.parametrize("bias", ["t5", "dense"])
def test_what_is_hidden_may_be_anything(bias):
    """Keys past the lengths, the second half and then all: they and their values NaN, and infinite."""
    def program(sizes):
        made = numba_fa.T5Bias(random(8, 2), 20) if bias == "t5" else numba_fa.DenseBias(random(140))
        return Asked(numba_fa.KeyPadding(lengths(sizes) // 2), (made, numba_fa.Softcap(2.0)))

    call = make(program, Sizes(2, 70, 140, 2), head_dim=8)
    clean = run(call, {"bias0"})
    check(call, clean)
    for array, fill in ((call.arrays["k"], np.inf), (call.arrays["v"], np.nan)):
        array[0, 70:], array[1] = fill, fill
    assert bits(run(call, {"bias0"})) == bits(clean)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout):
    call = make(PROGRAMS["alibi"], Sizes(2, 70, 80, 2), head_dim=72, layout=layout)
    check(call, run(call, {"bias0"}))


def test_many_buckets():
    call = make(lambda sizes: Asked("full", (numba_fa.T5Bias(random(260, 1), 400),)), Sizes(1, 140, 400, 1), head_dim=256)
    check(call, run(call, {"bias0"}))


def test_keys():
    keys = stages(main_key("bf16", 72, "causal", "alibi+dense_fp32+sink"), frozenset({"bias0", "bias1", "sink"}))
    assert [(key.op, key.family) for key in keys] == [
        ("bwd_pre", "sm90"), ("bwd_relative0", "sm90"), ("bwd_sum0", "common"), ("bwd_dense1", "sm90"),
        ("bwd_sink", "common"),
    ]  # fmt: skip
    assert keys[1].block_m == keys[0].block_m


MODULES = {module.__name__.rpartition(".")[2]: module for module in (bias_tile, bias_collect, bias_gradients)}
SITES = mutants.sites(MODULES, (*mutants.SYNCHRONISES, "wait", "bar_warp_sync"))
# That a tile has been read before the next is put there: a warpgroup meets at its products too, which orders that here.
SITES.remove(next(site for site in SITES if site[0] == "bias_collect" and site[2] == "bar_sync"))


def test_sites_are_found():
    assert len(SITES) >= 16 and {name for name, _, _ in SITES} == set(MODULES)


@pytest.mark.parametrize("site", SITES, ids=lambda site: "-".join(map(str, site)))
def test_a_line_left_out_is_found(site, monkeypatch):
    """Every line that orders threads, copies or products; blocks make several tiles of a dense bias, each of several."""
    monkeypatch.setattr(backward_calls, "HOPPER", Device("emulated", 0, "sm_90a", 1))
    for name, factory in mutants.changed_factories(MODULES[site[0]], *site[1:]).items():
        for module in MODULES.values():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, factory)
    t5 = lambda sizes: Asked("full", (numba_fa.T5Bias(random(8, 1), 20),))  # noqa: E731
    dense = lambda sizes: Asked("full", (numba_fa.DenseBias(random(2, 1, 1, 200)),))  # noqa: E731
    with pytest.raises(EmulationError):
        for seed, (program, head_dim) in enumerate([(t5, 64), (dense, 64), (dense, 136), (PROGRAMS["alibi"], 64)]):
            run(make(program, Sizes(2, 200, 200, 1), head_dim=head_dim), {"bias0"}, seed=seed + site[1] % 3)
