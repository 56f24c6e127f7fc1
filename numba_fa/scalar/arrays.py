"""Reading the arrays of a user function: read-only global memory, whose loads may move out of loops.

Offsets are counted in 64 bits, but the last index times its stride in one multiplication of 32: the last axis's stride
must be below 2**31 bytes.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.cudaimpl import registry as lowering

from numba_fa.scalar.convert import read
from numba_fa.scalar.term import I32, I64
from numba_fa.scalar.types import IndexType, ScalarArray, ScalarType

__all__ = ["MULTIPLY_ADD"]

MULTIPLY_ADD = "mad.wide.s32 $0, $1, $2, $3;"
_GLOBAL = 1  # LLVM's address space


@lowering.lower(operator.getitem, ScalarArray, types.BaseTuple)
@lowering.lower(operator.getitem, ScalarArray, types.Integer)
@lowering.lower(operator.getitem, ScalarArray, ScalarType)
def _element(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    """array[indices], all of them integers: one element."""
    array_type, index_type = sig.args
    array, index = args
    kinds, values = [index_type], [index]
    if isinstance(index_type, types.BaseTuple):
        kinds, values = list(index_type), [builder.extract_value(index, k) for k in range(len(index_type))]
    model = context.data_model_manager[array_type]
    data, shape, strides = (builder.extract_value(array, model.get_field_position(n)) for n in ("data", "shape", "strides"))
    address = builder.ptrtoint(builder.addrspacecast(data, data.type.pointee.as_pointer(_GLOBAL)), I64)
    for axis, (kind, value) in enumerate(zip(kinds, values, strict=True)):
        place = _place(context, builder, kind, value, builder.extract_value(shape, axis))
        stride = builder.extract_value(strides, axis)
        if axis < len(kinds) - 1:
            address = builder.add(address, builder.mul(builder.sext(place, I64), stride))
        else:
            address = _multiply_add(builder, place, builder.trunc(stride, I32), address)
    pointer = builder.inttoptr(address, data.type.pointee.as_pointer(_GLOBAL))
    raw = builder.load(pointer)
    raw.set_metadata("invariant.load", builder.module.add_metadata([]))
    return context.data_model_manager[sig.return_type].from_data(builder, raw)


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, a and b of 32 bits: LLVM would not see that one instruction does it."""
    function = ir.FunctionType(I64, [I32, I32, I64])
    assembly = ir.InlineAsm(function, MULTIPLY_ADD, "=l,r,r,l", side_effect=False)
    return builder.call(assembly, [a, b, c], attrs=("readnone", "nounwind"))


def _place(context: Any, builder: Any, kind: Any, value: Any, length: Any) -> Any:
    """An index as i32, counted from the end when it is negative."""
    if isinstance(kind, types.Literal):
        value = ir.Constant(I32, kind.literal_value)
    else:
        value = read(builder, IndexType(), context.cast(builder, value, kind, IndexType())).n
    if isinstance(kind, IndexType) and kind.natural or isinstance(kind, types.Literal) and kind.literal_value >= 0:
        return value
    negative = builder.icmp_signed("<", value, ir.Constant(I32, 0))
    return builder.select(negative, builder.add(value, builder.trunc(length, I32)), value)


@lowering.lower_cast(ScalarArray, types.Array)
def _as_plain_array(context: Any, builder: Any, source: Any, target: Any, value: Any) -> Any:
    return value
