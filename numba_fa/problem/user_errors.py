"""Users' functions that do not compile, in their own words: their line, and Numba's message without what is around it."""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from numba_fa.errors import CompileError
from numba_fa.problem.frozen import Frozen
from numba_fa.problem.functions import PARAMETERS, UserFunction

# What Numba wraps around the message that matters.
_NOISE = re.compile(
    r"^(Failed in .* pipeline.*|During: .*|Enable logging.*|There (is|are) \d+ candidate.*|Overload of .*|- Of which.*|"
    r"Overload in .*|Rejected as .*|raised from .*|File \".*|<source elided>|This error .*|\[\d+\] During.*|\* \(.*|"
    r"with argument.*|Known signatures:|def .*|\^+|)$"
)
_PLACE = re.compile(r'(?:File "(?P<file>[^"]+)", line (?P<line>\d+)|(?:at|from) (?P<at>\S+) \((?P<number>\d+)\))')
_CALL = re.compile(r"No implementation of function (?P<name>.+?) found")
_MEMORY = "a list or an array is made here, and there is no memory for one on a GPU; a tuple may do"
# What Numba says -> what it means to a user.
_CLEARER = (
    (re.compile(r"(?:Function resolution .* function ')?<(?:built-in function|ufunc) '?(\w+)'?>.*"),
     r"Numba knows no \1() here"),
    (re.compile(r"Unknown attribute '(\w+)' of type Module\(<module '(?:math|numpy)'.*"), r"Numba knows no \1() here"),
    (re.compile(r"NRT required but not enabled|Unknown attribute 'append' of type list\(undefined\).*"), _MEMORY),
    (re.compile(r"Numba knows no setitem\(array.*"), r"\g<0>: arrays of aux are only read"),
    (re.compile(r"Unknown attribute '(\w+)' of type Module\(<module '(\w+)'.*"),
     r"\2.\1 is not compiled; Python's own functions, math's and NumPy's are"),
)  # fmt: skip
# Compilers' names of types -> those that the user's function is described with.
_TYPES = (
    (re.compile(r"Stored\((\w+), \w+(?:\(\w+\))?\)"), r"\1"),
    (re.compile(r"\b(?:Real|Dual)\b(?:\(\w+\))?"), "float32"),
    (re.compile(r"\b(?:Index|Position)\b"), "int32"),
    (re.compile(r"Literal\[(\w+)\]\([^)]*\)"), r"\1"),
    (re.compile(r"\bOptionalType\((\w+)\)"), r"\1 or None"),
    (re.compile(r"\b(?:unaligned |readonly )+"), ""),
)


def check_functions(functions: Sequence[UserFunction], jit: Callable[[Any], Any], tokens: Mapping[str, Any]) -> None:
    """Compile each function alone, by the types that a kernel calls it with, so that an error speaks of it alone.

    jit: makes a Numba dispatcher of a Python function. tokens: types by the kinds of launch arguments. CompileError
    where one does not compile, or returns what its role does not allow.
    """
    for user in functions:
        types = [tokens["float32" if name == "score" else "int32"] for name in PARAMETERS[user.role]]
        types += [tokens[token] for token in user.tokens]
        try:
            result = _return_type(user.built(jit), tuple(types))
        except Exception as error:  # Numba's own mistakes too: whatever it stumbles over here is the user's function
            raise explain_compile_error(error, [user]) from error
        words = _plain_types(str(result))
        fits = words in ("bool", "bool_") if user.role == "mask" else re.fullmatch(r"u?int\d*|float\d+", words)
        if not fits:
            wanted = "a bool, such as a comparison gives," if user.role == "mask" else "a number, the new score,"
            raise CompileError(f"the {user.role} function {user.frozen.label} returns {words}; {wanted} is wanted")


def _return_type(dispatcher: Any, types: tuple[Any, ...]) -> Any:
    """What a function returns for arguments of these types; compiles it."""
    if hasattr(dispatcher, "compile_device"):
        return dispatcher.compile_device(types).signature.return_type
    dispatcher.compile(types)
    return dispatcher.overloads[types].signature.return_type


def explain_compile_error(error: BaseException, functions: Sequence[UserFunction]) -> CompileError:
    """A Numba error as a CompileError that shows the user's line and says what is wrong with it.

    functions: those that the kernel was compiled with; the last of their lines that the error names is shown.
    """
    text = str(error)
    place = _place(text, error, functions)
    named = " or ".join(f"the {user.role} function {user.frozen.label}" for user in functions)
    head = f"{named} does not compile"
    if place:
        user, file, line = place
        source = linecache.getline(file, line).strip()
        head = f"the {user.role} function {user.frozen.label} does not compile\n  {file}:{line}: {source}"
    return CompileError(f"{head}\n  {_message(text or type(error).__name__)}")


def _place(text: str, error: BaseException, functions: Sequence[UserFunction]) -> tuple[UserFunction, str, int] | None:
    """The function, file and line of the last place in a user's code that the error names, in its callees' if it does."""
    found, deepest = None, 0
    for file, line in _named_places(text, error):
        for user in functions:
            for depth, code in enumerate(_codes(user.frozen)):
                last = max((number for _, _, number in code.co_lines() if number), default=code.co_firstlineno)
                same = code.co_filename == file or code.co_filename.endswith("/" + file.lstrip("./"))
                if same and code.co_firstlineno <= line <= last and depth >= deepest:
                    found, deepest = (user, code.co_filename, line), depth
    return found


def _named_places(text: str, error: BaseException) -> Iterator[tuple[str, int]]:
    """(file, line) of where Numba was: in the text, on the error, and in the frames it was raised through."""
    for match in _PLACE.finditer(text):
        yield match["file"] or match["at"], int(match["line"] or match["number"])
    # Numba-CUDA passes on errors of Numba's own classes without saying where it was.
    trace, places = error.__traceback__, [getattr(error, "loc", None)]  # type: ignore[var-annotated]
    while trace is not None:
        places.append(getattr(trace.tb_frame.f_locals.get("self"), "loc", None))
        trace = trace.tb_next
    yield from ((place.filename, place.line) for place in places if place is not None and hasattr(place, "filename"))


def _codes(frozen: Frozen) -> list[Any]:
    """The code of a function and of those it calls."""
    inner = [value for value in (*frozen.globals.values(), *frozen.cells) if isinstance(value, Frozen)]
    return [frozen.code, *[code for one in inner for code in _codes(one)]]


def _message(text: str) -> str:
    """The lines of Numba's text that say what is wrong: the first, and of an operation the types it was tried on."""
    call = list(_CALL.finditer(text))
    if call:
        tried = re.search(r">>> (.+)", text[call[-1].start() :])
        told = f"Numba knows no {tried[1].strip() if tried else call[-1]['name']}"
    else:
        lines = [line.strip() for line in text.splitlines()]
        told = next((line for line in lines if not _NOISE.match(line)), lines[0] if lines else "no message")
        told = re.sub(r"\. Raised from .*", "", told)
    told = _plain_types(told)
    for pattern, clearer in _CLEARER:
        told = pattern.sub(clearer, told)
    return told


def _plain_types(text: str) -> str:
    for pattern, plain in _TYPES:
        text = pattern.sub(plain, text)
    return text
