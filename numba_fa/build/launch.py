"""Launching: a parameter block in memory, of which a launch rewrites the addresses alone; one driver call.

cuda.core's own launch takes no 128-byte tensor map but its own, which it makes from arrays that name their dtype and
lie as it likes; so cuda.core loads, and the driver launches (docs/adr/0003).
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from numba_fa.build.driver import entry_point, settle
from numba_fa.build.graph import NodeParams, make_graph_launch
from numba_fa.build.loader import LoadedKernel
from numba_fa.build.tensor_map import encoder
from numba_fa.dispatch.addresses import place_of
from numba_fa.dispatch.device import Device
from numba_fa.dispatch.variant import TensorMap
from numba_fa.problem.arrays import ArrayView

Launch = Callable[[tuple[int, ...], int], None]  # (addresses, stream)

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
_POINTER_IN_ARRAY = 4  # of an array's parameters: 0, 0, elements, bytes of one, address, shape, strides
# Tensor maps kept for each array of a plan. Allocators hand out the same few addresses again and again.
_MAPS_KEPT = 256


def _packing(token: str) -> list[tuple[str, int, int]]:
    """How a token is packed: one entry a kernel parameter, of which an array is several (`jit.TOKENS`)."""
    if token.startswith("array:"):
        return [_PACKING["int64"]] * (5 + 2 * int(token.rpartition(":")[2]))
    return [_PACKING[token]]


class ParameterBlock:
    """A kernel's parameters in memory, with the table of pointers that the driver wants.

    memory, words: the parameters as bytes and as 8-byte integers. offsets: where each parameter is, in bytes.
    addresses: the arrays' addresses that the block holds now. table: the table, as ctypes passes it.
    """

    def __init__(self, signature: tuple[str, ...]) -> None:
        offset, layout, self.offsets = 0, "<", []
        for code, size, alignment in (packing for token in signature for packing in _packing(token)):
            padding = -offset % alignment
            layout += f"{padding}x{code}" if padding else code
            self.offsets.append(offset + padding)
            offset += padding + size
        self._struct = struct.Struct(layout)
        self._buffer = ctypes.create_string_buffer(offset + 128)
        start = -ctypes.addressof(self._buffer) % 64
        base = ctypes.addressof(self._buffer) + start
        self.memory = memoryview(self._buffer).cast("B")[start : start + offset + -offset % 8]
        self.words = self.memory.cast("q")
        self._pointers = (ctypes.c_void_p * len(self.offsets))(*[base + at for at in self.offsets])
        self.address = ctypes.addressof(self._pointers)
        self.table = ctypes.byref(self._pointers)
        self.addresses: tuple[int, ...] | None = None

    def fill(self, values: tuple[Any, ...]) -> None:
        """Write all parameters; the driver copies them at the launch."""
        self._struct.pack_into(self.memory, 0, *_flattened(values))


def _flattened(values: tuple[Any, ...]) -> list[Any]:
    """Parameter values with each array (an ArrayView) as Numba lays it out."""
    flat: list[Any] = []
    for value in values:
        if isinstance(value, ArrayView):
            strides = [stride * value.itemsize for stride in value.strides]
            flat += [0, 0, math.prod(value.shape), value.itemsize, value.pointer, *value.shape, *strides]
        else:
            flat.append(value)
    return flat


class Template:
    """Parameters of which only addresses change. Makes blocks that hold the rest, and writes addresses into them."""

    def __init__(self, signature: tuple[str, ...], arguments: tuple[Any, ...]) -> None:
        self._signature = signature
        self._constants = tuple(_encoded(a) if isinstance(a, TensorMap) else a for a in arguments)
        self._words: list[tuple[int, int]] = []  # (8-byte word, which address)
        self._maps: list[tuple[slice, int, Callable[[int], bytes]]] = []
        offsets, at = ParameterBlock(signature).offsets, 0
        for token, argument in zip(signature, arguments, strict=True):
            place = place_of(argument)
            if place is not None and isinstance(argument, TensorMap):
                encode = lru_cache(_MAPS_KEPT)(encoder(argument))
                self._maps.append((slice(offsets[at], offsets[at] + 128), place.index, encode))
            elif place is not None:
                word = at + (_POINTER_IN_ARRAY if isinstance(argument, ArrayView) else 0)
                self._words.append((offsets[word] // 8, place.index))
            at += len(_packing(token))

    def block(self) -> ParameterBlock:
        """A new block, complete but for the addresses."""
        block = ParameterBlock(self._signature)
        block.fill(self._constants)
        return block

    def write(self, block: ParameterBlock, addresses: tuple[int, ...]) -> None:
        """Write the addresses into one of its blocks, those that it holds already excepted."""
        before = block.addresses or (None,) * len(addresses)
        block.addresses = None  # should this be interrupted
        words, memory = block.words, block.memory
        for word, index in self._words:
            if addresses[index] != before[index]:
                words[word] = addresses[index]
        for room, index, encode in self._maps:
            if addresses[index] != before[index]:
                memory[room] = encode(addresses[index])
        block.addresses = addresses


def _encoded(tensor_map: TensorMap) -> bytes:
    """A map's bytes; zeros while its address is not known."""
    return bytes(128) if place_of(tensor_map) is not None else encoder(tensor_map)(tensor_map.view.pointer)


class LaunchConfig(ctypes.Structure):
    """CUlaunchConfig of cuda.h."""

    _fields_ = (
        ("x", ctypes.c_uint), ("y", ctypes.c_uint), ("z", ctypes.c_uint), ("threads", ctypes.c_uint),
        ("threads_y", ctypes.c_uint), ("threads_z", ctypes.c_uint), ("shared", ctypes.c_uint),
        ("stream", ctypes.c_uint64), ("attributes", ctypes.c_void_p), ("attribute_count", ctypes.c_uint),
    )  # fmt: skip


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute of cuda.h, of a kind whose value is an int."""

    _fields_ = (("kind", ctypes.c_int), ("_", ctypes.c_int), ("value", ctypes.c_int), ("_rest", ctypes.c_char * 60))


# CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION: the kernel before lets this one start, and this one waits itself.
_EARLY = _Attribute(6, 0, 1)


class _Caller:
    """What one launch at a time needs of its own: parameters, the configuration, and the same for a graph's node."""

    __slots__ = ("block", "config", "config_at", "here", "here_at", "node_at")

    def __init__(self, block: ParameterBlock, config: LaunchConfig, node: NodeParams) -> None:
        self.block, self.config, self.config_at = block, config, ctypes.byref(config)
        self.node_at, self.here = ctypes.byref(node), ctypes.c_uint64()
        self.here_at = ctypes.byref(self.here)


def make_prepare(
    kernel: LoadedKernel, signature: tuple[str, ...], grid: tuple[int, int, int], device: Device, early: bool = False,
    by_graph: bool = False,
) -> Callable[[tuple[Any, ...]], Launch]:
    """prepare(arguments with an Address for each address) -> launch(addresses, stream): enqueue on a stream's handle.

    early: as `Variant.early`. by_graph: on the legacy stream it goes as a graph, which nothing can follow early.
    Allocates nothing on the device, and leaves the thread's current device as it is. Threads may launch at once: each takes
    a caller, with parameters, out of a pool.
    """
    launch_kernel = entry_point("cuLaunchKernelEx", 12000, True)
    enqueue = make_graph_launch(kernel) if by_graph else None
    function = ctypes.c_void_p.from_param(int(kernel.handle))
    shape = (*grid, kernel.artifact.threads, 1, 1, kernel.artifact.shared_bytes)
    attributes = (ctypes.addressof(_EARLY), 1) if early else ()

    def prepare(arguments: tuple[Any, ...]) -> Launch:
        template = Template(signature, arguments)
        write = template.write

        def caller() -> _Caller:
            block = template.block()
            node = NodeParams(int(kernel.handle), *shape, block.address)
            return _Caller(block, LaunchConfig(*shape, 0, *attributes), node)

        pool = [caller()]

        def launch(addresses: tuple[int, ...], stream: int) -> None:
            try:
                mine = pool.pop()
            except IndexError:
                mine = caller()
            block = mine.block
            if block.addresses != addresses:
                write(block, addresses)
            if stream or enqueue is None or not enqueue(mine):
                mine.config.stream = stream
                fault = launch_kernel(mine.config_at, function, block.table, None)
                if fault:
                    settle(fault, device.ordinal, launch_kernel, mine.config_at, function, block.table, None)
            pool.append(mine)

        return launch

    return prepare


def make_launch(
    kernel: LoadedKernel, signature: tuple[str, ...], grid: tuple[int, int, int], device: Device
) -> Callable[[tuple[Any, ...], int], None]:
    """launch(arguments, stream): enqueue a kernel that is launched once or a few times."""
    prepare = make_prepare(kernel, signature, grid, device)

    def launch(arguments: tuple[Any, ...], stream: int) -> None:
        prepare(arguments)((), stream)

    return launch
