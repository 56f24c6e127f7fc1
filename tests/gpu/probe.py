"""Probe: a kernel around one instruction, with its inputs and what it must give; run in the emulator or on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from numba_fa.build.compiler import compile_kernel
from numba_fa.emulator import GlobalMemory, TensorMap, run_kernel
from numba_fa.jit import KernelSource


@dataclass(frozen=True)
class Box:
    """An argument: a tensor map of `array`, moving boxes of `rows` rows x 64 columns."""

    array: np.ndarray
    rows: int


@dataclass
class Probe:
    """arguments: arrays (pointers), Box (tensor maps) and numbers, by the source's signature; `truth` maps the position
    of an argument to what its array holds afterwards, computed without the emulator. rtol, atol: how far hardware may be
    from the emulator, and the emulator from the truth; 0 means the same bits, NaN for NaN.
    """

    name: str
    source: KernelSource
    arguments: list
    truth: dict[int, np.ndarray]
    rtol: float = 0
    atol: float = 0
    seed: int = field(default=0)
    grid: tuple[int, int, int] = (1, 1, 1)

    def check(self, found: dict[int, np.ndarray], wanted: dict[int, np.ndarray]) -> None:
        """AssertionError unless results agree."""
        for position, array in wanted.items():
            mine, other = (_comparable(x) for x in (found[position], array))
            if self.rtol or self.atol:
                np.testing.assert_allclose(mine, other, rtol=self.rtol, atol=self.atol)
            else:
                np.testing.assert_array_equal(mine, other)


def _comparable(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.kind not in "iuf" else array


def emulate(probe: Probe) -> dict[int, np.ndarray]:
    """The results, by the emulator."""
    memory = GlobalMemory()
    arrays: dict[int, np.ndarray] = {}
    values = []
    for position, (token, given) in enumerate(zip(probe.source.signature, probe.arguments, strict=True)):
        value = given
        if isinstance(given, Box):
            arrays[position] = given.array.copy()
            value = TensorMap(arrays[position], given.rows, 64)
        elif isinstance(given, np.ndarray):
            value = arrays[position] = given.copy()
            if token == "pointer":
                value = memory.pointer(value)
        values.append(value)
    run_kernel(probe.source, probe.grid, tuple(values), seed=probe.seed)
    return {position: arrays[position] for position in probe.truth}


def compile_source(source: KernelSource, name: str, arch: str = "sm_90a"):
    """The Artifact of a kernel that no dispatch key names."""
    return compile_kernel(SimpleNamespace(slug=name, mask="full", bias="none"), lambda _: source, arch)


def run_on_gpu(probe: Probe) -> dict[int, np.ndarray]:
    """The results, by the hardware: compiled, loaded, launched and waited for."""
    import torch

    from numba_fa.build.launch import make_launch
    from numba_fa.build.loader import _load
    from numba_fa.dispatch.device import device_of
    from numba_fa.dispatch.variant import TensorMap as LaunchMap
    from numba_fa.problem.arrays import ArrayView
    from tests.gpu.arrays import to_numpy, to_torch

    device = device_of("cuda:0")
    kernel = _load(compile_source(probe.source, probe.name, device.arch), device)
    tensors, values = {}, []
    for position, given in enumerate(probe.arguments):
        array = given.array if isinstance(given, Box) else given
        if not isinstance(array, np.ndarray):
            values.append(given)
            continue
        bits = array.view(np.float16) if array.dtype == np.uint16 else array
        tensor = tensors[position] = to_torch(np.array(bits, order="C"))
        if isinstance(given, Box):
            view = ArrayView(tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), str(array.dtype), 2, "cuda:0")
            values.append(LaunchMap(view, given.rows, 64))
        else:
            values.append(tensor.data_ptr())
    launch = make_launch(kernel, probe.source.signature, probe.grid, device)
    launch(tuple(values), torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    return {at: to_numpy(tensors[at]).view(truth.dtype).reshape(truth.shape) for at, truth in probe.truth.items()}
