"""What the Hopper backward makes of a transposed tile of raw scores, keys by queries: the mask."""

from typing import Any

from numba_fa.jit import device, int32
from numba_fa.ptx.fragment_columns import make_keep_from

# Beyond every query.
_NEVER = 1 << 30


def make_judge_t(count: int, mask: str) -> Any:
    """judge_t(scores, masked, index, head, kv0, kv1, start, seqlen_q, seqlen_k, aux) -> scores, -inf where hidden.

    scores: a fragment of `count` registers, raw k.q. masked: not 0 where a query of the tile may not see a key of it.
    kv0, kv1: the thread's keys, which may lie past the end. start: the tile's first query plus the thread's column;
    queries past the end need no mask, their LSE is +inf.
    """
    keep_from = make_keep_from(count)
    CAUSAL = mask == "causal"
    if mask not in ("full", "causal"):
        raise NotImplementedError(f"no backward under the mask {mask}")

    @device
    def seen_from(kv_idx, seqlen_k, aux):
        """The first query that sees a key."""
        if kv_idx >= seqlen_k:
            return int32(_NEVER)
        return int32(kv_idx - aux[0]) if CAUSAL else int32(-_NEVER)

    @device
    def judge_t(scores, masked, index, head, kv0, kv1, start, seqlen_q, seqlen_k, aux):
        if masked != 0:
            scores = keep_from(scores, seen_from(kv0, seqlen_k, aux) - start, seen_from(kv1, seqlen_k, aux) - start)
        return scores

    return judge_t
