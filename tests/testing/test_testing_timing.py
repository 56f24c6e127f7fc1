"""The timing's order of events on a pretend device whose clock only moves when something runs."""
import subprocess
import sys
from types import SimpleNamespace

import pytest

from numba_fa.testing import median_time


class PretendDevice:
    """Stands in for torch: a log of what ran, and a clock in milliseconds that each piece of work
    advances."""

    def __init__(self):
        """An idle device at time 0."""
        self.log, self.now = [], 0.0
        self.uint8 = "uint8"
        self.cuda = SimpleNamespace(Event=self.event, synchronize=lambda: self.log.append("synchronize"))

    def empty(self, nbytes, dtype, device):
        """A buffer whose zero_ takes 100 ms."""
        assert (dtype, device) == ("uint8", "cuda")
        self.buffer_bytes = nbytes
        return SimpleNamespace(zero_=lambda: self.work("flush", 100.0))

    def event(self, enable_timing):
        """An event that remembers the clock."""
        assert enable_timing
        event = SimpleNamespace(time=None)
        event.record = lambda: setattr(event, "time", self.now)
        event.elapsed_time = lambda end: self.elapsed(event, end)
        return event

    def elapsed(self, start, end):
        """Milliseconds between two events, once the device has been waited for."""
        assert self.log[-1] == "synchronize"
        return end.time - start.time

    def work(self, name, duration):
        """Run something called name for duration milliseconds."""
        self.log.append(name)
        self.now += duration


@pytest.fixture
def device(monkeypatch):
    """A PretendDevice in torch's place."""
    device = PretendDevice()
    monkeypatch.setitem(sys.modules, "torch", device)
    return device


def test_functions_take_turns_and_each_finds_a_cold_cache(device):
    functions = {name: lambda name=name: device.work(name, 1.0) for name in ("a", "b")}
    median_time(functions, warmup=1, repeats=2)
    assert device.log == ["flush", "a", "flush", "b"] * 3 + ["synchronize"]
    assert device.buffer_bytes == 256 * 1024**2


def test_median_of_the_timed_rounds(device):
    """Warm-up rounds of 50 and 60 ms and the flush are left out; the outlier of 40 does not move the
    median."""
    durations = {"a": iter([50.0, 60.0, 1.0, 40.0, 2.0]), "b": iter([50.0, 60.0, 7.0, 6.0, 5.0])}
    functions = {name: lambda name=name: device.work(name, next(durations[name])) for name in durations}
    assert median_time(functions, warmup=2, repeats=3) == {"a": 2.0, "b": 6.0}


def test_no_repeats_is_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        median_time({}, warmup=0, repeats=0)


def test_importing_the_testing_tools_loads_no_framework():
    names = {"torch", "numba", "cupy", "jax", "reference"}
    code = f"import sys, numba_fa.testing; print({names} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
