"""Random inputs: shapes, dtypes, layouts and what makes them reproducible."""
import ml_dtypes
import numpy as np
import pytest

from numba_fa.testing import random_qkv

SIZES = (2, 5, 7, 6, 3, 16)
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
LAYOUTS = ["bshd", "bhsd", "padded"]


def element_strides(x):
    """The strides of x in elements."""
    return tuple(stride // x.itemsize for stride in x.strides)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_shapes_and_dtypes(dtype, layout):
    q, k, v = random_qkv(*SIZES, dtype, layout=layout, head_dim_v=8)
    assert (q.shape, k.shape, v.shape) == ((2, 5, 6, 16), (2, 7, 3, 16), (2, 7, 3, 8))
    assert all(x.dtype == DTYPES[dtype] and x.strides[3] == x.itemsize for x in (q, k, v))


def test_strides_of_each_layout():
    q = {layout: random_qkv(*SIZES, layout=layout)[0] for layout in LAYOUTS}
    assert element_strides(q["bshd"]) == (5 * 6 * 16, 6 * 16, 16, 1)
    assert element_strides(q["bhsd"]) == (6 * 5 * 16, 16, 5 * 16, 1)
    assert element_strides(q["padded"]) == (6 * 6 * 24, 6 * 24, 24, 1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_hold_equal_values(layout):
    for x, expected in zip(random_qkv(*SIZES, layout=layout), random_qkv(*SIZES), strict=True):
        np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtypes_round_equal_values(dtype):
    for x, exact in zip(random_qkv(*SIZES, dtype), random_qkv(*SIZES), strict=True):
        np.testing.assert_array_equal(x, exact.astype(DTYPES[dtype]))


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_padding_is_poisoned_all_around(dtype):
    for x in random_qkv(*SIZES, dtype, layout="padded"):
        storage = np.array(x.base, dtype=np.float64)
        inside = np.zeros(storage.shape, dtype=bool)
        inside[:, : x.shape[1], :, : x.shape[3]] = True
        np.testing.assert_array_equal(np.isnan(storage), ~inside)
        assert storage.shape[1] > x.shape[1] and storage.shape[3] > x.shape[3]
        assert all(stride % 16 == 0 for stride in x.strides[:3])


def test_seed_decides_the_values():
    again, first, other = (random_qkv(*SIZES, seed=seed) for seed in (3, 3, 4))
    for x, same, different in zip(again, first, other, strict=True):
        np.testing.assert_array_equal(x, same)
        assert not np.any(x == different)


def test_q_k_and_v_are_independent():
    q, k, v = random_qkv(1, 500, 500, 1, 1, 16)
    for a, b in ((q, k), (k, v), (q, v)):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.056  # 8000 pairs: five standard errors


def test_one_length_does_not_change_the_other_arrays():
    q, k, v = random_qkv(1, 9, 7, 2, 1, 16)
    np.testing.assert_array_equal(q, random_qkv(1, 9, 3, 2, 1, 16)[0])
    for x, same in zip((k, v), random_qkv(1, 4, 7, 2, 1, 16)[1:], strict=True):
        np.testing.assert_array_equal(x, same)


def test_values_are_standard_normal():
    q, _, _ = random_qkv(1, 1000, 1, 2, 1, 50)
    # 100,000 values: the standard errors are 0.003 and 0.002.
    assert abs(q.mean()) < 0.02 and abs(q.std() - 1) < 0.02


@pytest.mark.parametrize("wrong", [{"dtype": "int8"}, {"layout": "sbhd"}])
def test_unknown_names_are_refused(wrong):
    with pytest.raises(KeyError, match=next(iter(wrong.values()))):
        random_qkv(*SIZES, **wrong)
