"""The program's part of a tile, behind function pointers: a new mask or bias compiles these and not the kernel.

Each hook takes the launch arguments packed (`launch_arguments.pack`), unpacks them and calls the program's functions
on valid indices alone. A tile of scores holds keys x queries.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit, types
from numba.core.errors import NumbaError

from numba_fa.flash.program import Program, make_program
from numba_fa.kernels.cpu.launch_arguments import PACKED, TYPES, make_unpack
from numba_fa.kernels.cpu.stand_ins import with_stand_ins
from numba_fa.problem.functions import functions_of
from numba_fa.problem.user_errors import check_functions, explain_compile_error

LOG2_E = math.log2(math.e)
MINUS_INFINITY = np.float32(-np.inf)

_PACKAGE = "numba_fa."
_CHECKED: set[str] = set()  # names of functions that compile alone
OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}, "nogil": True}
# Rows of a dense bias lie 2**n bytes apart as a rule, in one set of the first-level cache, which has room for about 8.
_STRIP, _WHOLE_TILE = 8, 2**30
_i, _scores = types.int64, types.Array(types.float32, 2, "C")
# next_keys(batch, head, q_first, q_last, kv_last, block_n, packed)
NEXT_KEYS = types.int64(_i, _i, _i, _i, _i, _i, PACKED)
# hide, modify(scores, batch, head, q_first, kv_first, keys, queries, packed)
ON_TILE = types.void(_scores, _i, _i, _i, _i, _i, _i, PACKED)


@dataclass(frozen=True)
class Hooks:
    """A program compiled for the CPU. modify is None when there is no bias, sink when there is no sink_logits.

    texts: the key's mask and bias.
    """

    texts: tuple[str, str]
    tokens: tuple[str, ...]
    next_keys: Any
    hide: Any
    modify: Any
    sink: int | None


@lru_cache(maxsize=1024)
def make_hooks(mask: str, bias: str, tokens: tuple[str, ...]) -> Hooks:
    """The hooks of a key's mask and bias, with launch arguments of the kinds `tokens`; CompileError for users' mistakes."""
    with users_errors(mask, bias):
        program, unpack = make_program(mask, bias, device), make_unpack(tokens)
        strip = _STRIP if any(token.endswith(":4") for token in tokens) else _WHOLE_TILE
        modify = _modify(program, unpack, strip) if program.modify else None
        return Hooks((mask, bias), tokens, make_next_keys(mask, tokens), _hide(program, unpack), modify, program.sink)


@lru_cache(maxsize=1024)
def make_next_keys(mask: str, tokens: tuple[str, ...]) -> Any:
    """next_keys of a mask, with launch arguments of the kinds `tokens`."""
    with users_errors(mask, "none"):
        return _next_keys(make_program(mask, "none", device), make_unpack(tokens))


@contextmanager
def users_errors(mask: str, bias: str) -> Iterator[None]:
    """What is wrong with the users' functions of a key's texts as CompileErrors: found alone, or in what is compiled."""
    functions = functions_of(mask, bias)
    check_functions([each for each in functions if each.name not in _CHECKED], device, TYPES)
    _CHECKED.update(each.name for each in functions)
    try:
        yield
    except NumbaError as error:
        if not functions:
            raise
        raise explain_compile_error(error, functions) from error


def _next_keys(program: Program, unpack: Any) -> Any:
    reach, whole = program.reach, program.whole

    @njit(NEXT_KEYS, **OPTIONS)
    def next_keys(batch, head, q_first, q_last, kv_last, block_n, packed):
        """The last key up to kv_last that these queries may see; less than 0 when no key is left.

        Twice that key, plus 1 when they all see the keys from the start of its tile of block_n up to it.
        """
        aux = unpack(packed)
        last = min(kv_last, np.int64(reach(batch, head, q_first, q_last, kv_last, aux)))
        if last < 0:
            return -1
        seen = whole(batch, head, q_first, q_last, last // block_n * block_n, last, aux)
        return 2 * last + (1 if seen else 0)

    return next_keys


def _hide(program: Program, unpack: Any) -> Any:
    visible = program.visible

    @njit(ON_TILE, **OPTIONS)
    def hide(scores, batch, head, q_first, kv_first, keys, queries, packed):
        """Set the scores of keys that their query does not see to -inf."""
        aux = unpack(packed)
        for j in range(keys):
            for i in range(queries):
                if not visible(batch, head, q_first + i, kv_first + j, aux):
                    scores[j, i] = MINUS_INFINITY

    return hide


def _modify(program: Program, unpack: Any, strip: int) -> Any:
    modify_score, log2_e = program.modify, np.float32(LOG2_E)

    @njit(ON_TILE, **OPTIONS)
    def modify(scores, batch, head, q_first, kv_first, keys, queries, packed):
        """From scaled scores to biased ones times log2(e), which a softmax in base 2 takes."""
        aux = unpack(packed)
        for start in range(0, queries, strip):
            for j in range(keys):
                for i in range(min(strip, queries - start)):
                    at = np.uint64(start + i)  # unsigned, so that no index is taken to count from the end
                    score = modify_score(scores[j, at], batch, head, q_first + start + i, kv_first + j, aux)
                    scores[j, at] = np.float32(score) * log2_e

    return modify


@njit(ON_TILE, **OPTIONS)
def leave(scores, batch, head, q_first, kv_first, keys, queries, packed):
    """`modify` where there is no bias: log2(e) is in the queries already."""


def device(function: Any) -> Any:
    """Make a program's function callable from hooks; they alone call it, so it has no wrappers for other callers.

    Numba inlines the library's own functions, which saves a quarter of the time to compile; what users may write is too
    much for that.
    """
    own = with_stand_ins(function)
    written_here = own.__globals__.get("__name__", _PACKAGE).startswith(_PACKAGE)  # generated code has no module
    inline = "always" if written_here else "never"
    return njit(own, no_cpython_wrapper=True, no_cfunc_wrapper=True, inline=inline, **OPTIONS)
