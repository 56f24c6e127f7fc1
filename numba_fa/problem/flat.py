"""Masks and biases taken apart into a text, numbers and arrays, which a framework's graph can hold, and put together again.

The text says all but the numbers and the arrays: "causal()", "all(causal(),padding(a))|softcap(f)|alibi(a)", the mask
first. The same text means the same in every process, but for users' functions, which it has by name: those must have
been declared. In a text i is a whole number, f another number, a an array, T, F and N are True, False and None, and
parentheses without a name are a tuple. `flat` is written for torch.compile, which reads it as it reads a user's code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from numbers import Integral, Real
from typing import Any

from numba_fa.errors import ProblemError
from numba_fa.problem import biases, masks
from numba_fa.problem.biases import Bias
from numba_fa.problem.declared import Declaration
from numba_fa.problem.functions import FUNCTIONS
from numba_fa.problem.masks import Mask

Node = tuple[str, "tuple[Node, ...]"]  # (name, what is in its parentheses)

_KINDS: dict[str, Any] = {**masks.KINDS, **biases.KINDS}
_CONSTANTS = {"T": True, "F": False, "N": None}
_WORD = re.compile(r"\w*")


def flat(mask: Mask, bias: Sequence[Bias]) -> tuple[str, list[int], list[float], list[Any]]:
    """(text, its whole numbers, its other numbers, its arrays), each in the order of the text."""
    ints: list[int] = []
    floats: list[float] = []
    arrays: list[Any] = []
    text = _written(mask, ints, floats, arrays)
    for one in bias:
        text += "|" + _written(one, ints, floats, arrays)
    return text, ints, floats, arrays


def _written(value: Any, ints: list[int], floats: list[float], arrays: list[Any]) -> str:
    if isinstance(value, (Declaration, tuple)):
        parts, word = (value, "") if isinstance(value, tuple) else (value.parts, value.word)
        text = ""
        for part in parts:
            text += ("," if text else "") + _written(part, ints, floats, arrays)
        return word + "(" + text + ")"
    if value is None or value is True or value is False:
        return "N" if value is None else "T" if value else "F"
    if isinstance(value, int):
        ints.append(value)
        return "i"
    if isinstance(value, float):
        floats.append(value)
        return "f"
    return _unusual(value, ints, floats, arrays)


def _unusual(value: Any, ints: list[int], floats: list[float], arrays: list[Any]) -> str:
    """A number of another library, or an array."""
    if isinstance(value, Integral):
        ints.append(int(value))
        return "i"
    if isinstance(value, Real):
        floats.append(float(value))
        return "f"
    arrays.append(value)
    return "a"


def together(
    text: str, ints: Sequence[int], floats: Sequence[float], arrays: Sequence[Any]
) -> tuple[Mask, tuple[Bias, ...]]:
    """The mask and the biases that `flat` took apart; ProblemError for a user's function not declared here."""
    values = {"i": iter(ints), "f": iter(floats), "a": iter(arrays)}
    mask, *bias = [_made(node, values) for node in _nodes(text)]
    return mask, tuple(bias)


def _made(node: Node, values: dict[str, Iterator[Any]]) -> Any:
    word, inside = node
    if word in values:
        return next(values[word])
    if word in _CONSTANTS:
        return _CONSTANTS[word]
    parts = tuple(_made(part, values) for part in inside)
    if not word:
        return parts
    if word in _KINDS:
        return _KINDS[word](*parts)
    if word not in FUNCTIONS:
        raise ProblemError([f"{word} is a function that this process has not declared"])
    return _KINDS[{"mask": "mod", "score": "score_mod"}[FUNCTIONS[word].role]].named(word, parts)


@lru_cache(maxsize=1024)
def parameters(text: str) -> dict[str, int]:
    """Which of the arrays are parameters that have gradients, by the names of those: "bias0" on."""
    found, before = {}, 0
    for number, node in enumerate(_nodes(text)):
        if number and node[0] in _KINDS and _KINDS[node[0]].parameter:
            found[f"bias{number - 1}"] = before
        before += _arrays_in(node)
    return found


def _arrays_in(node: Node) -> int:
    return (node[0] == "a") + sum(map(_arrays_in, node[1]))


@lru_cache(maxsize=1024)
def _nodes(text: str) -> tuple[Node, ...]:
    """The mask and the biases of a text."""
    found, at = [], 0
    while at <= len(text):
        node, at = _node(text, at)
        found.append(node)
        at += 1  # the bar behind it
    return tuple(found)


def _node(text: str, at: int) -> tuple[Node, int]:
    """What begins there, and where it ends."""
    match = _WORD.match(text, at)
    assert match
    word, at = match[0], match.end()
    if text[at : at + 1] != "(":
        return (word, ()), at
    inside, at = [], at + 1
    while text[at] != ")":
        node, at = _node(text, at + (text[at] == ","))
        inside.append(node)
    return (word, tuple(inside)), at + 1
