"""Every intrinsic has a twin, and scalar twins mean what the instruction does."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from numba.cuda.extending import _Intrinsic

import numba_fa.ptx
from numba_fa.emulator.errors import EmulationError
from numba_fa.emulator.translate import twin_of
from numba_fa.ptx import core, math, memory

MODULES = [
    importlib.import_module(f"numba_fa.ptx.{module.name}") for module in pkgutil.iter_modules(numba_fa.ptx.__path__)
]


def no_step(k):
    """Every step of a product at the same place."""
    return 0


# What each factory is called with: by the names of its parameters.
SAMPLES = {
    "count": 16, "dtype": "fp16", "n": 16, "steps": 1, "a_step": no_step, "b_step": no_step, "pending": 0,
    "first": 0, "registers": 24, "direction": "dec", "function": no_step, "clamp": True, "bounded": True, "fast": False,
    "nan": True, "row_bytes": 96,
}  # fmt: skip


def intrinsics():
    """(name, intrinsic) of all that `ptx` offers, made by factories too."""
    for module in MODULES:
        for name, value in vars(module).items():
            if isinstance(value, _Intrinsic):
                yield name, value
            elif name.startswith("make_") and value.__module__ == module.__name__:
                yield name, value(**{parameter: SAMPLES[parameter] for parameter in inspect.signature(value).parameters})


ALL = dict(intrinsics())


def test_intrinsics_are_found():
    assert len(ALL) > 30 and all(isinstance(value, _Intrinsic) for value in ALL.values())


@pytest.mark.parametrize("name", ALL)
def test_twin_takes_the_intrinsics_arguments(name):
    intrinsic = ALL[name]
    arity = len(inspect.signature(intrinsic._defn).parameters) - 1
    inspect.signature(twin_of(intrinsic)).bind(*range(arity))


def test_missing_twin_is_told():
    with pytest.raises(EmulationError, match="no_such has no twin"):
        twin_of(core.define(core.Op("no_such", "", "")))


def test_ptx_does_not_import_greenlet():
    code = "import sys, numba_fa.ptx.wgmma, numba_fa.ptx.tma, numba_fa.ptx.math; assert 'greenlet' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_scalar_twins():
    inf = np.float32(np.inf)
    ex2, lg2, rcp, fmax = (twin_of(x) for x in (math.ex2_approx, math.lg2_approx, math.rcp_approx, math.fmax))
    with np.errstate(divide="ignore"):
        assert ex2(-inf) == 0 and ex2(np.float32(3)) == 8 and ex2(np.float32(-140)) == 0
        assert lg2(np.float32(8)) == 3 and lg2(np.float32(0)) == -inf
        assert rcp(np.float32(4)) == 0.25 and rcp(np.float32(0)) == inf
    assert fmax(np.float32(np.nan), np.float32(1)) == 1
    assert np.isnan(twin_of(math.fmax_nan)(np.float32(np.nan), np.float32(1)))


def test_half_conversions():
    words = np.arange(1 << 16, dtype=np.uint16)
    to_float, to_half = twin_of(memory.half_to_float), twin_of(memory.float_to_half)
    for word in words[::97]:
        value = word.view(np.float16)
        if not np.isnan(value):
            assert to_float(int(word) | 0x7000000) == value and to_half(np.float32(value)) == word
    assert to_half(np.float32(1 + 2**-11)) == 0x3C00  # halfway: to even
    assert twin_of(memory.float_to_bits)(np.float32(-0.0)) == -(1 << 31)
    assert twin_of(memory.bits_to_float)(0x3F800000) == 1


@pytest.mark.parametrize(("dtype", "half"), [("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_fragment_twins_agree_with_a_matrix(dtype, half):
    from numba_fa.emulator.tensor_core import fragments_of
    from numba_fa.ptx import fragment

    n, thread = 32, 37
    tile = np.random.default_rng(0).standard_normal((64, n)).astype(np.float32)
    mine = fragments_of(tile)[thread]
    rows, columns = (17, 25), sorted(8 * j + 2 + i for j in range(n // 8) for i in (0, 1))
    twin = {name: twin_of(getattr(fragment, f"make_{name}")(n // 2)) for name in
            ("row_max", "row_sum", "exponential", "scale_rows", "slope_columns")}  # fmt: skip
    part = tile[np.ix_(rows, columns)]
    lowest = np.float32(-np.inf)
    assert twin["row_max"](mine, lowest, np.float32(9)) == (part[0].max(), 9)
    holed = np.where(np.arange(n // 2) == 5, np.nan, mine)
    for nan, top in ((False, np.delete(part[0], 3).max()), (True, np.nan)):
        np.testing.assert_equal(twin_of(fragment.make_row_max(n // 2, nan=nan))(holed, lowest, np.float32(9)), (top, 9))
    np.testing.assert_allclose(twin["row_sum"](mine), part.sum(axis=1), rtol=1e-5)

    def tile_with(changed):
        whole = tile.copy()
        whole[np.ix_(rows, columns)] = changed
        return fragments_of(whole)[thread]

    power = np.exp2(part * 2 - np.array([[1], [3]]))
    np.testing.assert_allclose(twin["exponential"](mine, np.float32(2), 1, 3), tile_with(power), rtol=1e-5)
    assert np.array_equal(twin["scale_rows"](mine, np.float32(2), np.float32(4)), tile_with(part * [[2], [4]]))
    sloped = part + np.float32(0.3) * (np.array(columns, np.float32) - 2)  # 2: this thread's first column
    np.testing.assert_allclose(twin["slope_columns"](mine, np.float32(0.3)), tile_with(sloped), rtol=1e-6)
    assert not twin_of(fragment.make_pack_nothing(n // 2))(mine, 0).any()
    packed = twin_of(fragment.make_pack(n // 2, dtype))(mine)
    assert np.array_equal(packed.view(half), mine.astype(half)) and packed.dtype == np.uint32
