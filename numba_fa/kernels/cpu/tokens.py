"""Kinds of the launch arguments of a key's mask and biases, in order."""

from __future__ import annotations

from numba_fa.problem.functions import FUNCTIONS

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_TOKENS = {
    "block": ("array:int32:4", "int32", "int32"),
    "full": (),
    "causal": ("int32",),
    "window": ("int32", "int32", "int32"),
    "padding": ("array:int32:1",),
    "document": ("array:int32:2", "array:int32:2"),
    "prefix": ("int32", "array:int32:1"),
    "prefix_int": ("int32", "int32"),
    "alibi": ("int32", "array:float32:2"),
    "softcap": ("float32",),
    "t5": ("int32", "array:float32:2"),
    "sink": ("array:float32:1",),
    "none": (),
}


def tokens_of(mask: str, bias: str) -> tuple[str, ...]:
    """The tokens for a key's texts; KeyError for a name that stands for nothing."""
    names = [name for name in f"{mask}+{bias}".split("+") if not name.startswith(("all", "any"))]
    return tuple(token for name in names for token in _named(name))


def _named(name: str) -> tuple[str, ...]:
    if name in FUNCTIONS:
        return FUNCTIONS[name].tokens
    kind, _, rest = name.partition("_")
    if kind == "dense":
        return (f"array:{_DTYPES[rest]}:4",)
    return _TOKENS["t5" if kind == "t5" else name]
