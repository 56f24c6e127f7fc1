"""The reference: attention in float64 NumPy, the truth that every kernel is held against. See README.md."""
from .attention import attention
from .bias_gradients import ScoreMod
from .biases import BIASES, alibi, dense, softcap, t5, t5_bucket
from .gradients import Gradients, attention_backward, attention_backward_rounded
from .heads import expand_kv_heads
from .masks import (
    MASK_KINDS,
    MASKS,
    causal,
    document,
    full,
    intersection,
    padding,
    prefix,
    union,
    visible_keys,
    window,
)
from .parameters import bind
from .rounded import attention_rounded
from .rounding import FORMATS, round_to
from .tiled import attention_tiled, merge

__all__ = [
    "BIASES",
    "FORMATS",
    "Gradients",
    "MASKS",
    "MASK_KINDS",
    "ScoreMod",
    "alibi",
    "attention",
    "attention_backward",
    "attention_backward_rounded",
    "attention_rounded",
    "attention_tiled",
    "bind",
    "causal",
    "dense",
    "document",
    "expand_kv_heads",
    "full",
    "intersection",
    "merge",
    "padding",
    "prefix",
    "round_to",
    "softcap",
    "t5",
    "t5_bucket",
    "union",
    "visible_keys",
    "window",
]
