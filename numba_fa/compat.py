"""FlashAttention's function names, argument order and meaning."""

from __future__ import annotations

from typing import Any

from numba_fa.api import attention
from numba_fa.errors import ProblemError, UnsupportedError


def flash_attn_func(
    q: Any,
    k: Any,
    v: Any,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Any = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """As flash_attn.flash_attn_func (FlashAttention 2).

    q: (batch, seqlen_q, heads, head_dim). k, v: (batch, seqlen_k, heads_kv, head_dim). causal aligns bottom-right.
    deterministic is always so in forward. Returns the output like q; with return_attn_probs (out, lse, None): lse
    float32 (batch, heads, seqlen_q), and None in place of the probabilities, which FlashAttention gives for dropout
    only. Raises UnsupportedError for what is not there yet (dropout, windows, softcap, ALiBi), never ignoring it;
    other errors as of `attention`.
    """
    asked = {
        "dropout_p": dropout_p != 0.0,
        "window_size": tuple(window_size) not in ((-1, -1), (None, None), (-1, 0) if causal else (-1, -1)),
        "softcap": softcap != 0.0,
        "alibi_slopes": alibi_slopes is not None,
    }
    values = {"dropout_p": dropout_p, "window_size": window_size, "softcap": softcap, "alibi_slopes": "given"}
    if not 0 <= dropout_p < 1:
        raise ProblemError([f"dropout_p is {dropout_p}; at least 0 and below 1 is wanted"])
    missing = [f"{name}={values[name]}" for name, wanted in asked.items() if wanted]
    if missing:
        raise UnsupportedError(
            f"flash_attn_func does not compute {', '.join(missing)} yet",
            nearest="the same call without " + " and ".join(text.partition("=")[0] for text in missing),
        )
    mask = "causal" if causal else "full"
    result = attention(q, k, v, mask=mask, scale=softmax_scale, return_lse=return_attn_probs)
    return (*result, None) if return_attn_probs else result
