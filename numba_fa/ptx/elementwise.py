"""A user's function on every element of an accumulator fragment, inlined; and its scalars in other kernels' source.

Element i of a fragment has the query q0 or q1 (of its row) and the key kv0 + column_of(i). kv0 holds what differs
between threads: the tile's first key plus 2 * (t % 4). Numbers that become float32 scalars must be within +-2**22.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numba.cuda import types

import numba_fa.scalar.register  # noqa: F401  (tells the compiler of the scalars)
from numba_fa.ptx.core import F32, I32, cast, floats, ir, make, pack, unpack
from numba_fa.ptx.fragment import column_of, row_of
from numba_fa.scalar.convert import as_scalar, packed, paired, read
from numba_fa.scalar.term import Whole
from numba_fa.scalar.types import DualType, IndexType, RealType, ScalarType, scalar_of

POSITION = IndexType(natural=True)


def make_map(count: int, function: Any, *, clamp: bool = False, fast: bool = False) -> Any:
    """map_scores(fragment, b, h, q0, q1, kv0, limit, aux) -> function(score, b, h, q, kv, aux) of each element.

    clamp: the function sees no key above `limit`. fast: tanh is the hardware's.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        call = _Call(context, builder, function, [RealType(fast), *[POSITION] * 4, *signature.args[7:]], fast)
        places = _places(builder, args[1:], count, clamp)
        scores = []
        for i, score in enumerate(unpack(builder, args[0])):
            result = call([score, *places(i)], args[7])
            scores.append(context.cast(builder, result, call.result, types.float32))
        return pack(context, builder, signature.return_type, scores)

    return make("map_scores", 8, lambda *_: floats(count), generate, parameters=(count, function, clamp))


def make_map_gradient(count: int, function: Any, *, clamp: bool = False, fast: bool = False) -> Any:
    """map_gradient(fragment, slopes, b, h, q0, q1, kv0, limit, aux) -> slopes times d function / d score.

    fragment: the scores that `function` was given. Where `slopes` is 0 the result is, whatever the derivative: of an
    element that a mask hides, the function may well be NaN. clamp, fast: as make_map's.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        outer, result = unpack(builder, args[1]), []
        inner = _duals(context, builder, function, [args[0], *args[2:]], signature.args[8], clamp, fast)
        for i, (_, slope) in enumerate(inner):
            result.append(_times(builder, outer[i], slope))
        return pack(context, builder, signature.return_type, result)

    return make("map_gradient", 9, lambda *_: floats(count), generate, parameters=(count, function, clamp))


def make_map_both(count: int, function: Any, *, clamp: bool = False, fast: bool = False) -> Any:
    """map_both(fragment, b, h, q0, q1, kv0, limit, aux) -> (function of each element, its derivative by the score)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        duals = list(_duals(context, builder, function, args, signature.args[7], clamp, fast))
        halves = [pack(context, builder, floats(count), [dual[part] for dual in duals]) for part in (0, 1)]
        return pack(context, builder, signature.return_type, halves)

    return make(
        "map_both", 8, lambda *_: types.UniTuple(floats(count), 2), generate, parameters=(count, function, clamp)
    )


def make_value_and_slope(function: Any) -> Any:
    """value_and_slope(score, b, h, q, kv, aux) -> (function(score, b, h, q, kv, aux), its derivative by the score).

    For kernels that call a function element by element; positions are never negative.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        dual = DualType()
        call = _Call(context, builder, function, [dual, *[POSITION] * 4, signature.args[5]], False)
        seed = paired(builder, cast(builder, args[0], "f"), ir.Constant(F32, 1.0))
        places = [packed(builder, POSITION, Whole.of(builder, cast(builder, each, "r"), small=True)) for each in args[1:5]]
        both = read(builder, dual, context.cast(builder, call([seed, *places], args[5]), call.result, dual))
        return pack(context, builder, signature.return_type, [each.value for each in both])

    return make("value_and_slope", 6, lambda *_: floats(2), generate, parameters=(function,))


def make_chain(count: int) -> Any:
    """chain(slopes, derivatives) -> their products, 0 where a slope is 0 whatever the derivative."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pairs = zip(unpack(builder, args[0]), unpack(builder, args[1]), strict=True)
        return pack(context, builder, signature.return_type, [_times(builder, *pair) for pair in pairs])

    return make("chain", 2, lambda *_: floats(count), generate, parameters=(count,))


def make_keep(count: int, function: Any, *, clamp: bool = False, bounded: bool = False, fast: bool = False) -> Any:
    """keep_visible(fragment, b, h, q0, q1, kv0, limit, aux) -> fragment, -inf where not function(b, h, q, kv, aux).

    clamp: the function sees no key above `limit`. bounded: elements of keys above `limit` are -inf too.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        call = _Call(context, builder, function, [*[POSITION] * 4, *signature.args[7:]], fast)
        places = _places(builder, args[1:], count, clamp)
        last = builder.sub(cast(builder, args[6], "r"), cast(builder, args[5], "r"))
        scores = []
        for i, score in enumerate(unpack(builder, args[0])):
            seen = context.cast(builder, call(places(i), args[7]), call.result, types.boolean)
            if bounded:
                seen = builder.and_(seen, builder.icmp_signed("<=", ir.Constant(I32, column_of(i)), last))
            scores.append(builder.select(seen, score, ir.Constant(F32, float("-inf"))))
        return pack(context, builder, signature.return_type, scores)

    return make("keep_visible", 8, lambda *_: floats(count), generate, parameters=(count, function, clamp, bounded))


class _Call:
    """A device function compiled for scalar arguments and called often, with no more code than its arguments need."""

    def __init__(self, context: Any, builder: Any, function: Any, kinds: list[Any], fast: bool) -> None:
        *scalars, aux = kinds
        self.context, self.builder, self.aux = context, builder, aux
        self.scalar_aux = types.BaseTuple.from_types([scalar_of(each, fast) for each in aux])
        self.kinds = (*scalars, self.scalar_aux)
        compiled = function.compile_device(self.kinds)
        context.active_code_library.add_linking_library(compiled.library)
        self.result = compiled.signature.return_type
        self._callee = compiled.fndesc.declare_function(builder.module)
        with builder.goto_entry_block():
            self._slot = builder.alloca(self._callee.args[0].type.pointee)
        self._packers = [context.get_arg_packer([kind]) for kind in scalars]
        self._flat: dict[tuple[int, Any], Any] = {}
        self._flat_aux: Any = None

    def __call__(self, scalars: Sequence[Any], aux: Any) -> Any:
        """The function's value. Python errors inside it are lost, as everywhere in a kernel."""
        builder = self.builder
        if self._flat_aux is None:
            items = [
                as_scalar(self.context, builder, source, target, value)
                for source, target, value in zip(self.aux, self.scalar_aux, unpack(builder, aux), strict=True)
            ]
            self._flat_aux = self.context.get_arg_packer(list(self.scalar_aux)).as_arguments(builder, items)
        flat = [part for place, scalar in enumerate(scalars) for part in self._parts(place, scalar)]
        builder.call(self._callee, [self._slot, *flat, *self._flat_aux])
        return self.context.get_returned_value(builder, self.result, builder.load(self._slot))

    def _parts(self, place: int, scalar: Any) -> Any:
        """What is passed of a scalar, taken from it once: elements share their rows, columns, heads."""
        if (place, scalar) not in self._flat:
            self._flat[place, scalar] = self._packers[place].as_arguments(self.builder, [scalar])
        return self._flat[place, scalar]


def _places(builder: Any, args: Sequence[Any], count: int, clamp: bool) -> Callable[[int], list[Any]]:
    """register -> [b, h, q, kv] as scalars, of (b, h, q0, q1, kv0, limit, ...)."""
    b, h, q0, q1, kv0, limit = [Whole.of(builder, cast(builder, value, "r"), small=True) for value in args[:6]]
    first, rows = [packed(builder, POSITION, each) for each in (b, h)], [packed(builder, POSITION, q) for q in (q0, q1)]
    keys: dict[int, Any] = {}
    for column in {column_of(i): None for i in range(count)}:
        n = builder.add(kv0.n, ir.Constant(I32, column), flags=("nsw",))
        key = Whole(builder, n, kv0.base, ir.Constant(F32, float(column)))
        keys[column] = packed(builder, POSITION, key.least(limit) if clamp else key)
    return lambda i: [*first, rows[row_of(i)], keys[column_of(i)]]


def _duals(
    context: Any, builder: Any, function: Any, args: Any, aux_type: Any, clamp: bool, fast: bool
) -> Iterator[tuple[Any, Any]]:
    """(value, derivative) of each element of args = (fragment, b, h, q0, q1, kv0, limit, aux)."""
    dual = DualType(fast)
    call = _Call(context, builder, function, [dual, *[POSITION] * 4, aux_type], fast)
    scores = unpack(builder, args[0])
    places = _places(builder, args[1:], len(scores), clamp)
    for i, score in enumerate(scores):
        seed = paired(builder, score, ir.Constant(F32, 1.0))
        value, slope = read(builder, dual, context.cast(builder, call([seed, *places(i)], args[7]), call.result, dual))
        yield value.value, slope.value


def _times(builder: Any, outer: Any, slope: Any) -> Any:
    """The chain rule's product; 0 times anything is 0."""
    nothing = builder.fcmp_unordered("==", outer, ir.Constant(F32, 0.0))
    return builder.select(nothing, outer, builder.fmul(outer, slope))


def _to_index(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    if isinstance(signature.args[0], ScalarType):
        return context.cast(builder, args[0], signature.args[0], POSITION)
    return packed(builder, POSITION, Whole.of(builder, cast(builder, args[0], "r"), small=True))


def _to(target: Any) -> Callable[..., Any]:
    """A code generator that casts its argument."""
    return lambda context, builder, signature, args: context.cast(builder, args[0], signature.args[0], target)


def _to_scalars(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    kinds = zip(signature.args[0], signature.return_type, unpack(builder, args[0]), strict=True)
    values = [as_scalar(context, builder, source, target, value) for source, target, value in kinds]
    return pack(context, builder, signature.return_type, values)


def _scalars_of(aux: Any) -> Any:
    return types.BaseTuple.from_types([scalar_of(each, fast=False) for each in aux])


# For kernels that call a user's function element by element.
real = make("real", 1, lambda _: RealType(), _to(RealType()), twin=np.float32)  # float32 -> Real
index = make("index", 1, lambda _: POSITION, _to_index, twin=lambda i: int(i))  # a position, never negative -> Index
scalars = make("scalars", 1, _scalars_of, _to_scalars, twin=lambda aux: aux)  # a tuple of launch arguments
to_float32 = make("to_float32", 1, lambda _: types.float32, _to(types.float32), twin=np.float32)
to_int32 = make("to_int32", 1, lambda _: types.int32, _to(types.int32), twin=lambda i: int(i))
