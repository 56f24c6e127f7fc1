"""The Hopper forward where biases are a line over a tile's keys: steep ones, of which most tiles are out of sight."""

import ml_dtypes
import numpy as np
import pytest

import numba_fa
import reference
from numba_fa.testing.inputs import DTYPES, random_qkv
from numba_fa.testing.tolerance import assert_close
from tests.declared import bias_truth, mask_truth

# head 0: all weights are 0 a few keys away; head 1: all keys count; head 2: slopes may be negative
SLOPES = np.array([4.0, 0.01, -0.02], np.float32)
TILES = [(128, 32, 2), (192, 32, 2)]  # two consumers that take turns; three


# Far from the queries one bucket, of which most tiles are.
T5 = [numba_fa.T5Bias(np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32) * 3, 20, bidirectional=way)
      for way in (True, False)]  # fmt: skip


def emulated(arrays, mask, tile):
    return numba_fa.emulate(*arrays, mask=mask, bias=numba_fa.ALiBi(SLOPES), family="sm90", tile=tile, multiprocessors=1)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("mask", ["full", "causal"])
def test_steep_and_flat_slopes(mask, tile):
    arrays = random_qkv(1, 200, 224, 3, 1, 16, "bfloat16", seed=1)
    got = emulated(arrays, mask, tile)
    truth = {"mask": mask, "bias": [bias_truth(numba_fa.ALiBi(SLOPES), 200, 224)]}
    out, lse = reference.attention(*arrays, **truth)
    naive = reference.attention_rounded(*arrays, dtype="bfloat16", **truth)[0]
    assert_close(got.out.astype(np.float64), got.lse, out, lse, naive, DTYPES["bfloat16"])


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("mask", ["full", "causal", numba_fa.KeyPadding(np.array([170], np.int32))])
@pytest.mark.parametrize("bias", [*T5, (T5[0], numba_fa.ALiBi(SLOPES))], ids=["both-ways", "one-way", "alibi"])
def test_t5_far_from_the_queries(bias, mask, tile):
    arrays = random_qkv(1, 200, 224, 3, 1, 16, "bfloat16", seed=2)
    got = numba_fa.emulate(*arrays, mask=mask, bias=bias, family="sm90", tile=tile, multiprocessors=1)
    biases = bias if isinstance(bias, tuple) else (bias,)
    truth = {"mask": mask_truth(mask, 200, 224), "bias": [bias_truth(each, 200, 224) for each in biases]}
    out, lse = reference.attention(*arrays, **truth)
    naive = reference.attention_rounded(*arrays, dtype="bfloat16", **truth)[0]
    assert_close(got.out.astype(np.float64), got.lse, out, lse, naive, DTYPES["bfloat16"])


@pytest.mark.parametrize("tile", TILES)
def test_nan_out_of_sight_is_seen(tile):
    """A key that is NaN makes every row NaN, also where its tile's other exponentials are all 0."""
    q, k, v = random_qkv(1, 128, 160, 3, 3, 16, "bfloat16")
    k[0, 3, 0] = ml_dtypes.bfloat16(np.nan)
    out = emulated((q, k, v), "full", tile).out.astype(np.float32)
    assert np.isnan(out[:, :, 0]).all() and not np.isnan(out[:, :, 1:]).any()


@pytest.mark.parametrize("scale", [1e-30, 3.0])
def test_any_scale(scale):
    """Scores are divided by it after a bias."""
    arrays = random_qkv(1, 64, 128, 3, 1, 16, "bfloat16")
    got = numba_fa.emulate(*arrays, bias=numba_fa.ALiBi(SLOPES), scale=scale, family="sm90", tile=TILES[0])
    out, lse = reference.attention(*arrays, bias=[bias_truth(numba_fa.ALiBi(SLOPES), 64, 128)], scale=scale)
    np.testing.assert_allclose(got.out.astype(np.float64), out, atol=0.02)
    np.testing.assert_allclose(got.lse, lse, rtol=1e-5, atol=1e-5)
