"""The launch arguments that a dispatch key's mask and bias stand for, from their texts alone."""

from __future__ import annotations

from numba_fa.problem.dtypes import DTYPES
from numba_fa.problem.functions import FUNCTIONS

SINK = "array:float32:1"
_TOKENS = {
    "full": (),
    "causal": ("int32",),
    "window": ("int32", "int32", "int32"),
    "padding": ("array:int32:1",),
    "document": ("array:int32:2", "array:int32:2"),
    "prefix": ("int32", "array:int32:1"),
    "prefix_int": ("int32", "int32"),
    "block": ("array:int32:2", "int32", "int32", "int32", "int32"),
    "alibi": ("int32", "array:float32:2"),
    "t5": ("int32", "array:float32:2"),
    "softcap": ("float32",),
    "sink": (SINK,),
    "none": (),
}
_ARRAY_NAMES = {dtype.name: dtype.array_name for dtype in DTYPES.values()}


def tokens_of(mask: str, bias: str) -> tuple[str, ...]:
    """Kinds of the arguments of a key's mask and bias texts, in order; KeyError for a name that stands for nothing."""
    names = [name for name in f"{mask}+{bias}".split("+") if name[:3] not in ("all", "any")]
    return tuple(token for name in names for token in _named(name))


def _named(name: str) -> tuple[str, ...]:
    if name in FUNCTIONS:
        return FUNCTIONS[name].tokens
    kind, _, fact = name.partition("_")
    if kind == "dense":
        return (f"array:{_ARRAY_NAMES[fact]}:4",)
    return _TOKENS["t5" if kind == "t5" else name]
