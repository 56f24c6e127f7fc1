"""A right pipeline runs under every order of threads; each step left out is found."""

import numpy as np
import pytest

from numba_fa.emulator import Deadlock, EmulationError, HazardError
from tests.emulator.pipeline import TILE, TILES, run_products

SEEDS = range(6)


@pytest.mark.parametrize("seed", SEEDS)
def test_right_pipeline(seed):
    out, truth, trace = run_products(seed)
    np.testing.assert_allclose(out, truth, rtol=1e-3, atol=1e-3)
    assert trace.bytes_loaded == 2 * TILE * TILES
    assert trace.bytes_stored == TILE * TILES
    assert trace.tensor_operations == {1: 2 * 64 * 64 * 64 * TILES}
    assert trace.count("mbarrier_phase") == 2 * TILES
    assert trace.count("store_at_exit") == 1  # the last store is left to the block's end


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"omit": "full wait"}, EmulationError, "nothing has written|in flight"),
        ({"omit": "wgmma wait"}, HazardError, "read before its wait|a wgmma in flight"),
        ({"early_release": True}, HazardError, "a wgmma in flight"),
        ({"omit": "empty wait"}, EmulationError, "in flight|changed|more than its"),
        ({"omit": "proxy fence"}, HazardError, "without fence_proxy_async"),
        ({"omit": "read wait"}, HazardError, "may still be reading"),
        ({"omit": "commit"}, HazardError, "may still be reading"),
        ({"omit": "init fence"}, HazardError, "without fence_mbarrier_init"),
        ({"bytes_expected": 2 * TILE + 16}, Deadlock, r"thread.* 128\.\.255 wait for mbarrier 0 .* parity 0"),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1])
def test_bug_found_under_every_order(changes, error, words, seed):
    with pytest.raises(error, match=words):
        run_products(seed, **changes)


@pytest.mark.parametrize("omit", ["init barrier", "room barrier", "store barrier"])
def test_missing_rendezvous_found_under_some_order(omit):
    """Whether threads that nothing orders collide is up to the order; some seed must show it."""
    found = 0
    for seed in SEEDS:
        try:
            run_products(seed, omit=omit)
        except EmulationError:
            found += 1
    assert found
