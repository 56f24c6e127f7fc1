"""Runs a kernel's own Python source on the CPU, one greenlet a CUDA thread, with the hardware's meaning.

    memory = GlobalMemory()
    trace = run_kernel(make_forward(key), grid, (TensorMap(q, 128, 64), ..., memory.pointer(lse), ...), seed=1)

What is asynchronous happens at the last legal moment, what is in flight cannot be read, and threads take turns in an
order drawn from `seed`: a missing wait, a stage released too early or a skipped fence is an error, not luck.
"""

from numba_fa.emulator.errors import Deadlock, EmulationError, HazardError
from numba_fa.emulator.memory import FlatPointer, GlobalMemory, TensorMap
from numba_fa.emulator.run import run_kernel
from numba_fa.emulator.trace import Event, Summary, Trace

__all__ = [
    "Deadlock",
    "EmulationError",
    "Event",
    "FlatPointer",
    "GlobalMemory",
    "HazardError",
    "Summary",
    "TensorMap",
    "Trace",
    "run_kernel",
]
