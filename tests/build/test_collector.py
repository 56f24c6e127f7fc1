"""The collector rests while a kernel is compiled, and is as it was afterwards."""

import gc
import weakref

import pytest

from numba_fa.build.collector import collector_at_rest


class Ring:
    def __init__(self):
        self.me = self


@pytest.fixture(autouse=True)
def as_it_was():
    enabled = gc.isenabled()
    gc.enable()
    yield
    gc.unfreeze()
    (gc.enable if enabled else gc.disable)()


def test_no_collection_meanwhile_and_one_afterwards_frees():
    with collector_at_rest():
        assert not gc.isenabled()
        gone = weakref.ref(Ring())
    assert gc.isenabled() and gc.get_freeze_count() == 0
    gc.collect(0)
    assert gone() is not None, "what was allocated meanwhile is old"
    gc.collect()
    assert gone() is None


def test_one_within_another_and_an_error():
    with pytest.raises(ZeroDivisionError), collector_at_rest():
        with collector_at_rest():
            pass
        assert not gc.isenabled()
        raise ZeroDivisionError
    assert gc.isenabled()


def test_who_has_disabled_it_finds_it_so():
    gc.disable()
    with collector_at_rest():
        pass
    assert not gc.isenabled()


def test_what_somebody_has_frozen_stays_frozen():
    ring = Ring()
    gc.freeze()
    kept = weakref.ref(ring)
    del ring
    with collector_at_rest():
        pass
    gc.collect()
    assert kept() is not None, "the collector came to what was frozen"
    assert gc.isenabled()
    gc.unfreeze()
    gc.collect()
    assert kept() is None
