"""LLVM values that write their own code: a Term is a float32, a Whole a 32-bit integer with its float32 twin.

The rows of the operator tables are written with these, so that a row reads like the formula it stands for.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir

BOOL, I32, I64, F32 = ir.IntType(1), ir.IntType(32), ir.IntType(64), ir.FloatType()
# Adding a small integer to 1.5 * 2**23 places it in the low bits; this is how an integer becomes a float without I2F.
MAGIC, MAGIC_BITS = 12582912.0, 0x4B400000
# The twins of integers are exact, so their sums may be taken in any order.
EXACT = ("fast",)

# Approximations of the special-function units, as PTX: without side effects, so that equal ones merge.
HARDWARE = {
    "ex2": "ex2.approx.ftz.f32 $0, $1;",
    "lg2": "lg2.approx.ftz.f32 $0, $1;",
    "rcp": "rcp.approx.ftz.f32 $0, $1;",
    "sqrt": "sqrt.approx.ftz.f32 $0, $1;",
    "sin": "sin.approx.ftz.f32 $0, $1;",
    "cos": "cos.approx.ftz.f32 $0, $1;",
    "tanh": "tanh.approx.f32 $0, $1;",
}

# NVVM's names; of LLVM's own it knows fma alone. minimum and maximum prefer a number to NaN; rint is to nearest even.
SIMPLE = {
    "fabs": "llvm.nvvm.fabs.f",
    "floor": "llvm.nvvm.floor.f",
    "ceil": "llvm.nvvm.ceil.f",
    "trunc": "llvm.nvvm.trunc.f",
    "rint": "llvm.nvvm.round.f",
    "minimum": "llvm.nvvm.fmin.f",
    "maximum": "llvm.nvvm.fmax.f",
    "fma": "llvm.fma.f32",
}


class Term:
    """A float32 value, or the truth value (i1) of a comparison."""

    __slots__ = ("builder", "value")

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def of(self, value: Any) -> Term:
        """A value of this Term's builder as a Term; a subclass makes its own kind."""
        return Term(self.builder, value)

    def lift(self, other: Any) -> Term:
        """`other` as a Term: a Python number becomes a constant."""
        return other if isinstance(other, Term) else self.of(ir.Constant(F32, float(other)))

    @property
    def constant(self) -> float | None:
        """The number, when it is known now."""
        value = self.value
        return value.constant if isinstance(value, ir.Constant) and isinstance(value.constant, float) else None

    def _binary(self, name: str, other: Any, swap: bool = False) -> Term:
        a, b = self, self.lift(other)
        if swap:
            a, b = b, a
        return self.of(getattr(self.builder, name)(a.value, b.value, flags=("contract",)))

    def __add__(self, other: Any) -> Term:
        return self._binary("fadd", other)

    def __radd__(self, other: Any) -> Term:
        return self._binary("fadd", other, swap=True)

    def __sub__(self, other: Any) -> Term:
        return self._binary("fsub", other)

    def __rsub__(self, other: Any) -> Term:
        return self._binary("fsub", other, swap=True)

    def __mul__(self, other: Any) -> Term:
        return self._binary("fmul", other)

    def __rmul__(self, other: Any) -> Term:
        return self._binary("fmul", other, swap=True)

    def __truediv__(self, other: Any) -> Term:
        """Times the reciprocal: relative error below 2**-22 where |divisor| is in [2**-126, 2**126]."""
        divisor = self.lift(other)
        number = divisor.constant
        if number is not None and 2.0**-126 <= abs(number) <= 2.0**126:
            return self * (1.0 / number)
        return self * hardware("rcp", divisor)

    def __rtruediv__(self, other: Any) -> Term:
        return self.lift(other) / self

    def __neg__(self) -> Term:
        return self.of(self.builder.fsub(self.lift(-0.0).value, self.value))

    def __abs__(self) -> Term:
        return simple("fabs", self)

    def _compare(self, symbol: str, other: Any) -> Term:
        compare = self.builder.fcmp_unordered if symbol == "!=" else self.builder.fcmp_ordered
        return self.of(compare(symbol, self.value, self.lift(other).value))

    def __lt__(self, other: Any) -> Term:
        return self._compare("<", other)

    def __le__(self, other: Any) -> Term:
        return self._compare("<=", other)

    def __gt__(self, other: Any) -> Term:
        return self._compare(">", other)

    def __ge__(self, other: Any) -> Term:
        return self._compare(">=", other)

    def same(self, other: Any) -> Term:
        """Equality."""
        return self._compare("==", other)

    def differs(self, other: Any) -> Term:
        """Inequality; NaN differs from itself."""
        return self._compare("!=", other)

    def __and__(self, other: Term) -> Term:
        return self.of(self.builder.and_(self.value, other.value))

    def __or__(self, other: Term) -> Term:
        return self.of(self.builder.or_(self.value, other.value))

    def __xor__(self, other: Term) -> Term:
        return self.of(self.builder.xor(self.value, other.value))

    def __invert__(self) -> Term:
        return self.of(self.builder.not_(self.value))

    def hardware(self, name: str) -> Term:
        """An approximation of the special-function unit."""
        assembly = ir.InlineAsm(ir.FunctionType(F32, [F32]), HARDWARE[name], "=f,f", side_effect=False)
        return self.of(self.builder.call(assembly, [self.value], attrs=("readnone", "nounwind")))

    def simple(self, name: str, *others: Any) -> Term:
        """One instruction or so, exact: a name of SIMPLE."""
        return self._external(SIMPLE[name], others)

    def libdevice(self, name: str, *others: Any) -> Term:
        """A function of NVIDIA's bitcode library."""
        return self._external(f"__nv_{name}", others)

    def _external(self, name: str, others: tuple[Any, ...]) -> Term:
        values = [self.value, *(self.lift(other).value for other in others)]
        module, kind = self.builder.module, ir.FunctionType(F32, [F32] * len(values))
        function = module.globals.get(name) or ir.Function(module, kind, name)
        return self.of(self.builder.call(function, values))


def select(condition: Term, yes: Any, no: Any) -> Term:
    """`yes` where the condition holds."""
    term = yes if isinstance(yes, Term) else no if isinstance(no, Term) else condition
    return condition.of(condition.builder.select(condition.value, term.lift(yes).value, term.lift(no).value))


def hardware(name: str, x: Term) -> Term:
    """An approximation of the special-function unit."""
    return x.hardware(name)


def simple(name: str, x: Term, *others: Any) -> Term:
    """One instruction or so, exact: a name of SIMPLE."""
    return x.simple(name, *others)


def copysign(x: Term, sign: Term) -> Term:
    """|x| with the sign of `sign`."""
    build = x.builder
    top = ir.Constant(I32, 0x80000000)
    bits = build.and_(build.bitcast(x.value, I32), ir.Constant(I32, 0x7FFFFFFF))
    return Term(build, build.bitcast(build.or_(bits, build.and_(build.bitcast(sign.value, I32), top)), F32))


def libdevice(name: str, x: Term, *others: Any) -> Term:
    """A function of NVIDIA's bitcode library."""
    return x.libdevice(name, *others)


def log2_of(x: Term) -> Term:
    """Base-2 logarithm: lg2.approx, or exact for a constant."""
    number = x.constant
    if number is not None and 0 < number < math.inf:
        return x.lift(math.log2(number))
    return hardware("lg2", x)


class Whole:
    """A 32-bit integer `n` and the float32 `f` of the same value, kept as base + rest.

    n wraps at 32 bits. f is exact below 2**24 and rounded beyond, whatever n does. rest holds what a column of a fragment
    adds: the distance of two places is then one difference of bases, shared by all columns, and one addition.
    """

    __slots__ = ("base", "builder", "n", "rest")

    def __init__(self, builder: Any, n: Any, base: Any, rest: Any = None) -> None:
        self.builder, self.n, self.base = builder, n, base
        self.rest = ir.Constant(F32, 0.0) if rest is None else rest

    @property
    def f(self) -> Any:
        """The value as a float32."""
        return self._sum("fadd", self.base, self.rest)

    def _sum(self, name: str, a: Any, b: Any) -> Any:
        """a + b or a - b, exactly; nothing for a zero, and known now for two numbers."""
        zero = [isinstance(x, ir.Constant) and x.constant == 0.0 for x in (a, b)]
        if zero[1]:
            return a
        if isinstance(a, ir.Constant) and isinstance(b, ir.Constant):
            value = a.constant + b.constant if name == "fadd" else a.constant - b.constant
            return ir.Constant(F32, float(np.float32(value)))
        if zero[0] and name == "fadd":
            return b
        return getattr(self.builder, name)(a, b, flags=EXACT)

    @classmethod
    def of(cls, builder: Any, n: Any, small: bool = False) -> Whole:
        """From an i32 or a Python int. small: it is known to be within +-2**22, so that no I2F is needed."""
        if isinstance(n, int) or isinstance(n, ir.Constant) and isinstance(n.constant, int):
            number = n if isinstance(n, int) else n.constant
            wrapped = (number + 2**31) % 2**32 - 2**31
            return cls(builder, ir.Constant(I32, wrapped), ir.Constant(F32, float(np.float32(number))))
        if small:
            bits = builder.bitcast(builder.add(n, ir.Constant(I32, MAGIC_BITS)), F32)
            return cls(builder, n, builder.fsub(bits, ir.Constant(F32, MAGIC), flags=EXACT))
        return cls(builder, n, builder.sitofp(n, F32))

    def lift(self, other: Any) -> Whole:
        """`other` as a Whole: a Python int becomes a constant."""
        return other if isinstance(other, Whole) else Whole.of(self.builder, other)

    @property
    def real(self) -> Term:
        """As a float32."""
        return Term(self.builder, self.f)

    def __add__(self, other: Any) -> Whole:
        b = self.lift(other)
        n = self.builder.add(self.n, b.n)
        if isinstance(b.base, ir.Constant):
            return Whole(self.builder, n, self.base, self._sum("fadd", self.rest, b._sum("fadd", b.base, b.rest)))
        return Whole(self.builder, n, self._sum("fadd", self.base, b.base), self._sum("fadd", self.rest, b.rest))

    def __sub__(self, other: Any) -> Whole:
        b = self.lift(other)
        n = self.builder.sub(self.n, b.n)
        return Whole(self.builder, n, self._sum("fsub", self.base, b.base), self._sum("fsub", self.rest, b.rest))

    def __mul__(self, other: Any) -> Whole:
        b = self.lift(other)
        return Whole(self.builder, self.builder.mul(self.n, b.n), self.builder.fmul(self.f, b.f))

    def __neg__(self) -> Whole:
        return self.lift(0) - self

    def __invert__(self) -> Whole:
        return self.lift(-1) - self

    def __abs__(self) -> Whole:
        negative = self.builder.icmp_signed("<", self.n, ir.Constant(I32, 0))
        n = self.builder.select(negative, self.builder.sub(ir.Constant(I32, 0), self.n), self.n)
        return Whole(self.builder, n, abs(self.real).value)

    def least(self, other: Any) -> Whole:
        """The smaller of two."""
        return self._extreme("<", "minimum", other)

    def greatest(self, other: Any) -> Whole:
        """The greater of two."""
        return self._extreme(">", "maximum", other)

    def _extreme(self, symbol: str, name: str, other: Any) -> Whole:
        b = self.lift(other)
        n = self.builder.select(self.builder.icmp_signed(symbol, self.n, b.n), self.n, b.n)
        return Whole(self.builder, n, simple(name, self.real, b.real).value)

    def bits(self, name: str, other: Any) -> Whole:
        """A bitwise operation of the builder, by name."""
        b = self.lift(other)
        mask = b.n.constant if name == "and_" and isinstance(b.n, ir.Constant) else -1
        return Whole.of(self.builder, getattr(self.builder, name)(self.n, b.n), small=0 <= mask < 2**22)

    def divided(self, divisor: Any) -> tuple[Whole, Whole]:
        """(self // divisor, self % divisor) with Python's meaning; cheap for a positive Python int.

        By zero is by one: there is nobody to raise an error to.
        """
        if not isinstance(divisor, int):
            return self._divided_by_variable(divisor)
        if divisor < 0:
            quotient, remainder = (-self).divided(-divisor)
            return quotient, -remainder
        build, n = self.builder, self.n
        divisor = divisor or 1
        shift = divisor.bit_length() - 1
        if divisor == 1 << shift:
            quotient = build.ashr(n, ir.Constant(I32, shift))
            remainder = build.and_(n, ir.Constant(I32, divisor - 1))
        else:  # flip negative numbers to count from -1 downwards, divide without sign, flip back
            flip = build.ashr(n, ir.Constant(I32, 31))
            quotient = build.xor(build.udiv(build.xor(n, flip), ir.Constant(I32, divisor)), flip)
            remainder = build.sub(n, build.mul(quotient, ir.Constant(I32, divisor)))
        return Whole.of(build, quotient, small=divisor >= 512), Whole.of(build, remainder, small=divisor <= 2**22)

    def _divided_by_variable(self, divisor: Whole) -> tuple[Whole, Whole]:
        build, zero = self.builder, ir.Constant(I32, 0)
        by = build.select(build.icmp_signed("==", divisor.n, zero), ir.Constant(I32, 1), divisor.n)
        quotient = build.sdiv(self.n, by)
        remainder = build.sub(self.n, build.mul(quotient, by))
        ragged = build.icmp_signed("!=", remainder, zero)
        low = build.and_(ragged, build.icmp_signed("<", build.xor(remainder, by), zero))
        quotient = build.add(quotient, build.sext(low, I32))
        remainder = build.add(remainder, build.select(low, by, zero))
        return Whole.of(build, quotient), Whole.of(build, remainder)

    def compare(self, symbol: str, other: Any) -> Term:
        """A comparison by one of Python's symbols."""
        return Term(self.builder, self.builder.icmp_signed(symbol, self.n, self.lift(other).n))

