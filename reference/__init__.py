"""The reference: attention in float64 NumPy, the truth that every kernel is held against. See README.md."""
from .attention import attention
from .heads import expand_kv_heads
from .masks import MASKS, causal, full, visible_keys
from .rounded import attention_rounded
from .rounding import FORMATS, round_to
from .tiled import attention_tiled, merge

__all__ = [
    "FORMATS",
    "MASKS",
    "attention",
    "attention_rounded",
    "attention_tiled",
    "causal",
    "expand_kv_heads",
    "full",
    "merge",
    "round_to",
    "visible_keys",
]
