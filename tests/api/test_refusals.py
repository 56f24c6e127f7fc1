"""What attention, plan and explain refuse, before anything is computed."""

import numpy as np
import pytest

import numba_fa
from numba_fa import ProblemError, UnsupportedError
from numba_fa.testing.inputs import random_qkv

Q, K, V = random_qkv(1, 6, 9, 2, 2, 8)
ENTRIES = [numba_fa.attention, numba_fa.plan, numba_fa.explain]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def faults_of(entry, *arrays, **options):
    """The faults of the ProblemError that a call raises."""
    with pytest.raises(ProblemError) as caught:
        entry(*arrays, **options)
    return caught.value.faults


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_lists_every_fault(entry):
    faults = faults_of(entry, Q, K[:, :, :, :4], V, mask="casual", scale=0.0)
    assert len(faults) == 3
    assert all(any(word in fault for fault in faults) for word in ("head_dim 4", "casual", "scale"))


@pytest.mark.parametrize("entry", ENTRIES)
def test_arrays_of_two_libraries(entry, torch):
    (fault,) = faults_of(entry, Q, torch.from_numpy(K), V)
    assert all(word in fault for word in ("q numpy", "k torch", "v numpy", "one library"))


def test_out_of_another_library(torch):
    out = torch.full(Q.shape, 7.0)
    (fault,) = faults_of(numba_fa.attention, Q, K, V, out=out)
    assert "out torch" in fault
    assert (out == 7).all()


@pytest.mark.parametrize("wrong", [Q.tolist(), "q", 3.5, object(), {"q": Q}, memoryview(Q), (1, 2)],
                         ids=lambda wrong: type(wrong).__name__)  # fmt: skip
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_no_array(place, wrong):
    arrays = [Q, K, V]
    arrays[place] = wrong
    (fault,) = faults_of(numba_fa.attention, *arrays)
    assert type(wrong).__qualname__ in fault
    assert all(name in fault for name in ("NumPy", "torch", "CuPy", "JAX", "Numba"))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_none_is_no_array(place):
    arrays = [Q, K, V]
    arrays[place] = None
    faults_of(numba_fa.attention, *arrays)


@pytest.mark.parametrize("wrong", [np.float32(1), np.random.default_rng(0), np.dtype("f4")],
                         ids=["scalar", "generator", "dtype"])  # fmt: skip
def test_a_librarys_other_objects_are_no_arrays(wrong):
    faults_of(numba_fa.attention, wrong, K, V)


def test_modules_of_torch_are_no_arrays(torch):
    k = torch.from_numpy(K)
    faults_of(numba_fa.attention, torch.nn.Identity(), k, k)


def test_a_torch_device_without_kernels(torch):
    """Not the driver's or int()'s error: such tensors are refused by the device's name."""
    q, k, v = (torch.from_numpy(array).to("meta") for array in (Q, K, V))
    with pytest.raises((ProblemError, UnsupportedError), match="meta"):
        numba_fa.attention(q, k, v)


def test_sparse_tensors_are_refused_by_name(torch):
    q, k, v = (torch.from_numpy(array) for array in (Q, K, V))
    with pytest.raises((ProblemError, UnsupportedError), match="sparse"):
        numba_fa.attention(q.to_sparse(), k, v)


@pytest.mark.parametrize("dtype", [np.int32, np.complex64, np.bool_, ">f4"])
def test_dtypes_that_mean_nothing(dtype):
    q, k, v = (array.astype(dtype) for array in (Q, K, V))
    faults = faults_of(numba_fa.attention, q, k, v)
    assert len(faults) == 3
    assert all(str(np.dtype(dtype)) in fault and "float16" in fault for fault in faults)


@pytest.mark.parametrize("entry", ENTRIES)
def test_float64_is_unsupported(entry):
    with pytest.raises(UnsupportedError, match="float64") as caught:
        entry(*(array.astype(np.float64) for array in (Q, K, V)))
    assert "forward-cpu" in caught.value.reasons
    assert caught.value.nearest.startswith("fp32, head_dim 8, mask full")


def test_float64_of_torch_is_unsupported(torch):
    with pytest.raises(UnsupportedError, match="float64"):
        numba_fa.attention(*(torch.from_numpy(array).double() for array in (Q, K, V)))


def test_integers_of_torch_mean_nothing(torch):
    faults = faults_of(numba_fa.attention, *(torch.from_numpy(array).int() for array in (Q, K, V)))
    assert all("int32" in fault for fault in faults)


@pytest.mark.parametrize(("out", "word"), [
    (np.full((1, 6, 2, 16), 7, np.float32), "shape"),
    (np.full((6, 2, 8), 7, np.float32), "axes"),
    (np.full(Q.shape, 7, np.float16), "dtypes differ"),
    (np.full((8, 2, 6, 1), 7, np.float32).T, "contiguous"),
    (np.broadcast_to(np.float32(7), Q.shape), "read-only"),
])  # fmt: skip
def test_a_wrong_out_is_refused_and_untouched(out, word):
    assert any(word in fault for fault in faults_of(numba_fa.attention, Q, K, V, out=out))
    assert (out == 7).all()


def test_an_expanded_out_is_refused(torch):
    """torch does not mark an expanded tensor read-only; its elements overlap all the same."""
    q, k, v = (torch.from_numpy(array) for array in (Q, K, V))
    out = torch.full((1, 1, 2, 8), 7.0).expand(1, 6, 2, 8)
    (fault,) = faults_of(numba_fa.attention, q, k, v, out=out)
    assert "zero stride" in fault
    assert (out == 7).all()


def test_strides_that_are_no_multiple_of_an_element():
    """A field of packed records: neighbours lie 5 bytes apart, which no number of float32 is."""
    records = np.zeros(Q.shape, [("value", "f4"), ("flag", "i1")])
    field = records["value"]
    field[...] = Q
    assert field.strides[-1] == 5
    (fault,) = faults_of(numba_fa.attention, field, K, V)
    assert "q" in fault


def test_a_masked_arrays_mask_is_not_ignored():
    masked = np.ma.masked_array(Q, mask=np.ones(Q.shape, bool))
    with pytest.raises((ProblemError, UnsupportedError)):
        numba_fa.attention(masked, K, V)


def test_a_forced_family_reaches_the_call_and_its_end(monkeypatch):
    numba_fa.explain(Q, K, V)
    monkeypatch.setenv("NUMBA_FA_BACKEND", "sm90")
    for entry in ENTRIES:
        with pytest.raises(UnsupportedError, match="NUMBA_FA_BACKEND is sm90"):
            entry(Q, K, V)
    monkeypatch.setenv("NUMBA_FA_BACKEND", "cpu")
    assert numba_fa.explain(Q, K, V).family == "cpu"


WRONG_PROGRAMS = {
    "padding's lengths: builtins.list": {"mask": numba_fa.KeyPadding([6])},
    "alibi's slopes: builtins.float": {"bias": numba_fa.ALiBi(0.5)},
    "sink_logits: builtins.list": {"sink_logits": [1.0, 2.0]},
    "mask is 'window'": {"mask": "window"},
    "bias is 'alibi'": {"bias": "alibi"},
    "bias is {": {"bias": {numba_fa.Softcap(3.0)}},
    "lengths is int64": {"mask": numba_fa.KeyPadding(np.array([6]))},
    "sink_logits has shape (3,)": {"sink_logits": np.zeros(3, np.float32)},
    "slopes is float64": {"bias": [numba_fa.Softcap(3.0), numba_fa.ALiBi(np.ones(2))]},
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("words", list(WRONG_PROGRAMS))
def test_wrong_masks_biases_and_sinks(entry, words):
    (fault,) = faults_of(entry, Q, K, V, **WRONG_PROGRAMS[words])
    assert words in fault


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_array_that_is_none_is_named_at_once(entry):
    options = {"mask": numba_fa.KeyPadding([6]), "bias": [numba_fa.ALiBi("x")], "sink_logits": 3}
    faults = faults_of(entry, Q, "k", V, **options)
    assert len(faults) == 4
    assert all(any(fault.startswith(name) for fault in faults) for name in ("k", "padding's", "alibi's", "sink_logits"))
