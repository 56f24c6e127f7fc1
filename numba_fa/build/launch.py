"""Launching: a parameter block packed by one struct call, tensor maps by value, one driver call.

cuda.core's own launch takes no 128-byte tensor map but its own, which it makes from arrays that name their dtype and
lie as it likes; so cuda.core loads, and the driver launches (docs/adr/0003).
"""

from __future__ import annotations

import ctypes
import math
import struct
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from numba_fa.build.driver import check
from numba_fa.build.loader import LoadedKernel
from numba_fa.dispatch.device import Device
from numba_fa.dispatch.variant import TensorMap
from numba_fa.problem.arrays import ArrayView

# token -> (struct format, size and alignment in bytes)
_PACKING = {
    "tensor_map": ("128s", 128, 64),
    "pointer": ("q", 8, 8),
    "int64": ("q", 8, 8),
    "int32": ("i", 4, 4),
    "float32": ("f", 4, 4),
    "float32*": ("q", 8, 8),
    "uint16*": ("q", 8, 8),
}


def _packing(token: str) -> list[tuple[str, int, int]]:
    """How a token is packed: one entry a kernel parameter, of which an array is several (`jit.TOKENS`)."""
    if token.startswith("array:"):
        return [_PACKING["int64"]] * (5 + 2 * int(token.rpartition(":")[2]))
    return [_PACKING[token]]


def flattened(values: tuple[Any, ...]) -> list[Any]:
    """Parameter values with each array (an ArrayView) as Numba lays it out."""
    flat: list[Any] = []
    for value in values:
        if isinstance(value, ArrayView):
            strides = [stride * value.itemsize for stride in value.strides]
            flat += [0, 0, math.prod(value.shape), value.itemsize, value.pointer, *value.shape, *strides]
        else:
            flat.append(value)
    return flat


class ParameterBlock(threading.local):
    """A kernel's parameters in memory, one block a thread, with the table of pointers that the driver wants."""

    def __init__(self, signature: tuple[str, ...]) -> None:
        offset, layout, offsets = 0, "<", []
        for code, size, alignment in (packing for token in signature for packing in _packing(token)):
            padding = -offset % alignment
            layout += f"{padding}x{code}" if padding else code
            offset += padding
            offsets.append(offset)
            offset += size
        self._struct = struct.Struct(layout)
        self._memory = ctypes.create_string_buffer(offset + 64)
        self._start = -ctypes.addressof(self._memory) % 64
        base = ctypes.addressof(self._memory) + self._start
        self._pointers = (ctypes.c_void_p * len(offsets))(*[base + at for at in offsets])
        self.address = ctypes.addressof(self._pointers)

    def fill(self, values: tuple[Any, ...]) -> None:
        """Write the parameters; the driver copies them at the launch."""
        self._struct.pack_into(self._memory, self._start, *flattened(values))


def make_launch(
    kernel: LoadedKernel, signature: tuple[str, ...], grid: tuple[int, int, int], device: Device
) -> Callable[[tuple[Any, ...], int], None]:
    """launch(arguments, stream): enqueue the kernel on a stream's handle. Allocates nothing on the device."""
    from cuda.bindings import driver

    block = ParameterBlock(signature)
    maps = [i for i, token in enumerate(signature) if token == "tensor_map"]
    threads, shared, function = kernel.artifact.threads, kernel.artifact.shared_bytes, kernel.handle
    make_current = _make_current(device)

    def launch(arguments: tuple[Any, ...], stream: int) -> None:
        if maps:
            values = list(arguments)
            for i in maps:
                values[i] = encode(values[i])
            block.fill(tuple(values))
        else:
            block.fill(arguments)
        make_current()
        result = driver.cuLaunchKernel(function, *grid, threads, 1, 1, shared, stream, block.address, 0)
        if result[0].value:
            check(result)

    return launch


def _make_current(device: Device) -> Callable[[], None]:
    """A function that makes the device's primary context current if another is."""
    from cuda.bindings import driver
    from cuda.core import Device as CudaDevice

    context = int(check(driver.cuDevicePrimaryCtxRetain(device.ordinal)))

    def make_current() -> None:
        if int(driver.cuCtxGetCurrent()[1]) != context:
            CudaDevice(device.ordinal).set_current()

    return make_current


@lru_cache(maxsize=4096)
def encode(tensor_map: TensorMap) -> bytes:
    """The 128 bytes of a TMA descriptor: 128-byte swizzle, zeros outside the tensor."""
    from cuda.bindings import driver as d

    view = tensor_map.view
    size, itemsize = d.cuuint64_t, view.itemsize
    batch, seqlen, heads, head_dim = view.shape
    # An axis of length 1 is never stepped along, but its stride must still be a positive multiple of 16.
    strides = [
        stride * itemsize if length > 1 else 16
        for length, stride in zip((seqlen, heads, batch), (view.strides[1], view.strides[2], view.strides[0]), strict=True)
    ]
    kinds = d.CUtensorMapDataType
    encoded = check(
        d.cuTensorMapEncodeTiled(
            kinds.CU_TENSOR_MAP_DATA_TYPE_FLOAT16 if view.dtype == "float16" else kinds.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            4,
            view.pointer,
            [size(n) for n in (head_dim, seqlen, heads, batch)],
            [size(n) for n in strides],
            [d.cuuint32_t(n) for n in (tensor_map.columns, tensor_map.rows, 1, 1)],
            [d.cuuint32_t(1)] * 4,
            d.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            d.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B,
            d.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            d.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    )
    return struct.pack("<16Q", *[int(word) for word in encoded.opaque])
