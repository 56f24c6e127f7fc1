"""Dual numbers in CPU code: a float with its derivative by the score, computed by the rules of `scalar`'s tables.

A score function that is compiled for a Dual in place of its score gives a Dual. The values are computed by Numba's own
functions, on the types that the function has without a derivative: they are the forward's.
"""

import math
import operator
from types import BuiltinFunctionType

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.imputils import lower_builtin, lower_cast
from numba.core.typing.builtins import NumberClassAttribute
from numba.core.typing.templates import AbstractTemplate, builtin_registry, make_callable_template, signature
from numba.extending import intrinsic, models, register_model

from numba_fa.scalar.derivative import name_of, refuse, slope_of
from numba_fa.scalar.functions import FUNCTIONS
from numba_fa.scalar.operators import OPERATORS
from numba_fa.scalar.term import Term

_FIRST = {"target": "cpu"}  # templates for this target are asked before generic ones


class DualType(types.Type):
    """A float of type `number` with its derivative by the score. Numbers become Duals by casts alone."""

    def __init__(self, number):
        self.number = number
        super().__init__(f"Dual({number})")

    def unify(self, typing_context, other):
        """A branch's type with another's: `score if seen else -math.inf` is a Dual."""
        met = typing_context.unify_pairs(self.number, plain(other)) if is_number(other) else None
        return DualType(met) if isinstance(met, types.Float) else None


@register_model(DualType)
class _DualModel(models.StructModel):
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, [("value", numba_type.number), ("slope", numba_type.number)])


def plain(numba_type):
    """The type that an operand has without a derivative."""
    return numba_type.number if isinstance(numba_type, DualType) else numba_type


def is_number(numba_type):
    """Whether an operand is a number, with a derivative or without."""
    return isinstance(numba_type, DualType | types.Number | types.Boolean)


def call(context, builder, function, kinds, values):
    """(type, LLVM value) of what Numba makes of function(*values)."""
    function = context.typing_context.resolve_value_type(function)
    found = function.get_call_type(context.typing_context, kinds, {})
    if len(found.args) < len(kinds):  # of function(*values), as min and max are written
        values = [context.make_tuple(builder, found.args[0], values)]
    else:
        values = [context.cast(builder, *each) for each in zip(values, kinds, found.args, strict=True)]
    return found.return_type, context.get_function(function, found)(builder, values)


class HostTerm(Term):
    """A Term of a CPU float: what the rules compute with, by Numba's functions where the GPU has its own."""

    __slots__ = ("context", "number")
    FUNCTIONS = {
        "exp": math.exp, "lg2": math.log2, "sqrt": math.sqrt, "sin": math.sin, "cos": math.cos, "tanh": math.tanh,
        "coshf": math.cosh, "sinhf": math.sinh, "rint": np.rint, "minimum": np.fmin, "maximum": np.fmax,
        "fabs": math.fabs,
    }  # fmt: skip

    def __init__(self, context, builder, number, value):
        super().__init__(builder, value)
        self.context, self.number = context, number

    def of(self, value):
        return HostTerm(self.context, self.builder, self.number, value)

    def lift(self, other):
        return other if isinstance(other, Term) else self.of(self.context.get_constant(self.number, float(other)))

    def __truediv__(self, other):
        return self._binary("fdiv", other)

    def hardware(self, name):
        # Not np.exp2: Numba cannot compile it for both float32 and float64 in one function.
        return (self * math.log(2.0)).simple("exp") if name == "ex2" else self.simple(name)

    def simple(self, name, *others):
        values = [self.value, *(self.lift(other).value for other in others)]
        if name == "fma":
            return self.of(self.builder.fma(*values))
        kinds = [self.number] * len(values)
        kind, value = call(self.context, self.builder, self.FUNCTIONS[name], kinds, values)
        return self.of(self.context.cast(self.builder, value, kind, self.number))

    libdevice = simple


def _template(key, generic, literal=False):
    """Register a typing template whose generic(context, args) is asked where a Dual is among the arguments."""

    def ask(self, args, kws):
        return generic(self.context, args) if not kws and any(_holds_dual(each) for each in args) else None

    body = {"key": key, "generic": ask, "metadata": _FIRST, "prefer_literal": literal}
    builtin_registry.register_global(key, types.Function(type("DualTemplate", (AbstractTemplate,), body)))


def _holds_dual(numba_type):
    return isinstance(numba_type, DualType) or isinstance(numba_type, types.BaseTuple) and any(map(_holds_dual, numba_type))


def _typing_of(row, key):
    """The signature of a row: every operand a Dual of the type that Numba would cast it to."""

    def generic(context, args):
        if row.partials is None and row.gives != "truth":
            raise refuse(name_of(key))
        if len(args) not in row.arities or not all(map(is_number, args)):
            return None
        found = context.resolve_function_type(key, tuple(map(plain, args)), {})
        if found is None:
            return None
        result = found.return_type
        number = result if isinstance(result, types.Float) else types.float64
        if row.literal and isinstance(args[-1], types.IntegerLiteral):
            # Numba passes it uncast, with the other operand as it is.
            return signature(args[0], args[0], args[-1])
        kinds = found.args if len(found.args) == len(args) else map(plain, args)
        wanted = [DualType(kind if isinstance(kind, types.Float) else number) for kind in kinds]
        return signature(types.boolean if row.gives == "truth" else DualType(number), *wanted)

    return generic


def _lowering_of(row, key):
    def lower(context, builder, sig, args):
        parts = [_parts(context, builder, kind, value) for kind, value in zip(sig.args, args, strict=True)]
        kinds = [plain(kind) for kind in sig.args]
        kind, value = call(context, builder, key, kinds, [part if isinstance(part, int) else part[0] for part in parts])
        if row.gives == "truth":
            return context.cast(builder, value, kind, types.boolean)
        number = sig.return_type.number

        def term(value, kind):
            return HostTerm(context, builder, number, context.cast(builder, value, kind, number))

        operands = [
            part if isinstance(part, int) else tuple(term(each, kind) for each in part)
            for part, kind in zip(parts, kinds, strict=True)
        ]
        value = term(value, kind)
        return _packed(context, builder, sig.return_type, value.value, slope_of(row, operands, value).value)

    return lower


def _parts(context, builder, kind, value):
    """(value, slope) of a Dual; the int of a literal."""
    if isinstance(kind, types.Literal):
        return kind.literal_value
    return builder.extract_value(value, 0), builder.extract_value(value, 1)


def _packed(context, builder, kind, value, slope):
    pair = ir.Constant(context.get_value_type(kind), ir.Undefined)
    return builder.insert_value(builder.insert_value(pair, value, 0), slope, 1)


@lower_cast(types.Number, DualType)
@lower_cast(types.Boolean, DualType)
def _constant(context, builder, source, target, value):
    """What does not depend on the score."""
    number = target.number
    return _packed(
        context, builder, target, context.cast(builder, value, source, number), context.get_constant(number, 0.0)
    )


@lower_cast(DualType, DualType)
def _widened(context, builder, source, target, value):
    parts = _parts(context, builder, source, value)
    return _packed(context, builder, target, *(context.cast(builder, x, source.number, target.number) for x in parts))


def _index_refused(context, args):
    if _holds_dual(args[1]):
        raise refuse("an array's index")


def _range_refused(context, args):
    raise refuse("range()")


class _NumberClassCall(NumberClassAttribute):
    """np.float32(x) of a Dual stays a Dual."""

    metadata = _FIRST

    def resolve___call__(self, numba_class):
        kind, usual = numba_class.instance_type, super().resolve___call__(numba_class)

        def typer(value):
            if not isinstance(value, DualType):
                return usual.get_call_type(self.context, (value,), {}).return_type
            if isinstance(kind, types.Float):
                return DualType(kind)
            if isinstance(kind, types.Boolean):
                return kind
            raise refuse(f"{kind}()")

        return types.Function(make_callable_template(key=kind, typer=typer))


@intrinsic
def seed(typing_context, score):
    """The score itself, to be differentiated by."""
    number = score if isinstance(score, types.Float) else types.float64

    def generate(context, builder, sig, args):
        value = context.cast(builder, args[0], score, number)
        return _packed(context, builder, sig.return_type, value, context.get_constant(number, 1.0))

    return DualType(number)(score), generate


def _part_of(place):
    @intrinsic
    def part(typing_context, result):
        def generate(context, builder, sig, args):
            dual = context.cast(builder, args[0], result, DualType(types.float32))
            return builder.extract_value(dual, place)

        return types.float32(result), generate

    return part


# Of what a function of the score gave, a Dual or a number, as float32.
value_of, derivative_of = _part_of(0), _part_of(1)


def register_alias(function, key):
    """Differentiate `function` as the function `key` of the tables."""
    (row,) = [row for row in FUNCTIONS if key in row.keys]
    _register(row, function)


def _register(row, key):
    _template(key, _typing_of(row, key), row.literal)
    lower = _lowering_of(row, key)
    for arity in row.arities:
        lower_builtin(key, *[DualType] * arity)(lower)
        if row.literal:
            lower_builtin(key, *[DualType] * (arity - 1), types.IntegerLiteral)(lower)


def _refusing(key):
    def generic(context, args):
        raise refuse(name_of(key))

    return generic


def _register_all():
    known = {key: row for row in (*OPERATORS, *FUNCTIONS) for key in row.keys}
    for key, row in known.items():
        _register(row, key)
    for key in (*vars(math).values(), *vars(np).values()):
        if isinstance(key, BuiltinFunctionType | np.ufunc) and key not in known:
            known[key] = None  # NumPy has several names for some
            _template(key, _refusing(key))
    _template(operator.getitem, _index_refused)
    _template(range, _range_refused)
    builtin_registry.register_attr(_NumberClassCall)


_register_all()
