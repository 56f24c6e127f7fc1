"""How an instruction becomes a Numba intrinsic: a table row (`Op`) or, for whole fragments, a code generator.

Kinds are PTX register classes: "r" 32-bit integer, "l" 64-bit integer, "f" float32. Integer arguments are cut or
sign-extended to their kind, so that kernels may mix Numba's int32 and int64 freely.

Every intrinsic has a twin: a Python function with the hardware's meaning, which the emulator calls in its place. A
one-line twin is given here (`twin`); others the emulator finds by the intrinsic's name and passes its `parameters`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from llvmlite.ir.instructions import InsertValue
from numba.cuda import types
from numba.cuda.extending import intrinsic

I32, I64, F32, VOID = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.VoidType()
_LLVM = {"r": I32, "l": I64, "f": F32}
_NUMBA = {"r": types.int32, "l": types.int64, "f": types.float32, "": types.void}


@dataclass(frozen=True)
class Op:
    """One instruction. `text` numbers operands as LLVM does: the result first ($0 when there is one), then arguments.

    effects: whether it must keep its place among other such instructions, because it touches memory, barriers or
    other threads. Without effects the compiler may move, merge or drop it.
    """

    name: str
    arguments: str
    text: str
    result: str = ""
    effects: bool = True


def define(op: Op, twin: Callable[..., Any] | None = None, parameters: tuple[Any, ...] = ()) -> Any:
    """The intrinsic for `op`. twin, parameters: as for `make`."""
    constraints = ",".join(([f"={op.result}"] if op.result else []) + list(op.arguments))
    if op.effects:
        constraints += ("," if constraints else "") + "~{memory}"
    result = _LLVM[op.result] if op.result else VOID

    def generate(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        values = [cast(builder, value, kind) for value, kind in zip(arguments, op.arguments, strict=True)]
        value = assembly(builder, result, values, op.text, constraints, effects=op.effects)
        return value if op.result else context.get_dummy_value()

    return make(op.name, len(op.arguments), lambda *_: _NUMBA[op.result], generate, twin=twin, parameters=parameters)


def make(
    name: str,
    arity: int,
    result: Callable[..., Any],
    generate: Callable[..., Any],
    *,
    twin: Callable[..., Any] | None = None,
    parameters: tuple[Any, ...] = (),
) -> Any:
    """An intrinsic of `arity` arguments whose Numba result type is result(*argument_types).

    twin: what the emulator calls instead, with the same arguments. Without one the emulator looks its twin up by
    `name` and gives it `parameters`, what the intrinsic was made from, before the arguments.
    """
    names = [f"a{i}" for i in range(arity)]
    # numba.intrinsic reads the parameter names of the function it decorates, so one is written for each arity.
    head, tail = ", ".join(["typingctx", *names]), ", ".join(names)
    code = f"def {name}({head}): return result({tail})({tail}), generate"
    scope = {"generate": generate, "result": lambda *kinds: _Signature(result(*kinds))}
    exec(code, scope)
    made = intrinsic(scope[name])
    made.twin, made.parameters = twin, parameters
    return made


class _Signature:
    """Calls a Numba type as a signature even where the type is the void that takes no arguments."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def __call__(self, *arguments: Any) -> Any:
        return self.result(*[types.unliteral(argument) for argument in arguments])


def cast(builder: Any, value: Any, kind: str) -> Any:
    """`value` in the register class `kind`."""
    wanted = _LLVM[kind]
    if value.type == wanted:
        return value
    if kind == "f":
        return builder.fptrunc(value, wanted)
    return builder.trunc(value, wanted) if value.type.width > wanted.width else builder.sext(value, wanted)


def assembly(
    builder: Any, result: Any, values: Sequence[Any], text: str, constraints: str, *, effects: bool
) -> Any:
    """One inline-assembly call."""
    function = ir.FunctionType(result, [value.type for value in values])
    return builder.call(ir.InlineAsm(function, text, constraints, side_effect=effects), list(values))


def tied_assembly(builder: Any, fragment: Sequence[Any], inputs: Sequence[Any], kinds: str, text: str) -> list[Any]:
    """Assembly that updates the float32 registers `fragment` in place and returns them.

    Tying every output to an input is what orders asynchronous instructions: the data flow, not luck, keeps readers
    after the wait.
    """
    count = len(fragment)
    result = ir.LiteralStructType([F32] * count)
    constraints = ",".join(["=f"] * count + list(kinds) + [str(i) for i in range(count)] + ["~{memory}"])
    value = assembly(builder, result, [*inputs, *fragment], text, constraints, effects=True)
    return [builder.extract_value(value, i) for i in range(count)]


def unpack(builder: Any, value: Any) -> list[Any]:
    """The elements of a Numba tuple value; of one that was put together here, what it was put together of."""
    known: dict[int, Any] = {}
    whole = value
    while isinstance(whole, InsertValue) and len(whole.indices) == 1:
        known.setdefault(whole.indices[0], whole.value)
        whole = whole.aggregate
    return [known[i] if i in known else builder.extract_value(value, i) for i in range(len(value.type))]


def pack(context: Any, builder: Any, numba_type: Any, values: Sequence[Any]) -> Any:
    """A Numba tuple value of `values`."""
    aggregate = ir.Constant(context.get_value_type(numba_type), ir.Undefined)
    for i, value in enumerate(values):
        aggregate = builder.insert_value(aggregate, value, i)
    return aggregate


def floats(count: int) -> Any:
    """The Numba type of `count` float32 registers."""
    return types.UniTuple(types.float32, count)


def words(count: int) -> Any:
    """The Numba type of `count` 32-bit registers, two 16-bit floats in each."""
    return types.UniTuple(types.uint32, count)
