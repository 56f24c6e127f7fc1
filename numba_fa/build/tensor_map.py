"""TMA descriptors: the driver writes them, for an address at a time."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from numba_fa.build.driver import entry_point, settle
from numba_fa.dispatch.variant import TensorMap


class _MapRoom:
    """Room for a tensor map: 128 bytes on a multiple of 64. at: where, as ctypes passes it."""

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(128 + 64)
        start = -ctypes.addressof(self._buffer) % 64
        self.memory = memoryview(self._buffer).cast("B")[start : start + 128]
        self.at = ctypes.byref(self._buffer, start)


def encoder(tensor_map: TensorMap) -> Callable[[int], bytes]:
    """A function from an address to the 128 bytes of a TMA descriptor: 128-byte swizzle, zeros outside the tensor."""
    from cuda.bindings import driver as d

    view = tensor_map.view
    itemsize = view.itemsize
    batch, seqlen, heads, head_dim = view.shape
    # An axis of length 1 is never stepped along, but its stride must still be a positive multiple of 16.
    strides = [
        stride * itemsize if length > 1 else 16
        for length, stride in zip((seqlen, heads, batch), (view.strides[1], view.strides[2], view.strides[0]), strict=True)
    ]
    kinds = d.CUtensorMapDataType
    kind = kinds.CU_TENSOR_MAP_DATA_TYPE_FLOAT16 if view.dtype == "float16" else kinds.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
    before = int(kind), 4
    after = (
        ctypes.byref((ctypes.c_uint64 * 4)(head_dim, seqlen, heads, batch)),
        ctypes.byref((ctypes.c_uint64 * 3)(*strides)),
        ctypes.byref((ctypes.c_uint32 * 4)(tensor_map.columns, tensor_map.rows, 1, 1)),
        ctypes.byref((ctypes.c_uint32 * 4)(1, 1, 1, 1)),
        int(d.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE),
        int(d.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B),
        int(d.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B),
        int(d.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
    )
    call, pointer = entry_point("cuTensorMapEncodeTiled", 12000, False), ctypes.c_void_p.from_param
    ordinal = int(view.device.removeprefix("cuda:"))
    rooms = [_MapRoom()]  # a thread takes one out

    def encode(address: int) -> bytes:
        try:
            room = rooms.pop()
        except IndexError:
            room = _MapRoom()
        fault = call(room.at, *before, pointer(address), *after)
        if fault:
            settle(fault, ordinal, call, room.at, *before, pointer(address), *after)
        encoded = room.memory.tobytes()
        rooms.append(room)
        return encoded

    return encode
