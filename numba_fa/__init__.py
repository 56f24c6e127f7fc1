"""Exact attention for device arrays, with GPU kernels in Python compiled by Numba-CUDA.

Importing this loads no compiler, no framework and no driver; what is used is imported when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numba_fa.api import attention, explain, plan
    from numba_fa.backward import Gradients, attention_backward
    from numba_fa.blocks import block_mask
    from numba_fa.compat import flash_attn_func
    from numba_fa.emulator.call import emulate
    from numba_fa.errors import CompileError, FunctionError, LaunchError, ProblemError, StoreWarning, UnsupportedError
    from numba_fa.problem.biases import ALiBi, DenseBias, ScoreMod, Softcap, T5Bias
    from numba_fa.problem.masks import (
        All,
        Any,
        BlockMask,
        Causal,
        Document,
        Full,
        KeyPadding,
        MaskMod,
        PrefixLM,
        SlidingWindow,
    )  # fmt: skip

__version__ = "0.1.0"

_HOMES = {
    "attention": "api",
    "explain": "api",
    "plan": "api",
    "Gradients": "backward",
    "attention_backward": "backward",
    "block_mask": "blocks",
    "flash_attn_func": "compat",
    "emulate": "emulator.call",
    **dict.fromkeys(
        ("All", "Any", "BlockMask", "Causal", "Document", "Full", "KeyPadding", "MaskMod", "PrefixLM", "SlidingWindow"),
        "problem.masks",
    ),
    **dict.fromkeys(("ALiBi", "DenseBias", "ScoreMod", "Softcap", "T5Bias"), "problem.biases"),
    "CompileError": "errors",
    "FunctionError": "errors",
    "LaunchError": "errors",
    "ProblemError": "errors",
    "StoreWarning": "errors",
    "UnsupportedError": "errors",
}

__all__ = [
    "ALiBi", "All", "Any", "BlockMask", "Causal", "CompileError", "DenseBias", "Document", "Full", "FunctionError",
    "Gradients", "KeyPadding", "LaunchError", "MaskMod", "PrefixLM", "ProblemError", "ScoreMod", "SlidingWindow", "Softcap",
    "StoreWarning", "T5Bias", "UnsupportedError", "attention", "attention_backward", "block_mask", "emulate",
    "explain", "flash_attn_func", "plan",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Import a public name at its first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'numba_fa' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"numba_fa.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
