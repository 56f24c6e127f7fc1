"""Users' functions: named by what they compute, and kept as they were when they were declared.

The name is a hash of the byte code, its constants, and all that it refers to: numbers, tuples, functions and theirs,
modules by name. Neither the function's own name nor its file nor its line numbers count, so a kernel that is in the
store is found again after a rename, and never after an edit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import inf
from numbers import Integral, Real
from typing import Any, ClassVar

from numba_fa.errors import ProblemError
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.declared import Declaration, Sizes, array_token, place_faults
from numba_fa.problem.frozen import Frozen, Unfrozen, freeze, rebuild

PARAMETERS = {"mask": ("b", "h", "q_idx", "kv_idx"), "score": ("score", "b", "h", "q_idx", "kv_idx")}
PREFIXES = {"mask": "mod", "score": "score_mod"}
AUX_DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "bfloat16", "float32",
    "float64",
)  # fmt: skip
_MOST_FLOAT32 = float.fromhex("0x1.fffffep127")
_NUMBERS = (int, float)
_HASH_DIGITS = 10  # of the name; the whole hash goes into the artifact's fingerprint


@dataclass(frozen=True)
class UserFunction:
    """A declared function. role: "mask" or "score". tokens: kinds of its aux arguments, as a launch has them."""

    name: str
    role: str
    frozen: Frozen
    tokens: tuple[str, ...]
    digest: bytes

    def built(self, jit: Callable[[Callable[..., Any]], Any] = lambda function: function) -> Any:
        """The function, and each one that it calls, passed through `jit` (such as Numba's njit, or nothing at all).

        What it refers to is bound as it was when it was declared. Of parameters beyond the aux arguments, such as
        `limit=limit` in a lambda, the defaults are filled in, and `*aux` is spread: Numba compiles a function for all of
        its parameters.
        """
        function, given = rebuild(self.frozen, jit), len(PARAMETERS[self.role]) + len(self.tokens)
        beyond = max(self.frozen.code.co_argcount - given, 0)
        if not beyond and self.frozen.parameters[1] == given:
            return function
        return jit(_filled(function, given, self.frozen.defaults[-beyond:] if beyond else ()))


def _filled(function: Any, given: int, values: tuple[Any, ...]) -> Callable[..., Any]:
    """The function of its first `given` parameters, with these values for the others."""
    defaults = {f"default{i}": value for i, value in enumerate(values)}
    names = ", ".join(f"x{i}" for i in range(given))
    scope = {"function": function, **defaults}
    exec(f"def filled({names}):\n    return function({', '.join([names, *defaults])})", scope)
    return scope["filled"]


# Every declared function by its name in slugs, so that a factory finds it from a dispatch key alone.
FUNCTIONS: dict[str, UserFunction] = {}


def functions_of(*texts: str) -> list[UserFunction]:
    """The functions that mask and bias texts of a dispatch key name; ProblemError for one not declared here."""
    names = [name for text in texts for name in text.split("+") if name.startswith(("mod_", "score_mod_"))]
    unknown = [f"{name} is a function that this process has not declared" for name in names if name not in FUNCTIONS]
    if unknown:
        raise ProblemError(unknown)
    return [FUNCTIONS[name] for name in dict.fromkeys(names)]


@dataclass(frozen=True, eq=False, init=False)
class FromFunction(Declaration):
    """A declaration that a Python function makes. aux: further arguments, arrays and numbers.

    Arrays lie on q's device, and the function indexes them; numbers come to it as int32 or float32.
    """

    function: Any
    aux: tuple[Any, ...]
    role: ClassVar[str]

    def __init__(self, function: Any, *aux: Any) -> None:
        numbers = tuple(int(a) if isinstance(a, Integral) else float(a) if isinstance(a, Real) else a for a in aux)
        faults = [
            f"aux {i} is a {type(a).__name__}; arrays and numbers are allowed"
            for i, a in enumerate(numbers)
            if not isinstance(a, _NUMBERS) and not (hasattr(a, "dtype") and hasattr(a, "shape"))
        ]
        tokens = () if faults else aux_tokens(numbers)
        self._set(function, numbers, _declared(self.role, function, len(numbers), tokens, faults))

    def _set(self, function: Any, aux: tuple[Any, ...], name: str) -> None:
        for field, value in (("function", function), ("aux", aux), ("_name", name)):
            object.__setattr__(self, field, value)

    @property
    def name(self) -> str:
        return self._name  # type: ignore[attr-defined]

    @property
    def word(self) -> str:
        return self.name

    @property
    def parts(self) -> tuple[Any, ...]:
        return self.aux

    @classmethod
    def named(cls, name: str, aux: tuple[Any, ...]) -> Any:
        """The declaration of a function that was declared under this name."""
        twin = object.__new__(cls)
        twin._set(FUNCTIONS[name].frozen, aux, name)
        return twin

    @property
    def tokens(self) -> tuple[str, ...]:
        return aux_tokens(self.aux)

    @cached_property
    def arrays(self) -> tuple[tuple[str, Any], ...]:
        return tuple((f"{self.kind}'s aux {i}", a) for i, a in enumerate(self.aux) if not isinstance(a, _NUMBERS))

    @cached_property
    def without_arrays(self) -> tuple[Any, ...]:
        # A float as text: 0.0 and -0.0 are equal, and a function may tell them apart.
        return (self.name, *[a.hex() if isinstance(a, float) else a if isinstance(a, int) else None for a in self.aux])

    def with_arrays(self, arrays: Iterator[Any]) -> Any:
        twin = object.__new__(type(self))
        twin._set(self.function, tuple(a if isinstance(a, _NUMBERS) else next(arrays) for a in self.aux), self.name)
        return twin

    def arguments(self, problem: Sizes) -> tuple[Any, ...]:
        return self.aux

    def faults(self, problem: Sizes, bounded: bool = False) -> list[str]:
        faults = []
        for i, value in enumerate(self.aux):
            label = f"{self.kind}'s aux {i}"
            if isinstance(value, ArrayView):
                if value.dtype not in AUX_DTYPES:
                    faults.append(f"{label} is {value.dtype}; allowed: {', '.join(AUX_DTYPES)}")
                faults += place_faults(label, value, problem.device)
            elif isinstance(value, int) and not -(2**31) <= value < 2**31:
                faults.append(f"{label} is {value}; whole numbers are passed as int32")
            elif isinstance(value, float) and _MOST_FLOAT32 < abs(value) < inf:
                faults.append(f"{label} is {value}; numbers are passed as float32, at most {_MOST_FLOAT32:.3g}")
        return faults


def _declared(role: str, function: Any, extra: int, tokens: tuple[str, ...], faults: list[str]) -> str:
    """The name of the function, entered in FUNCTIONS; ProblemError with every fault of it and those of its aux."""
    try:
        frozen = freeze(function)
    except Unfrozen as error:
        raise ProblemError([f"the {role} function {fault}" for fault in error.faults] + faults) from None
    faults = faults + _parameter_faults(role, frozen, extra)
    if faults:
        raise ProblemError([f"the {role} function {frozen.label}: {fault}" for fault in faults])
    return _registered(role, frozen, tokens).name


# torch.compile calls it when it reads a program that declares a function; it cannot read what this does.
_declared._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _registered(role: str, frozen: Frozen, tokens: tuple[str, ...]) -> UserFunction:
    import hashlib

    digest = hashlib.sha256(repr((role, tokens)).encode() + frozen.digest).digest()
    name = f"{PREFIXES[role]}_{digest.hex()[:_HASH_DIGITS]}"
    found = FUNCTIONS.setdefault(name, UserFunction(name, role, frozen, tokens, digest))
    if found.digest != digest:
        raise ProblemError([f"{found.frozen.label} and {frozen.label} have one name, {name}: change one of them slightly"])
    return found


def _parameter_faults(role: str, frozen: Frozen, extra: int) -> list[str]:
    least, most = frozen.parameters
    given = len(PARAMETERS[role]) + extra
    if least <= given <= most:
        return []
    wanted = ", ".join([*PARAMETERS[role], *[f"aux {i}" for i in range(extra)]])
    takes = f"{least}" if least == most else f"{least} or more" if most > 255 else f"{least} to {most}"
    return [f"it takes {takes} arguments, and is called with {given}: ({wanted})"]


def aux_tokens(aux: tuple[Any, ...]) -> tuple[str, ...]:
    """Kinds of the launch arguments that aux values become."""
    return tuple(
        "float32" if isinstance(a, float) else "int32" if isinstance(a, int) else array_token(a) for a in aux
    )
