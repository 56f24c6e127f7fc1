"""Between scalars, Numba's numbers and LLVM values: casts, constants, reading and packing."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.cuda import types
from numba.cuda.cudaimpl import registry as lowering

from numba_fa.scalar.term import BOOL, F32, I32, Term, Whole
from numba_fa.scalar.types import DualType, IndexType, RealType, ScalarType, StoredType

__all__ = ["as_scalar", "packed", "paired", "read"]

_ZERO = ir.Constant(F32, 0.0)


def read(builder: Any, numba_type: Any, value: Any) -> Any:
    """A Term or Whole of a scalar's LLVM value, two Terms of a Dual's, the int of a literal."""
    if isinstance(numba_type, types.Literal):
        return numba_type.literal_value
    if isinstance(numba_type, DualType):
        return Term(builder, _part(builder, value, 0)), Term(builder, _part(builder, value, 1))
    if not isinstance(numba_type, IndexType):
        return Term(builder, value)
    return Whole(builder, *[_part(builder, value, place) for place in range(3)])


def _part(builder: Any, pair: Any, which: int) -> Any:
    """One of the values in an Index or a Dual."""
    known = getattr(pair, "parts", None)  # saves unpacking what was packed a line ago
    if known is None and isinstance(pair, ir.Constant) and isinstance(pair.constant, list | tuple):
        known = pair.constant
    return known[which] if known is not None else builder.extract_value(pair, which)


def paired(builder: Any, *parts: Any) -> Any:
    """An Index of its three values, or a Dual of its two."""
    kind = ir.LiteralStructType([part.type for part in parts])
    if all(isinstance(part, ir.Constant) for part in parts):
        return ir.Constant(kind, parts)
    value = ir.Constant(kind, ir.Undefined)
    for place, part in enumerate(parts):
        value = builder.insert_value(value, part, place)
    value.parts = parts
    return value


def packed(builder: Any, numba_type: Any, result: Any) -> Any:
    """The LLVM value of a Term, a Whole or a Dual's two Terms as `numba_type`, a scalar or boolean."""
    if isinstance(numba_type, DualType):
        return paired(builder, result[0].value, result[1].value)
    if isinstance(numba_type, IndexType):
        return paired(builder, result.n, result.base, result.rest)
    return (result.real if isinstance(result, Whole) else result).value


def _real_of(builder: Any, numba_type: Any, value: Any) -> Any:
    """A number as float32."""
    if isinstance(value, ir.Constant) and isinstance(value.constant, int | float) and not isinstance(numba_type, _SHORT):
        return ir.Constant(F32, float(np.float32(value.constant)))
    if isinstance(numba_type, types.Boolean):
        return builder.uitofp(_bit(builder, value), F32)
    if isinstance(numba_type, types.Integer):
        return _whole_of(builder, numba_type, value).f
    if numba_type == types.float64:
        return builder.fptrunc(value, F32)
    if numba_type == types.float32:
        return value
    if numba_type == types.float16:
        return builder.fpext(builder.bitcast(value, ir.HalfType()), F32)
    return builder.bitcast(builder.shl(builder.zext(value, I32), ir.Constant(I32, 16)), F32)  # bfloat16


_SHORT = (type(types.bfloat16),)


def _whole_of(builder: Any, numba_type: Any, value: Any) -> Whole:
    """An integer or truth value as a Whole; its float32 comes from the integer as it was, however wide."""
    if isinstance(value, ir.Constant) and isinstance(value.constant, int | bool):
        return Whole.of(builder, int(value.constant))
    if isinstance(numba_type, types.Boolean):
        bit = _bit(builder, value)
        return Whole(builder, builder.zext(bit, I32), builder.uitofp(bit, F32))
    convert = builder.sitofp if numba_type.signed else builder.uitofp
    if value.type.width > 32:
        n = builder.trunc(value, I32)
    else:
        extend = builder.sext if numba_type.signed else builder.zext
        n = value if value.type == I32 else extend(value, I32)
        value = n
    return Whole(builder, n, convert(value, F32))


def _bit(builder: Any, value: Any) -> Any:
    return value if value.type == BOOL else builder.trunc(value, BOOL)


@lowering.lower_cast(types.Integer, RealType)
@lowering.lower_cast(types.Float, RealType)
@lowering.lower_cast(types.Boolean, RealType)
@lowering.lower_cast(type(types.bfloat16), RealType)
def _number_to_real(context: Any, builder: Any, source: Any, target: Any, value: Any) -> Any:
    return _real_of(builder, types.unliteral(source), value)


@lowering.lower_cast(types.Integer, IndexType)
@lowering.lower_cast(types.Boolean, IndexType)
def _number_to_index(context: Any, builder: Any, source: Any, target: Any, value: Any) -> Any:
    return packed(builder, target, _whole_of(builder, types.unliteral(source), value))


@lowering.lower_cast(types.Integer, DualType)
@lowering.lower_cast(types.Float, DualType)
@lowering.lower_cast(types.Boolean, DualType)
@lowering.lower_cast(type(types.bfloat16), DualType)
@lowering.lower_cast(RealType, DualType)
@lowering.lower_cast(IndexType, DualType)
@lowering.lower_cast(StoredType, DualType)
def _to_dual(context: Any, builder: Any, source: Any, target: Any, value: Any) -> Any:
    """What does not depend on the score."""
    return paired(builder, context.cast(builder, value, source, RealType()), _ZERO)


@lowering.lower_cast(DualType, DualType)
@lowering.lower_cast(RealType, RealType)
@lowering.lower_cast(IndexType, IndexType)
def _same(context: Any, builder: Any, source: Any, target: Any, value: Any) -> Any:
    return value


@lowering.lower_cast(IndexType, RealType)
def _index_to_real(context: Any, builder: Any, source: Any, target: Any, value: Any) -> Any:
    return read(builder, source, value).f


@lowering.lower_cast(RealType, IndexType)
def _real_to_index(context: Any, builder: Any, source: Any, target: Any, value: Any) -> Any:
    return packed(builder, target, Whole.of(builder, builder.fptosi(value, I32)))


@lowering.lower_cast(RealType, types.Float)
@lowering.lower_cast(RealType, types.Integer)
def _real_to_number(context: Any, builder: Any, source: Any, target: Any, value: Any) -> Any:
    return context.cast(builder, value, types.float32, target)


@lowering.lower_cast(IndexType, types.Integer)
def _index_to_integer(context: Any, builder: Any, source: Any, target: Any, value: Any) -> Any:
    # A position goes into 64 bits as an unsigned number, which spares addresses the sign's upper half.
    kind = types.uint32 if source.natural else types.int32
    return context.cast(builder, read(builder, source, value).n, kind, target)


@lowering.lower_cast(IndexType, types.Float)
def _index_to_float(context: Any, builder: Any, source: Any, target: Any, value: Any) -> Any:
    return context.cast(builder, read(builder, source, value).f, types.float32, target)


@lowering.lower_cast(StoredType, types.Type)
def _stored_to_other(context: Any, builder: Any, source: Any, target: Any, value: Any) -> Any:
    """Through the number it is stored as."""
    if isinstance(target, RealType):
        return _real_of(builder, source.storage, value)
    if isinstance(target, IndexType):
        if isinstance(source.meaning, RealType):
            return _real_to_index(context, builder, RealType(), target, _real_of(builder, source.storage, value))
        return packed(builder, target, _whole_of(builder, source.storage, value))
    if isinstance(target, types.Integer | types.Float):
        meaning = source.meaning
        return context.cast(builder, _stored_to_other(context, builder, source, meaning, value), meaning, target)
    raise NotImplementedError(f"cannot cast {source} to {target}")


@lowering.lower_constant(StoredType)
def _stored_constant(context: Any, builder: Any, numba_type: Any, value: Any) -> Any:
    return context.get_constant(numba_type.storage, value)


def as_scalar(context: Any, builder: Any, source: Any, target: Any, value: Any) -> Any:
    """A launch argument's value as `types.scalar_of` types it; an array keeps its representation."""
    if isinstance(target, ScalarType):
        return context.cast(builder, value, source, target)
    return value
