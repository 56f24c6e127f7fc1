"""FlashAttention's function names, argument order and meaning."""

from __future__ import annotations

from typing import Any

from numba_fa.api import attention, deterministic_attention
from numba_fa.errors import ProblemError, UnsupportedError
from numba_fa.problem.biases import ALiBi, Bias, Softcap
from numba_fa.problem.masks import Causal, Full, Mask, SlidingWindow


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

    q: (batch, seqlen_q, heads, head_dim). k, v: (batch, seqlen_k, heads_kv, head_dim), v maybe with its own head_dim.
    causal aligns bottom-right, and so does window_size (left, right), -1 for no bound; with causal its right is 0.
    softcap, above 0, is applied before alibi_slopes, float32 (heads,) or (batch, heads). Outputs are bit-equal from run
    to run; deterministic: gradients too. Returns the output like q, with v's head_dim; with return_attn_probs (out,
    lse, None): lse float32 (batch, heads, seqlen_q), and None in place of the probabilities, which FlashAttention gives
    for dropout only. Gradients as of `attention`. Raises UnsupportedError for dropout, which is not there yet; other
    errors as of `attention`.
    """
    if not 0 <= dropout_p < 1:
        raise ProblemError([f"dropout_p is {dropout_p}; at least 0 and below 1 is wanted"])
    if dropout_p:
        raise UnsupportedError(
            f"flash_attn_func does not compute dropout_p={dropout_p} yet", nearest="the same call without dropout_p"
        )
    mask = _mask(causal, window_size)
    biases: list[Bias] = [Softcap(softcap)] if softcap != 0.0 else []
    biases += [ALiBi(alibi_slopes)] if alibi_slopes is not None else []
    compute = deterministic_attention if deterministic else attention
    result = compute(q, k, v, mask=mask, bias=biases or None, scale=softmax_scale, return_lse=return_attn_probs)
    return (*result, None) if return_attn_probs else result


def _mask(causal: bool, window_size: Any) -> Mask:
    """The mask that FlashAttention means: causal forces the right bound to 0, whatever it was."""
    try:
        left, right = window_size
    except (TypeError, ValueError):
        raise ProblemError([f"window_size is {window_size!r}; two whole numbers (left, right) are wanted"]) from None
    left, right = (-1 if side is None else side for side in (left, right))
    right = 0 if causal else right
    if (left, right) == (-1, -1):
        return Full()
    return Causal() if (left, right) == (-1, 0) else SlidingWindow(left, right)
