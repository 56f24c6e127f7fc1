"""Calls made before are cheap, and nothing that makes a call wrong or different goes unseen because of that."""

import ctypes
import gc
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import numba_fa
import reference
from numba_fa import ProblemError, UnsupportedError, api
from numba_fa.testing.inputs import random_qkv
from reference.parameters import bind

torch = pytest.importorskip("torch")
SIZES = (2, 19, 23, 4, 2, 16)
QKV = [torch.from_numpy(array) for array in random_qkv(*SIZES)]


@pytest.fixture(autouse=True)
def nothing_remembered():
    api.forget()
    yield
    api.forget()


def truth(q, k, v, **options):
    out, _ = reference.attention(*(x.detach().numpy() for x in (q, k, v)), **options)
    return torch.from_numpy(out)


def close(out, expected):
    return torch.allclose(out.double(), expected, atol=2e-6)


def padded(lengths):
    return bind(reference.padding, 19, 23, lengths=lengths.numpy())


@pytest.fixture
def warm():
    """A call that was made twice: from now on it is remembered."""
    for _ in range(2):
        numba_fa.attention(*QKV)
    assert len(api._CALLS) == 1


def python_calls(call):
    """How many Python functions `call` enters."""
    count = 0

    def see(frame, event, argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(see)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count - 1


def test_a_repeated_call_enters_few_functions():
    """Functions entered, not time: that a busy machine does not change. Of them, and of those that stand in for the driver.

    The least of several calls: an allocator may give a result another address than the last one had, which is written into
    the parameters; and the collector may come in between.
    """
    from numba_fa.testing.pretended_gpu import pretended_gpu

    q, k, v = (torch.zeros(1, 64, 2, 64, dtype=torch.bfloat16) for _ in range(3))
    out, lse = torch.empty_like(q), torch.empty(1, 2, 64)
    lengths, slopes = torch.tensor([60], dtype=torch.int32), torch.ones(2)
    padding, alibi = numba_fa.KeyPadding(lengths), numba_fa.ALiBi(slopes)
    with pretended_gpu():
        plan, padded = numba_fa.plan(q, k, v), numba_fa.plan(q, k, v, mask=padding)
        calls = {
            "attention": (10, lambda: numba_fa.attention(q, k, v, mask="causal")),
            "out, lse": (14, lambda: numba_fa.attention(q, k, v, out=out, return_lse=True)),
            "padding, alibi": (15, lambda: numba_fa.attention(q, k, v, mask=padding, bias=alibi)),
            "Plan.run": (8, lambda: plan.run(q, k, v, out)),
            "Plan.run, lse": (8, lambda: plan.run(q, k, v, out, lse)),
            "Plan.run, padding": (8, lambda: padded.run(q, k, v, out)),
        }
        counts = {}
        for name, (_, call) in calls.items():
            for _ in range(3):
                call()
            counts[name] = min(python_calls(call) for _ in range(8))
    assert all(counts[name] <= most for name, (most, _) in calls.items()), counts


def test_other_arrays_of_the_same_layout_give_their_own_results(warm):
    others = [x + 1 for x in QKV]
    assert close(numba_fa.attention(*others), truth(*others))
    assert close(numba_fa.attention(*QKV), truth(*QKV))
    assert len(api._CALLS) == 1


def test_results_are_new_arrays(warm):
    first, second = numba_fa.attention(*QKV), numba_fa.attention(*QKV)
    assert first.data_ptr() != second.data_ptr() and torch.equal(first, second)


@pytest.mark.parametrize("options", [{"mask": "causal"}, {"scale": 0.7}, {"return_lse": True},
                                     {"mask": numba_fa.SlidingWindow(3)}, {"bias": numba_fa.Softcap(2.0)},
                                     {"sink_logits": torch.ones(4)}])  # fmt: skip
def test_other_options_are_another_call(warm, options):
    plain = numba_fa.attention(*QKV)
    for _ in range(2):
        result = numba_fa.attention(*QKV, **options)
        out = result[0] if isinstance(result, tuple) else result
        assert torch.equal(out, plain) == ("return_lse" in options)
    assert torch.equal(numba_fa.attention(*QKV), plain)
    assert len(api._CALLS) == 2


def test_other_strides_are_another_call(warm):
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in QKV]
    out = numba_fa.attention(*strided)
    assert out.is_contiguous() and close(out, truth(*QKV))


def test_a_gradient_is_recorded_after_good_calls(warm):
    q, k, v = (x.clone().requires_grad_() for x in QKV)
    with torch.no_grad():
        assert not numba_fa.attention(q, k, v).requires_grad
    assert numba_fa.attention(q, k, v).requires_grad
    assert numba_fa.attention(*QKV[:2], v).requires_grad
    assert not numba_fa.attention(*QKV).requires_grad


def test_a_gradient_of_a_bias_is_recorded_or_refused():
    slopes = torch.nn.Parameter(torch.ones(4))
    bias = numba_fa.ALiBi(slopes)
    with torch.no_grad():
        numba_fa.attention(*QKV, bias=bias)
        plan = numba_fa.plan(*QKV, bias=bias)
    assert numba_fa.attention(*QKV, bias=bias).requires_grad
    with pytest.raises((UnsupportedError, ProblemError)):
        plan.run(*QKV, torch.empty_like(QKV[0]))
    with pytest.raises(UnsupportedError, match="alibi's slopes requires grad"):
        numba_fa.plan(*QKV, bias=bias)


def test_a_gradient_is_wanted_after_a_call_without_grad_mode():
    """Torch's quick test, made when grad mode was off, would let the same tensors pass when it is on."""
    q, k, v = (x.clone().requires_grad_() for x in QKV)
    plan, out = numba_fa.plan(*QKV), torch.empty_like(QKV[0])
    with torch.no_grad():
        for _ in range(3):
            numba_fa.attention(q, k, v)
            plan.run(q, k, v, out)
    assert numba_fa.attention(q, k, v).requires_grad
    with pytest.raises(UnsupportedError, match="grad"):
        plan.run(q, k, v, out)


def test_another_dtype_is_wanted_under_autocast(warm):
    for _ in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert numba_fa.attention(*QKV).dtype is torch.bfloat16
    halves = [x.bfloat16() for x in QKV]
    for dtype in (torch.bfloat16, torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype=dtype):
            for _ in range(3):
                assert numba_fa.attention(*halves).dtype is dtype


def test_arrays_of_all_kinds_in_turn(warm):
    for _ in range(2):
        with torch.inference_mode():
            assert numba_fa.attention(*(x.clone() for x in QKV)).is_inference()
        assert not numba_fa.attention(*QKV).is_inference()
        assert isinstance(numba_fa.attention(*(x.numpy() for x in QKV)), np.ndarray)
        with torch.no_grad():
            numba_fa.attention(*map(torch.nn.Parameter, QKV))
        outs = [torch.vmap(numba_fa.attention)(*(torch.stack([x, x]) for x in QKV))[0], numba_fa.attention(*QKV)]
        assert all(close(out, truth(*QKV)) for out in outs)


def test_one_array_twice_is_a_call_as_good():
    """Torch's quick test lets no tensor pass that is there twice."""
    x, other = torch.randn(2, 5, 4, 16), torch.randn(2, 5, 4, 16)
    plan = numba_fa.plan(x, x, x)
    for arrays in [(x, other, other), (x, other, x + 1), (x, x, x), (x, other, x + 1), (x, x, x), (x, x, x)]:
        assert close(numba_fa.attention(*arrays), truth(*arrays))
        plan.run(*arrays, out := torch.empty_like(x))
        assert close(out, truth(*arrays))
        q = x.clone()
        assert close(numba_fa.attention(q, *arrays[1:], out=q), truth(*arrays))
    assert len(api._CALLS) == 2


def test_a_forced_family_is_obeyed_after_good_calls(warm, monkeypatch):
    monkeypatch.setenv("NUMBA_FA_BACKEND", "simt")
    with pytest.raises(UnsupportedError, match="NUMBA_FA_BACKEND is simt"):
        numba_fa.attention(*QKV)
    monkeypatch.delenv("NUMBA_FA_BACKEND")
    numba_fa.attention(*QKV)


@pytest.mark.parametrize("name", ["k", "v", "q"])
def test_an_out_that_overlaps_is_refused_after_good_calls(name):
    room = torch.randn(5, 2, 23, 4, 16)
    q, k, v, out = (room[i, :, :19] if i in (0, 3) else room[i] for i in range(4))
    for _ in range(2):
        numba_fa.attention(q, k, v, out=out)
    bad = {"q": room[0, :, 1:20], "k": room[1, :, :19], "v": room[2, :, 1:20]}[name]
    with pytest.raises(ProblemError, match=f"out overlaps {name}"):
        numba_fa.attention(q, k, v, out=bad)
    for _ in range(2):
        assert numba_fa.attention(q, k, v, out=q) is q


def test_faults_are_told_after_good_calls(warm):
    q, k, v = QKV
    wrong = {"does not go with": (q, k[:, :5], v), "dtypes differ": (q, k.half(), v), "one library": (q, k.numpy(), v)}
    for word, arrays in wrong.items():
        for _ in range(2):
            with pytest.raises(ProblemError, match=word):
                numba_fa.attention(*arrays)
    with pytest.raises(ProblemError, match="scale is -1"):
        numba_fa.attention(q, k, v, scale=-1.0)
    numba_fa.attention(q, k, v, scale=0.5)
    with pytest.raises(ProblemError, match="scale is '0.5'; a number or None is wanted"):
        numba_fa.attention(q, k, v, scale="0.5")
    assert torch.equal(numba_fa.attention(q, k, v, scale=torch.tensor(0.5)), numba_fa.attention(q, k, v, scale=0.5))
    with pytest.raises((ProblemError, UnsupportedError), match="negates"):
        numba_fa.attention(torch._neg_view(q), k, v)
    with pytest.raises((ProblemError, UnsupportedError), match="meta"):
        numba_fa.attention(q.to("meta"), k, v)
    with pytest.raises((ProblemError, UnsupportedError), match="sparse"):
        numba_fa.attention(q.to_sparse(), k, v)


def test_a_scale_that_is_a_tensor_is_read_at_every_call():
    scale = torch.tensor(0.25)
    first = numba_fa.attention(*QKV, scale=scale)
    scale.fill_(1.0)
    assert not torch.equal(numba_fa.attention(*QKV, scale=scale), first)
    assert torch.equal(numba_fa.attention(*QKV, scale=0.25), first)


def test_a_list_of_biases_is_read_at_every_call():
    bias = [numba_fa.Softcap(2.0)]
    first = numba_fa.attention(*QKV, bias=bias)
    bias[0] = numba_fa.Softcap(0.5)
    assert not torch.equal(numba_fa.attention(*QKV, bias=bias), first)
    bias.clear()
    assert torch.equal(numba_fa.attention(*QKV, bias=bias), numba_fa.attention(*QKV))


def test_a_masks_array_is_read_where_it_lies_now():
    lengths = torch.tensor([20, 7], dtype=torch.int32)
    mask = numba_fa.KeyPadding(lengths)
    assert close(numba_fa.attention(*QKV, mask=mask), truth(*QKV, mask=padded(lengths)))
    lengths.copy_(torch.tensor([3, 9]))
    assert close(numba_fa.attention(*QKV, mask=mask), truth(*QKV, mask=padded(lengths)))
    other = torch.tensor([11, 2], dtype=torch.int32)
    assert close(numba_fa.attention(*QKV, mask=numba_fa.KeyPadding(other)), truth(*QKV, mask=padded(other)))
    lengths.set_(other)
    assert close(numba_fa.attention(*QKV, mask=mask), truth(*QKV, mask=padded(other)))
    assert len(api._CALLS) == 1


def test_a_masks_array_that_was_resized_or_freed_is_refused():
    lengths = torch.tensor([20, 7], dtype=torch.int32)
    mask = numba_fa.KeyPadding(lengths)
    plan, out = numba_fa.plan(*QKV, mask=mask), torch.full_like(QKV[0], 7.0)
    for _ in range(3):
        numba_fa.attention(*QKV, mask=mask)
        plan.run(*QKV, out)
    expected = out.clone()
    lengths.untyped_storage().resize_(0)
    with pytest.raises(ProblemError, match="padding's lengths has no memory"):
        numba_fa.attention(*QKV, mask=mask)
    with pytest.raises(ProblemError, match="padding's lengths .* freed, moved or resized"):
        plan.run(*QKV, out.fill_(7.0))
    assert (out == 7).all()
    lengths.resize_(3)
    with pytest.raises(ProblemError, match=r"\(3,\)"):
        numba_fa.attention(*QKV, mask=mask)
    with pytest.raises(ProblemError, match="freed, moved or resized"):
        plan.run(*QKV, out)
    assert (out == 7).all() and not (expected == 7).any()


def test_calls_and_plans_keep_no_array_of_the_caller_alive():
    arrays = [x.clone() for x in QKV]
    lengths, out = torch.tensor([20, 7], dtype=torch.int32), torch.empty_like(arrays[0])
    plan = numba_fa.plan(*arrays)
    for _ in range(3):
        numba_fa.attention(*arrays, mask=numba_fa.KeyPadding(lengths), out=out)
        plan.run(*arrays, out)
    gone = [weakref.ref(array) for array in (*arrays, lengths, out)]
    del arrays, lengths, out
    gc.collect()
    assert [array() for array in gone] == [None] * 5


def test_the_oldest_calls_are_forgotten(monkeypatch):
    monkeypatch.setattr("numba_fa.adapters.calls._MOST", 4)
    for length in range(1, 12):
        q = torch.zeros(1, length, 1, 8)
        numba_fa.attention(q, q, q)
    assert len(api._CALLS) == 4


def test_threads_that_call_at_once():
    """Same layouts and different ones, with masks' arrays, all from calls that nobody has made yet."""
    rng = np.random.default_rng(3)

    def one(n):
        lengths = torch.from_numpy(rng.integers(0, 24, 2).astype(np.int32))
        arrays = [x + n for x in QKV]
        out = numba_fa.attention(*arrays, mask=numba_fa.KeyPadding(lengths), bias=numba_fa.Softcap(1.0 + n % 3))
        return arrays, lengths, n, out

    with ThreadPoolExecutor(4) as pool:
        for arrays, lengths, n, out in pool.map(one, range(24)):
            cap = bind(reference.softcap, 19, 23, cap=1.0 + n % 3)
            assert close(out, truth(*arrays, mask=padded(lengths), bias=[cap]))


def test_a_launch_has_the_addresses_of_its_own_call():
    """On a pretended GPU, whose tensor maps begin with their address: what the driver is given, read as it reads it."""
    from numba_fa.testing.pretended_gpu import places_of, pretended_gpu

    lengths = [torch.tensor([n], dtype=torch.int32) for n in (60, 50)]
    arrays = [[torch.zeros(1, 64, 2, 64, dtype=torch.bfloat16) for _ in range(3)] for _ in range(2)]
    with pretended_gpu() as launches:
        for _ in range(2):
            for (q, k, v), length in zip(arrays, lengths):
                out, lse = numba_fa.attention(q, k, v, mask=numba_fa.KeyPadding(length), return_lse=True)
                places = places_of(launches[-1], 17)
                words = [ctypes.c_int64.from_address(place).value for place in places]
                assert words[:5] == [x.data_ptr() for x in (q, k, v, out, lse)]
                assert words[12:] == [0, 0, 1, 4, length.data_ptr()]
                assert [ctypes.c_int32.from_address(place).value for place in places[5:10]] == [2, 2, 1, 64, 64]


def test_short_calls_go_as_graphs_and_long_ones_plainly():
    """Where the GPU takes longer than the host, the host's time is not worth the GPU's (docs/findings/0023)."""
    from numba_fa.testing.pretended_gpu import grid_of, pretended_gpu

    def called(seqlen, dtype):
        q = torch.empty(1, seqlen, 1, 64, dtype=dtype).expand(1, seqlen, 16, 64)
        numba_fa.plan(q, q, q).run(q, q, q, torch.empty(1, seqlen, 16, 64, dtype=dtype))
        return "plain" if isinstance(launches[-1], tuple) else "graph"

    with pretended_gpu() as launches:
        for dtype in (torch.bfloat16, torch.float32):
            assert called(1024, dtype) == "graph"  # 4 * 16 * 1024 * 1024 * 64 operations are 4e9
            assert called(2048, dtype) == "plain"  # 17e9
            assert grid_of(launches[-1])[0] > 1
