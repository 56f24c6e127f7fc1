"""attention on the CPU with each library's arrays: right numbers, the caller's kind, any strides, out and lse."""

import ml_dtypes
import numpy as np
import pytest

import numba_fa
from numba_fa.testing.inputs import random_qkv
from tests.api.libraries import LIBRARIES, check

# batch, seqlen_q, seqlen_k, heads, heads_kv, head_dim
SIZES = (2, 37, 53, 4, 2, 16)
CASES = [("float32", "full"), ("float32", "causal"), ("float16", "full"), ("bfloat16", "full")]
OUT_SHAPE, LSE_SHAPE = (2, 37, 4, 16), (2, 4, 37)


@pytest.fixture(params=list(LIBRARIES))
def library(request):
    return LIBRARIES[request.param]()


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def qkv_of(library, dtype="float32"):
    return [library.make(array) for array in random_qkv(*SIZES, dtype)]


@pytest.mark.parametrize(("dtype", "mask"), CASES)
def test_results_are_right_and_of_the_callers_kind(library, dtype, mask):
    out, lse = numba_fa.attention(*qkv_of(library, dtype), mask=mask, return_lse=True)
    assert isinstance(out, library.kind)
    assert isinstance(lse, library.kind)
    assert (tuple(out.shape), out.dtype) == (OUT_SHAPE, library.dtype(dtype))
    assert (tuple(lse.shape), lse.dtype) == (LSE_SHAPE, library.dtype("float32"))
    check(library.to_numpy(out), library.to_numpy(lse), *SIZES, dtype, mask)


def test_without_lse_the_output_alone_is_returned(library):
    q, k, v = qkv_of(library)
    alone = numba_fa.attention(q, k, v)
    both = numba_fa.attention(q, k, v, return_lse=True)
    assert isinstance(alone, library.kind)
    assert np.array_equal(library.to_numpy(alone), library.to_numpy(both[0]))


def test_the_inputs_are_left_as_they_were(library):
    arrays = qkv_of(library)
    numba_fa.attention(*arrays)
    assert all(np.array_equal(library.to_numpy(a), b) for a, b in zip(arrays, random_qkv(*SIZES)))


@pytest.mark.parametrize("name", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_out_is_written_and_returned_itself(name, dtype):
    library = LIBRARIES[name]()
    out = library.make(np.full(OUT_SHAPE, np.nan, ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype))
    result, lse = numba_fa.attention(*qkv_of(library, dtype), out=out, return_lse=True)
    assert result is out
    check(library.to_numpy(out), library.to_numpy(lse), *SIZES, dtype, "full")


def test_out_of_jax_is_refused():
    library = LIBRARIES["jax"]()
    q, k, v = qkv_of(library)
    with pytest.raises(numba_fa.ProblemError, match="immutable"):
        numba_fa.attention(q, k, v, out=q)


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_bhsd_views_in_and_out(name):
    """Arrays that are stored (batch, heads, seqlen, head_dim) and passed as transposed views."""
    library = LIBRARIES[name]()

    def swap(array):
        return array.transpose(0, 2, 1, 3) if name == "numpy" else array.transpose(1, 2)

    stored = [library.make(np.ascontiguousarray(array.transpose(0, 2, 1, 3))) for array in random_qkv(*SIZES)]
    target = library.make(np.full((2, 4, 37, 16), np.nan, np.float32))
    out, lse = numba_fa.attention(*map(swap, stored), out=swap(target), return_lse=True)
    check(library.to_numpy(swap(target)), library.to_numpy(lse), *SIZES, "float32", "full")
    assert np.array_equal(library.to_numpy(out), library.to_numpy(swap(target)))


def test_out_within_a_larger_array_leaves_the_rest():
    room = np.full((2, 40, 4, 24), 7, np.float32)
    out, lse = numba_fa.attention(*random_qkv(*SIZES), out=room[:, 2:39, :, 4:20], return_lse=True)
    check(out, lse, *SIZES, "float32", "full")
    room[:, 2:39, :, 4:20] = 7
    assert (room == 7).all()


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1, 2)])
def test_negative_strides(axes):
    """Arrays stored backwards along some axes, and seen forwards."""
    backward = [np.flip(np.ascontiguousarray(np.flip(array, axes)), axes) for array in random_qkv(*SIZES)]
    target = np.flip(np.full(OUT_SHAPE, np.nan, np.float32), axes)
    assert all(array.strides[axis] < 0 for array in (*backward, target) for axis in axes)
    out, lse = numba_fa.attention(*backward, out=target, return_lse=True)
    assert out is target
    check(out, lse, *SIZES, "float32", "full")


def test_expanded_keys_of_torch(torch):
    """k and v of one batch entry and one head, expanded with stride 0."""
    q, k, v = (torch.from_numpy(array) for array in random_qkv(*SIZES))
    k, v = (x[:1, :, :1].expand(2, -1, 2, -1) for x in (k, v))
    assert k.stride()[0] == k.stride()[2] == 0
    expected = numba_fa.attention(q, k.contiguous(), v.contiguous())
    assert torch.equal(numba_fa.attention(q, k, v), expected)
    assert not torch.equal(expected, numba_fa.attention(*(torch.from_numpy(a) for a in random_qkv(*SIZES))))


def test_broadcast_read_only_keys_of_numpy():
    q, k, v = random_qkv(*SIZES)
    wide = [np.broadcast_to(x[:1], x.shape) for x in (k, v)]
    assert not wide[0].flags.writeable
    assert np.array_equal(
        numba_fa.attention(q, *wide), numba_fa.attention(q, *(np.ascontiguousarray(x) for x in wide))
    )


def test_subclasses_are_arrays_of_their_library(torch):
    class Named(np.ndarray):
        pass

    q, k, v = random_qkv(*SIZES)
    expected = numba_fa.attention(q, k, v)
    assert np.array_equal(numba_fa.attention(q.view(Named), k, v), expected)
    parameter = torch.nn.Parameter(torch.from_numpy(q), requires_grad=False)
    out = numba_fa.attention(parameter, torch.from_numpy(k), torch.from_numpy(v))
    assert np.array_equal(out.numpy(), expected)


def test_a_scale_is_used():
    """Scaling q by 4 and the scale by 1/4 rounds nothing, so the results are equal to the bit."""
    q, k, v = random_qkv(*SIZES)
    assert np.array_equal(numba_fa.attention(q * 4, k, v, scale=0.25 / 4), numba_fa.attention(q, k, v, scale=0.25))
    assert np.array_equal(numba_fa.attention(q, k, v, scale=0.25), numba_fa.attention(q, k, v))
    assert not np.array_equal(numba_fa.attention(q, k, v, scale=0.5), numba_fa.attention(q, k, v))


def test_no_keys_give_zeros_and_minus_infinity(library):
    q, k, v = random_qkv(*SIZES)
    arrays = [library.make(array) for array in (q, k[:, :0], v[:, :0])]
    out, lse = (library.to_numpy(array) for array in numba_fa.attention(*arrays, return_lse=True))
    assert out.shape == OUT_SHAPE
    assert not out.any()
    assert np.isneginf(lse).all()
    assert lse.shape == LSE_SHAPE


def test_masks_as_objects_and_names():
    q, k, v = random_qkv(*SIZES)
    by_name = {name: numba_fa.attention(q, k, v, mask=name) for name in ("full", "causal")}
    assert np.array_equal(numba_fa.attention(q, k, v, mask=numba_fa.Causal()), by_name["causal"])
    assert np.array_equal(numba_fa.attention(q, k, v, mask=numba_fa.Full()), by_name["full"])
    assert np.array_equal(numba_fa.attention(q, k, v), by_name["full"])
    assert not np.array_equal(by_name["causal"], by_name["full"])
