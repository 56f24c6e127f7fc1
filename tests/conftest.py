"""What every test shares: a store of its own, and GPU tests only where there is a GPU."""

import os

import pytest


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs an NVIDIA GPU and torch")
    config.addinivalue_line("markers", "hopper: needs an sm_90 GPU and torch")


def pytest_collection_modifyitems(config, items):
    from numba_fa.adapters.linker import load_beside_older
    from numba_fa.build.driver import device_count

    load_beside_older()  # torch is imported by now, and tests that compile by themselves do not ask
    count = device_count()
    if count == 0 and os.environ.get("NUMBA_FA_REQUIRE_GPU") == "1":
        raise pytest.UsageError("NUMBA_FA_REQUIRE_GPU=1, but there is no GPU")
    for item in items:
        if count == 0 and ("gpu" in item.keywords or "hopper" in item.keywords):
            item.add_marker(pytest.mark.skip(reason="no GPU here"))


@pytest.fixture(scope="session", autouse=True)
def own_store(tmp_path_factory):
    """Compiled kernels of a test run stay out of the user's store, unless the run names one."""
    if "NUMBA_FA_CACHE_DIR" not in os.environ:
        os.environ["NUMBA_FA_CACHE_DIR"] = str(tmp_path_factory.mktemp("store"))
