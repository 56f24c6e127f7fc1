"""Kernels that may start before those before them have ended: what they touch before they have waited is an error."""

import numpy as np
import pytest
from numba import cuda

from numba_fa.emulator import GlobalMemory, HazardError, run_kernel
from numba_fa.jit import KernelSource, device
from numba_fa.kernels.sm90 import backward, backward_finish
from numba_fa.ptx.memory import st_global_f32
from numba_fa.ptx.order import grid_wait
from tests.emulator.attention_cases import Case
from tests.emulator.backward_cases import Problem, emulate, inputs


def run(function, early):
    room = np.zeros(32, np.float32)
    pointer = GlobalMemory().pointer(room)
    run_kernel(KernelSource(function, ("pointer",), 32, 0), (1, 1, 1), (pointer,), early=early)
    return room


def waits_first(room):
    grid_wait()
    st_global_f32(room + cuda.threadIdx.x * 4, 1)


def waits_last(room):
    st_global_f32(room + cuda.threadIdx.x * 4, 1)
    grid_wait()


def one_waits(room):
    if cuda.threadIdx.x == 0:
        grid_wait()
    cuda.syncthreads()
    st_global_f32(room + cuda.threadIdx.x * 4, 1)


@pytest.mark.parametrize("function", [waits_first, waits_last, one_waits])
def test_who_touches_global_memory_has_waited(function):
    if function is waits_first:
        assert (run(function, early=True) == 1).all()
        return
    with pytest.raises(HazardError, match="before it has waited for the kernels before"):
        run(function, early=True)
    assert (run(function, early=False) == 1).all()


@pytest.mark.parametrize("module", [backward, backward_finish], ids=lambda module: module.__name__.rpartition(".")[2])
def test_the_backward_needs_its_waits(monkeypatch, module):
    @device
    def nothing():
        pass

    problem = Problem(Case(70, 70, head_dim=64))
    arrays, _ = inputs(problem)
    emulate(problem, arrays)
    monkeypatch.setattr(module, "grid_wait", nothing)
    with pytest.raises(HazardError, match="before it has waited for the kernels before"):
        emulate(problem, arrays)
