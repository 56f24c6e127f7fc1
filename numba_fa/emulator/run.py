"""run_kernel: a kernel over its grid, block after block."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from numba_fa.emulator.arguments import bind
from numba_fa.emulator.block import Block
from numba_fa.emulator.memory import Address
from numba_fa.emulator.trace import Trace
from numba_fa.emulator.translate import Translator
from numba_fa.jit import KernelSource


def run_kernel(
    source: KernelSource,
    grid: tuple[int, int, int],
    arguments: tuple[Any, ...],
    *,
    seed: int = 0,
    early: bool = False,
    blocks: Iterable[tuple[int, int, int]] | None = None,
) -> Trace:
    """Run `source` over `grid` (x, y, z), or only its `blocks`; what it stores appears in the arguments' arrays.

    arguments, by the signature's tokens: "tensor_map" a TensorMap; "pointer" what GlobalMemory.pointer gave, or 0;
    "float32*", "uint16*" a FlatPointer, or an array to make one of; numbers as they are; then, one by one, the
    program's, NumPy arrays for its arrays. seed: order of threads and where shared memory starts.
    early: it may start before the kernels before it have ended, and must wait for them itself. Raises EmulationError
    (Deadlock, HazardError) for a wrong kernel, TypeError for arguments that do not follow the signature.
    """
    values = bind(source, arguments)
    memory = next((argument.memory for argument in arguments if isinstance(argument, Address)), None)
    kernel = Translator().function(source.function)
    trace = Trace()
    # As on the device, where no arithmetic traps: infinities and NaN are values.
    with np.errstate(all="ignore"):
        for index in blocks or itertools.product(*map(range, grid)):
            block = Block(
                tuple(index), grid, source.threads, source.shared_bytes, seed=seed, memory=memory, trace=trace, early=early,
            )  # fmt: skip
            block.run(kernel, values)
    return trace
