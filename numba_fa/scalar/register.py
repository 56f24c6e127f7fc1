"""Tells numba.cuda of the tables: one typing template a key, one lowering a signature of classes."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.cuda import types
from numba.cuda.cpython.rangeobj import make_range_impl
from numba.cuda.cudadecl import registry as typing
from numba.cuda.cudaimpl import registry as lowering
from numba.cuda.typing import signature
from numba.cuda.typing.builtins import NumberClassAttribute
from numba.cuda.typing.templates import AbstractTemplate

import numba_fa.scalar.arrays
import numba_fa.scalar.fold  # noqa: F401
from numba_fa.scalar.convert import packed, read
from numba_fa.scalar.derivative import refuse
from numba_fa.scalar.dual import differentiate, signature_of
from numba_fa.scalar.functions import FUNCTIONS
from numba_fa.scalar.operators import OPERATORS
from numba_fa.scalar.table import Row
from numba_fa.scalar.types import DualType, IndexType, RealType, ScalarArray, ScalarType, StoredType, family, joined

_FIRST = {"target": "cuda"}  # templates for this target are asked before generic ones


_OURS = (ScalarType, ScalarArray, types.BaseTuple)  # a tuple may hold them


def _template(key: Any, generic: Callable[..., Any], literal: bool = False, ours: tuple[Any, ...] = _OURS) -> None:
    """Register a typing template whose generic(context, args) gives a signature, or None for arguments not its own.

    ours: types of which one must be among the arguments.
    """

    def ask(self: Any, args: Any, kws: Any) -> Any:
        if kws or not any(isinstance(each, ours) for each in args):
            return None
        return generic(self.context, args)

    body = {"key": key, "generic": ask, "metadata": _FIRST, "prefer_literal": literal}
    typing.register_global(key, types.Function(type("Scalar", (AbstractTemplate,), body)))


def _typing_of(row: Row, key: Any) -> Callable[..., Any]:
    """(context, argument types) -> signature."""

    def generic(context: Any, args: Any) -> Any:
        if len(args) not in row.arities or not any(isinstance(each, ScalarType) for each in args):
            return None
        *others, last = args
        whole_literal = row.literal and isinstance(last, types.IntegerLiteral)
        meeting = joined(args)
        if meeting is None:
            return None
        if isinstance(meeting, DualType):
            return signature_of(row, key, meeting, args)
        is_index = isinstance(meeting, IndexType) and row.index is not None
        if is_index and row.index_exponents is not None:
            is_index = whole_literal and last.literal_value in row.index_exponents
        if not is_index and row.real is None:
            return None
        operand = IndexType() if is_index else meeting if isinstance(meeting, RealType) else RealType()
        result = {"truth": types.boolean, "whole": IndexType(), "number": operand}.get(row.gives)
        if result is None:
            result = operand if isinstance(operand, RealType) else RealType()
        wanted = [operand] * len(args)
        if whole_literal:
            wanted[-1] = last
        return signature(result, *wanted)

    return generic


def _lowering_of(row: Row) -> Callable[..., Any]:
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if any(isinstance(each, DualType) for each in sig.args):
            operands = [read(builder, each, value) for each, value in zip(sig.args, args, strict=True)]
            fast = any(isinstance(each, DualType) and each.fast for each in sig.args)
            return packed(builder, sig.return_type, differentiate(row, operands, fast))
        kind = sig.args[0]
        operands = [read(builder, each, value) for each, value in zip(sig.args, args, strict=True)]
        real = row.quick if row.quick and isinstance(kind, RealType) and kind.fast else row.real
        generate = row.index if isinstance(kind, IndexType) else real
        return packed(builder, sig.return_type, generate(*operands))

    return lower


def _register_row(row: Row) -> None:
    lower = _lowering_of(row)
    for key in row.keys:
        _template(key, _typing_of(row, key), row.literal)
        for arity in row.arities:
            lowering.lower(key, *[ScalarType] * arity)(lower)
            if row.literal:
                lowering.lower(key, *[ScalarType] * (arity - 1), types.IntegerLiteral)(lower)


def _index_of(numba_type: Any) -> Any:
    """What an array is indexed with instead of a scalar; None for a Real."""
    if isinstance(numba_type, types.BaseTuple):
        kinds = [_index_of(each) for each in numba_type]
        return None if None in kinds else types.BaseTuple.from_types(kinds)
    if isinstance(numba_type, ScalarType):
        if family(numba_type) == "dual":
            raise refuse("an array's index")
        if family(numba_type) == "real":
            return None
        return types.uintp if isinstance(numba_type, IndexType) and numba_type.natural else types.intp
    return types.unliteral(numba_type)


def _typing_of_getitem(context: Any, args: Any) -> Any:
    """array[index] as Numba types it with plain integers."""
    array, index = args
    wanted = _index_of(index)
    if wanted is None:
        return None
    if isinstance(array, ScalarArray):
        indices = list(wanted) if isinstance(wanted, types.BaseTuple) else [wanted]
        if len(indices) == array.ndim and all(isinstance(each, types.Integer) for each in indices):
            return signature(array.dtype, array, index)
        array = array.copy()
    elif wanted == index:
        return None
    return context.resolve_function_type(operator.getitem, (array, wanted), {})


_LOOP = StoredType(types.int32, IndexType())  # what a range of scalars yields


def _typing_of_range(context: Any, args: Any) -> Any:
    if any(isinstance(each, DualType) for each in args):
        raise refuse("range()")
    if len(args) > 3 or any(family(each) != "index" for each in args):
        return None
    return signature(types.RangeType(_LOOP), *[_LOOP] * len(args))


def _typing_of_where(context: Any, args: Any) -> Any:
    if len(args) != 3:
        return None
    truth = types.boolean if isinstance(args[0], types.Boolean) else joined(args[:1])
    two_truths = all(isinstance(each, types.Boolean) for each in args[1:])
    meeting = types.boolean if two_truths else joined(args[1:])
    return None if truth is None or meeting is None else signature(meeting, truth, meeting, meeting)


@lowering.lower(np.where, types.Boolean, ScalarType, ScalarType)
@lowering.lower(np.where, ScalarType, ScalarType, ScalarType)
@lowering.lower(np.where, types.Boolean, types.Boolean, types.Boolean)
@lowering.lower(np.where, ScalarType, types.Boolean, types.Boolean)
def _where(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.select(_truth(builder, sig.args[0], args[0]), *args[1:])


def _truth(builder: Any, numba_type: Any, value: Any) -> Any:
    """Whether a truth value or a number counts as true."""
    if isinstance(numba_type, types.Boolean):
        return value
    number = read(builder, numba_type, value)
    number = number[0] if isinstance(number, tuple) else number
    return (number.compare("!=", 0) if isinstance(numba_type, IndexType) else number.differs(0.0)).value


@lowering.lower_cast(IndexType, StoredType)
def _index_to_loop(context: Any, builder: Any, source: Any, target: Any, value: Any) -> Any:
    return context.cast(builder, value, source, target.storage)


@lowering.lower_cast(types.Integer, StoredType)
@lowering.lower_cast(types.Boolean, StoredType)
def _integer_to_loop(context: Any, builder: Any, source: Any, target: Any, value: Any) -> Any:
    return context.cast(builder, value, source, target.storage)


class _NumberClassCall(NumberClassAttribute):
    """np.float32(x), np.int32(i) and their kin of a scalar stay scalars."""

    metadata = _FIRST

    def resolve___call__(self, numba_class: Any) -> Any:
        plain = super().resolve___call__(numba_class)
        (template,) = plain.templates
        kind = numba_class.instance_type
        ours = {"real": RealType(), "index": IndexType()}.get(family(kind))

        class Call(template):  # type: ignore[misc,valid-type]
            def generic(self: Any) -> Any:
                typer = super().generic()

                def convert(value: Any) -> Any:
                    if not isinstance(value, ScalarType):
                        return typer(value)
                    if isinstance(kind, types.Boolean):
                        return kind
                    if isinstance(value, DualType) and family(kind) == "index":
                        raise refuse(f"{kind}()")
                    return joined([value, ours]) if family(kind) == "real" else ours

                return convert

        Call.key = template.key
        return types.Function(Call)


def register() -> None:
    """Add all to numba.cuda's registries, which it reads at its next compilation."""
    for row in (*OPERATORS, *FUNCTIONS):
        _register_row(row)
    _template(operator.getitem, _typing_of_getitem)
    _template(range, _typing_of_range)
    _template(np.where, _typing_of_where, ours=(types.Boolean, ScalarType))
    make_range_impl(_LOOP, types.RangeType(_LOOP), types.RangeType(_LOOP).iterator_type)
    typing.register_attr(_NumberClassCall)


register()
