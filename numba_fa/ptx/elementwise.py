"""TEMPORARY plain-typed stand-in until scalar types arrive."""
from __future__ import annotations

from typing import Any

from numba.cuda import types

from numba_fa.ptx.core import F32, I32, cast, floats, ir, make, pack, unpack
from numba_fa.ptx.fragment import column_of, row_of


def _calls(context, builder, signature, function, kinds, call_types, result, args, count, clamp, each):
    fnty = context.typing_context.resolve_value_type(function) if hasattr(context.typing_context, "resolve_value_type") else None
    return fnty


def _make(count: int, function: Any, score: bool, bounded: bool) -> Any:
    kinds = ((types.float32,) if score else ()) + (types.int32,) * 4

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        aux_type = signature.args[-1]
        fnty = types.Dispatcher(function) if not hasattr(function, "_numba_type_") else function._numba_type_
        sig = fnty.get_call_type(context.typing_context, (*kinds, aux_type), {})
        callee = context.get_function(fnty, sig)
        b, h, q0, q1, kv0, limit = [cast(builder, x, "r") for x in args[1:7]]
        out = []
        for i, value in enumerate(unpack(builder, args[0])):
            kv = builder.add(kv0, ir.Constant(I32, column_of(i)))
            inside = builder.icmp_signed("<=", kv, limit)
            if bounded:
                kv = builder.select(inside, kv, limit)
            values = ([value] if score else []) + [b, h, (q0, q1)[row_of(i)], kv, args[-1]]
            result = callee(builder, values)
            if score:
                out.append(context.cast(builder, result, sig.return_type, types.float32))
                continue
            seen = context.cast(builder, result, sig.return_type, types.boolean)
            if bounded:
                seen = builder.and_(seen, inside)
            out.append(builder.select(seen, value, ir.Constant(F32, float("-inf"))))
        return pack(context, builder, signature.return_type, out)

    return make("map_scores" if score else "keep_visible", 8, lambda *_: floats(count), generate, parameters=(count, function, bounded))


def make_map(count: int, function: Any, clamp: bool) -> Any:
    return _make(count, function, True, clamp)


def make_keep(count: int, function: Any, bounded: bool) -> Any:
    return _make(count, function, False, bounded)
