"""A program's launch arguments in one int64 vector, so that kernels of any program have one type.

Packed by token as on a GPU: a number in 8 bytes, an array as Numba's own array structure (meminfo, parent, nitems,
itemsize, address, shape, strides in bytes), each member in 8 bytes.
"""

import operator
import struct

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, make_attribute_wrapper, models, overload, overload_attribute, register_model
from numba.np.numpy_support import from_dtype

from numba_fa.kernels.cpu.convert import bfloat16_to_float32, float16_to_float32

PACKED = types.Array(types.int64, 1, "C")
_WIDEN = {"bfloat16": bfloat16_to_float32, "float16": float16_to_float32}
_ARRAY_HEADER = 5


class HalfArray(types.Type):
    """An array of 16-bit floats, held as uint16 patterns, whose elements are read as float32.

    The CPU target has no arithmetic on float16 and no bfloat16 at all.
    """

    def __init__(self, dtype_name, ndim):
        self.dtype_name, self.ndim = dtype_name, ndim
        self.patterns = _array_type(types.uint16, ndim)
        super().__init__(f"HalfArray({dtype_name}, {ndim})")


@register_model(HalfArray)
class _HalfArrayModel(models.StructModel):
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, [("patterns", numba_type.patterns)])


make_attribute_wrapper(HalfArray, "patterns", "patterns")


@overload(operator.getitem)
def _read_half(array, index):
    if isinstance(array, HalfArray):
        widen = _WIDEN[array.dtype_name]
        return lambda array, index: widen(array.patterns[index])


@overload_attribute(HalfArray, "shape")
def _half_shape(array):
    return lambda array: array.patterns.shape


def _array_type(dtype, ndim):
    """A caller's array: any strides and alignment, never written."""
    return types.Array(dtype, ndim, "A", readonly=True, aligned=False)


class _Types(dict):
    """Numba's types of launch arguments by their kinds: "int32", "float32" or "array:<NumPy's dtype name>:<axes>"."""

    def __missing__(self, token):
        _, dtype_name, ndim = token.split(":")
        if dtype_name in _WIDEN:
            return HalfArray(dtype_name, int(ndim))
        return _array_type(from_dtype(np.dtype(dtype_name)), int(ndim))


TYPES = _Types(int32=types.int32, float32=types.float32)


def _slots(numba_type):
    """How many 8-byte slots an argument of a type takes."""
    return 1 if isinstance(numba_type, types.Number) else _ARRAY_HEADER + 2 * numba_type.ndim


def pack(tokens, values):
    """The int64 vector of `values`: numbers, and NumPy arrays (bfloat16 as uint16), which must outlive its use."""
    slots = []
    for token, value in zip(tokens, values, strict=True):
        if token == "int32":
            slots.append(int(value))
        elif token == "float32":
            slots.append(struct.unpack("<i", struct.pack("<f", value))[0])
        else:
            slots += [0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides]
    return np.array(slots, np.int64)


def make_unpack(tokens):
    """An intrinsic `unpack(vector)` that gives the arguments as one tuple, arrays as arrays."""
    return unpack_as([TYPES[token] for token in tokens])


def unpack_as(numba_types):
    """As `make_unpack`, of Numba's types."""
    members = types.Tuple(numba_types)

    @intrinsic
    def unpack(typing_context, vector):
        def codegen(context, builder, signature, args):
            start, values, position = context.make_array(signature.args[0])(context, builder, args[0]).data, [], 0
            for member in members:
                place = builder.gep(start, [ir.IntType(64)(position)])
                kind = context.get_value_type(member)
                values.append(builder.load(builder.bitcast(place, kind.as_pointer())))
                position += _slots(member)
            return context.make_tuple(builder, members, values)

        return members(vector), codegen

    return unpack
