"""What the Hopper backward makes of a transposed tile of raw scores, keys by queries: scale and biases, then the mask."""

from typing import Any

from numba_fa.dispatch.key import DispatchKey
from numba_fa.flash.line import Line, make_line
from numba_fa.flash.online_softmax import LOG2_E, ONE
from numba_fa.flash.program import Program
from numba_fa.jit import device, int32
from numba_fa.kernels.sm90.questions import make_value
from numba_fa.ptx.elementwise import make_chain, make_keep, make_map, make_map_both
from numba_fa.ptx.fragment import make_scale_and_lift, make_scale_rows
from numba_fa.ptx.fragment_columns import make_keep_from

# Beyond every query.
_NEVER = 1 << 30


def make_level(key: DispatchKey) -> Line | None:
    """The line of biases that at most tiles add one number to every score; None for others.

    And beyond head_dim 192, where the scout has no registers to ask for it: it would spill 16 to 44 bytes.
    """
    line = make_line(key.mask, key.bias, device) if key.widest <= 192 else None
    return line if line and line.level else None


def make_judge_t(count: int, program: Program, level: Line | None, mask: str, *, fast: bool) -> tuple[Any, Any]:
    """(judge_t, chain_t) for fragments of `count` registers.

    judge_t(scores, scale, masked, index, head, kv0, kv1, start, seqlen_q, seqlen_k, aux) -> (scores, slopes). The scores
    come raw; with biases they leave scaled and biased, and slopes are their derivatives by the scaled scores. masked: not
    0 where a query of the tile may not see a key of it, or biases that have a level (`make_level`) do not lie on it. kv0,
    kv1: the thread's keys, which may lie past the end. start: the tile's first query plus the thread's column; queries past
    the end need no mask, their LSE is +inf.

    chain_t(weights, slopes) -> weights times slopes. Without biases there are no slopes, and both leave all as it is.
    """
    keep = _make_keep_t(count, program, mask, fast)
    if program.modify is None:

        @device
        def judge_t(scores, scale, masked, index, head, kv0, kv1, start, seqlen_q, seqlen_k, aux):
            if masked != 0:
                scores = keep(scores, index, head, kv0, kv1, start, seqlen_q, seqlen_k, aux)
            return scores, scores

        @device
        def chain_t(weights, slopes):
            return weights

        return judge_t, chain_t

    scale_rows, modify = make_scale_rows(count), program.modify

    @device
    def modify_t(score, b, h, kv_idx, q_idx, aux):
        return modify(score, b, h, q_idx, kv_idx, aux)

    if level is not None:
        return _make_judge_level(count, level, make_map(count, modify_t, clamp=True, fast=fast), scale_rows, keep)
    both, chain = make_map_both(count, modify_t, clamp=True, fast=fast), make_chain(count)

    @device
    def judge_biased_t(scores, scale, masked, index, head, kv0, kv1, start, seqlen_q, seqlen_k, aux):
        scores, slopes = both(scale_rows(scores, scale, scale), index, head, min(kv0, seqlen_k - 1), min(kv1, seqlen_k - 1),
                              start, seqlen_q - 1, aux)  # fmt: skip
        if masked != 0:
            scores = keep(scores, index, head, kv0, kv1, start, seqlen_q, seqlen_k, aux)
        return scores, slopes

    @device
    def chain_biased_t(weights, slopes):
        return chain(weights, slopes)

    return judge_biased_t, chain_biased_t


def _make_judge_level(count: int, level: Line, change: Any, scale_rows: Any, keep: Any) -> tuple[Any, Any]:
    """A judge of biases that have a level: what a line adds does not depend on the score, whose slope is 1."""
    lift, scale_and_lift = make_value(level.base), make_scale_and_lift(count)

    @device
    def judge_level_t(scores, scale, masked, index, head, kv0, kv1, start, seqlen_q, seqlen_k, aux):
        if masked != 0:
            scores = change(scale_rows(scores, scale, scale), index, head, min(kv0, seqlen_k - 1), min(kv1, seqlen_k - 1),
                            start, seqlen_q - 1, aux)  # fmt: skip
            scores = keep(scores, index, head, kv0, kv1, start, seqlen_q, seqlen_k, aux)
        else:
            scores = scale_and_lift(scores, scale, lift(ONE, index, head, min(start, seqlen_q - 1), kv0, aux))
        return scores, scores

    @device
    def chain_level_t(weights, slopes):
        return weights

    return judge_level_t, chain_level_t


def _make_keep_t(count: int, program: Program, mask: str, fast: bool) -> Any:
    """keep(scores, index, head, kv0, kv1, start, seqlen_q, seqlen_k, aux) -> scores, -inf where hidden or past the keys.

    A causal mask and the end of the keys are one comparison. With rows past the end hidden by flags instead, and the causal
    mask asked as any other, kernels with windows, prefixes and compound masks spilled 8 to 92 bytes.
    """
    keep_from = make_keep_from(count)
    CAUSAL, PLAIN, visible = mask == "causal", mask in ("full", "causal"), program.visible

    @device
    def visible_t(b, h, kv_idx, q_idx, aux):
        return visible(b, h, q_idx, kv_idx, aux)

    keep_visible = make_keep(count, visible_t, clamp=True, fast=fast)

    @device
    def seen_from(kv_idx, seqlen_k, aux):
        """The first query that sees a key, as far as these masks tell."""
        if kv_idx >= seqlen_k:
            return int32(_NEVER)
        return int32(kv_idx - aux[0]) if CAUSAL else int32(-_NEVER)

    @device
    def keep(scores, index, head, kv0, kv1, start, seqlen_q, seqlen_k, aux):
        if not PLAIN:
            scores = keep_visible(scores, index, head, min(kv0, seqlen_k - 1), min(kv1, seqlen_k - 1), start, seqlen_q - 1,
                                  aux)  # fmt: skip
        return keep_from(scores, seen_from(kv0, seqlen_k, aux) - start, seen_from(kv1, seqlen_k, aux) - start)

    return keep


def make_exponent_scale_t(program: Program) -> Any:
    """exponent_scale(scale) -> what takes judged scores to exponents of 2."""
    BIASED = program.modify is not None

    @device
    def exponent_scale(scale):
        return LOG2_E if BIASED else scale * LOG2_E

    return exponent_scale
