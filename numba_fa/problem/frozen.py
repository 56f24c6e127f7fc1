"""A Python function with all that it refers to, taken at one moment: hashed, and rebuilt for a compiler.

Byte code is read as instructions whose arguments are resolved: a global or a closure's variable counts by what it
holds, a constant by its value, a local variable by its number. So neither names nor places count. What may change later
without the function noticing (a list, an array) cannot be taken and is refused by name.
"""

from __future__ import annotations

import builtins
import dis
import enum
import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

_FLAGS = 0x04 | 0x08 | 0x20 | 0x80 | 0x200  # *args, **kwargs, generator, coroutine, asynchronous generator
_DEREF = frozenset(dis.hasfree)
_CONST = frozenset(dis.hasconst)
_NAME = frozenset(dis.hasname)
# What compilers refuse less clearly or, of exceptions, do not pass on: a kernel's threads have nobody to raise to.
_REFUSED = {
    "RAISE_VARARGS": "raises an exception, and none leaves a kernel; return a number such as math.nan in its place",
    "PUSH_EXC_INFO": "has a try or with statement, and there are no exceptions in a kernel",
    "STORE_GLOBAL": "writes to a global variable; only local ones can be written",
    "IMPORT_NAME": "imports a module; import it outside of the function",
}
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))
# Functions of these packages stand for themselves: compilers know them, and they change with versions only.
_KNOWN = ("builtins", "math", "cmath", "operator", "_operator", "numpy", "numba", "ml_dtypes")


class Unfrozen(Exception):
    """A function cannot be taken; `faults` says all that stands in the way."""

    def __init__(self, faults: list[str]):
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True)
class Frozen:
    """A function taken apart. globals, cells: what its code refers to, functions frozen likewise.

    parameters: the fewest and the most positional arguments it takes. digest: of its meaning.
    """

    code: CodeType
    name: str
    module: str
    defaults: tuple[Any, ...]
    globals: dict[str, Any]
    cells: tuple[Any, ...]
    parameters: tuple[int, float]
    digest: bytes

    @property
    def label(self) -> str:
        """Its name and where it is written."""
        return f"{self.name} ({self.code.co_filename}:{self.code.co_firstlineno})"


def freeze(function: Any) -> Frozen:
    """Take a Python function, or the one inside a Numba dispatcher; Unfrozen where that cannot be."""
    python = getattr(function, "py_func", function)
    if not isinstance(python, FunctionType):
        raise Unfrozen([f"is {function!r}; a Python function is wanted, plain or compiled by Numba"])
    cells = python.__closure__ or ()
    known = _KNOWN_CODES.get(id(python.__code__))
    if known is not None and known.still_of(python, cells):
        return known.frozen
    freezer = _Freezer()
    frozen = freezer.function(python)
    if len(_KNOWN_CODES) >= _MOST_KNOWN:
        _KNOWN_CODES.clear()
    held = tuple(cell.cell_contents for cell in cells)
    _KNOWN_CODES[id(frozen.code)] = _Known(frozen, python.__globals__, held, tuple(freezer.found))
    return frozen


class _Known(NamedTuple):
    """A function's code that was taken, and all that was looked up for it: while each is the same object, so is all."""

    frozen: Frozen
    scope: dict[str, Any]
    cells: tuple[Any, ...]
    found: tuple[tuple[Any, str, Any], ...]  # (a scope, module, function or cell; name; value)

    def still_of(self, function: FunctionType, cells: tuple[CellType, ...]) -> bool:
        """Whether taking `function`, of the same code, would find the same."""
        if function.__globals__ is not self.scope or function.__name__ != self.frozen.name:
            return False
        now = (*[cell.cell_contents for cell in cells], *(function.__defaults__ or ()))
        then = (*self.cells, *self.frozen.defaults)
        same = len(now) == len(then) and all(a is b for a, b in zip(now, then))
        return same and all(_look(holder, name) is value for holder, name, value in self.found)


_KNOWN_CODES: dict[int, _Known] = {}  # by id; each holds its code, so that no other gets that id
_MOST_KNOWN = 256
_MISSING = object()


def _look(holder: Any, name: str) -> Any:
    return holder.get(name, _MISSING) if isinstance(holder, dict) else getattr(holder, name, _MISSING)


def rebuild(frozen: Frozen, jit: Callable[[Callable[..., Any]], Any]) -> Any:
    """`jit` of the function, which refers to `jit` of each function it calls."""

    def value(held: Any) -> Any:
        return rebuild(held, jit) if isinstance(held, Frozen) else held

    scope = {name: value(held) for name, held in frozen.globals.items()}
    scope |= {"__builtins__": builtins, "__name__": frozen.module}
    cells = tuple(CellType(value(held)) for held in frozen.cells)
    return jit(FunctionType(frozen.code, scope, frozen.name, frozen.defaults or None, cells or None))


class _Freezer:
    """One walk through a function and all it refers to."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.found: list[tuple[Any, str, Any]] = []
        self._open: list[FunctionType] = []
        self._done: dict[FunctionType, Frozen] = {}

    def function(self, function: FunctionType) -> Frozen:
        """The function, frozen; Unfrozen with every fault, its callees' included, once the outermost is done."""
        if function not in self._done:
            self._open.append(function)
            self.found += [(function, "__code__", function.__code__), (function, "__defaults__", function.__defaults__)]
            self._done[function] = self._taken(function)
            self._open.pop()
        if self.faults and not self._open:
            raise Unfrozen(list(dict.fromkeys(self.faults)))
        return self._done[function]

    def _taken(self, function: FunctionType) -> Frozen:
        code, defaults = function.__code__, function.__defaults__ or ()
        label = f"{function.__name__} ({code.co_filename}:{code.co_firstlineno})"
        cells: dict[str, Any] = {}
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                self.found.append((cell, "cell_contents", cell.cell_contents))
                cells[name] = self._held(cell.cell_contents, name, label)
            except ValueError:
                self.faults.append(f"{label} closes over {name}, which has no value yet")
                cells[name] = None
        reader = _Reader(self, function.__globals__, cells, label)
        words = [*reader.words(code), *[self.word(value, "a default", label) for value in defaults]]
        if code.co_flags & (0x20 | 0x80 | 0x200):
            self.faults.append(f"{label} is a generator or a coroutine; a function that returns a value is wanted")
        if code.co_kwonlyargcount or code.co_flags & 0x08:
            self.faults.append(f"{label} has keyword-only parameters or **keywords; positional ones are wanted")
        most = float("inf") if code.co_flags & 0x04 else code.co_argcount
        return Frozen(
            code, function.__name__, function.__module__ or "__main__", defaults, reader.globals, tuple(cells.values()),
            (code.co_argcount - len(defaults), most), hashlib.sha256(repr(words).encode()).digest(),
        )  # fmt: skip

    def _held(self, value: Any, name: str, label: str) -> Any:
        """What a rebuilt function holds in place of `value`: functions frozen, all else itself."""
        python = getattr(value, "py_func", value)
        if isinstance(python, FunctionType) and not _known(python):
            if python in self._open:
                self.faults.append(f"{label} calls {name} in a circle; recursion is not compiled")
                return None
            return self.function(python)
        return value

    def word(self, value: Any, name: str, label: str) -> Any:
        """What stands for `value` in a hash; a fault where it may change."""
        if isinstance(value, Frozen):
            return ("function", value.digest.hex())
        if isinstance(value, enum.Enum):
            return ("enum", type(value).__qualname__, value.name, self.word(value.value, name, label))
        if type(value) in _PLAIN:
            return (type(value).__name__, repr(value))
        if isinstance(value, (tuple, frozenset)):
            words = [self.word(item, name, label) for item in value]
            return (type(value).__name__, words if isinstance(value, tuple) else sorted(map(repr, words)))
        if isinstance(value, ModuleType):
            return ("module", value.__name__)
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.generic):
            return ("numpy", str(value.dtype), value.tobytes().hex())
        if numpy is not None and isinstance(value, numpy.dtype):
            return ("dtype", str(value))
        if _known(value) or isinstance(value, BuiltinFunctionType):
            return ("known", getattr(value, "__module__", None) or "", getattr(value, "__qualname__", None) or str(value))
        if isinstance(value, type):
            return ("type", value.__module__, value.__qualname__)
        self.faults.append(
            f"{label} refers to {name}, a {type(value).__name__}, which may change after it is compiled; pass an array "
            "as aux, or make it a number or a tuple of numbers"
        )
        return None


class _Reader:
    """The words of a function's code, nested code included. globals: what it found in the global scope."""

    def __init__(self, freezer: _Freezer, scope: dict[str, Any], cells: dict[str, Any], label: str) -> None:
        self._freezer, self._scope, self._cells, self._label = freezer, scope, cells, label
        self.globals: dict[str, Any] = {}

    def words(self, code: CodeType) -> Iterator[Any]:
        """One word an instruction; then what else of the code counts."""
        module = None  # the one that the last instruction loaded
        for step in dis.get_instructions(code):
            if step.opname in _REFUSED:
                self._freezer.faults.append(f"{self._label} {_REFUSED[step.opname]}{_line_of(step)}")
            if step.opcode in _CONST:
                value = code.co_consts[step.arg or 0] if step.opname == "KW_NAMES" else step.argval  # 3.11 gives no argval
                yield step.opname, self._constant(value)
            elif step.opcode in _DEREF:
                yield step.opname, self._variable(step.argval, code)
            elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                value = self._global(step.argval)
                yield step.opname, (step.arg or 0) & 1, self._freezer.word(value, step.argval, self._label)
                module = value if isinstance(value, ModuleType) else None
                continue
            elif step.opcode in _NAME:
                value = self._attribute(module, step.argval) if module else None
                told = step.argval if module is None else self._freezer.word(value, step.argval, self._label)
                yield step.opname, (step.arg or 0) & 1 if "LOAD_ATTR" in step.opname else 0, told
                module = value if isinstance(value, ModuleType) else None
                continue
            else:
                yield step.opname, step.arg
            module = None
        yield code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _FLAGS
        yield code.co_exceptiontable.hex() if hasattr(code, "co_exceptiontable") else ""

    def _constant(self, value: Any) -> Any:
        if isinstance(value, CodeType):
            return list(self.words(value))
        return self._freezer.word(value, "a constant", self._label)

    def _variable(self, name: str, code: CodeType) -> Any:
        """A closure's variable by its value, one of the function's own by its number."""
        if name in self._cells:
            return self._freezer.word(self._cells[name], name, self._label)
        own = code.co_cellvars + code.co_freevars
        return own.index(name) if name in own else code.co_varnames.index(name)

    def _global(self, name: str) -> Any:
        if name not in self.globals:
            self._freezer.found.append((self._scope, name, self._scope.get(name, _MISSING)))
            if name in self._scope:
                self.globals[name] = self._freezer._held(self._scope[name], name, self._label)
            elif hasattr(builtins, name):
                return getattr(builtins, name)
            else:
                self._freezer.faults.append(f"{self._label} refers to {name}, which is not defined")
                return None
        return self.globals[name]

    def _attribute(self, module: ModuleType, name: str) -> Any:
        value = getattr(module, name, None)
        self._freezer.found.append((module, name, value))
        if value is None and not hasattr(module, name):
            self._freezer.faults.append(f"{self._label} refers to {module.__name__}.{name}, which is not defined")
        elif isinstance(getattr(value, "py_func", value), FunctionType) and not _known(value):
            self._freezer.faults.append(
                f"{self._label} calls {module.__name__}.{name} through its module; import the function by its name"
            )
            return None
        return value


def _line_of(step: dis.Instruction) -> str:
    """Where an instruction is written; nothing where it is on no line, as handlers of exceptions begin."""
    line = getattr(step.positions, "lineno", None)
    return f" (line {line})" if line else ""


def _known(value: Any) -> bool:
    """Whether it is one of the things that compilers know by name: of Python, NumPy or Numba."""
    if not callable(value):
        return type(value).__module__.startswith(("numba.core.types", "numba.cuda.types", "numba.cuda.stubs"))
    home = getattr(value, "__module__", None)
    home = home if isinstance(home, str) else type(value).__module__
    return home.partition(".")[0] in _KNOWN
