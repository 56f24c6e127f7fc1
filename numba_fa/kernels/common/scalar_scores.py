"""What a scalar backward makes of one score: its weight exp(score - LSE), and its gradient."""

from typing import Any

from numba_fa.flash.online_softmax import LOG2_E, NEG_INF, ONE, ZERO
from numba_fa.jit import device, int64
from numba_fa.ptx.elementwise import index as place
from numba_fa.ptx.elementwise import make_value_and_slope, real, scalars, to_float32
from numba_fa.ptx.math import ex2_approx
from numba_fa.ptx.vector import ld_global_f32


def make_judge(visible: Any, bend: Any) -> Any:
    """judge(product, scale, seen, index, head, q_idx, kv_idx, seqlen_q, seqlen_k, aux) -> (score, slope).

    product: q.k as it is. The score is -inf where the query does not see the key or one of them lies past its end. seen:
    whether that needs no look. bend: what biases do, one of those below.
    """

    @device
    def judge(product, scale, seen, index, head, q_idx, kv_idx, seqlen_q, seqlen_k, aux):
        q_inside, kv_inside = min(q_idx, seqlen_q - 1), min(kv_idx, seqlen_k - 1)
        score, slope = bend(product * scale, index, head, q_inside, kv_inside, aux)
        if not seen:
            inside = q_idx < seqlen_q and kv_idx < seqlen_k
            seen = inside and visible(place(index), place(head), place(q_inside), place(kv_inside), scalars(aux))
        return score if seen else NEG_INF, slope

    return judge


def make_bend(modify: Any) -> Any:
    """bend(score, index, head, q_idx, kv_idx, aux) -> (what `modify` makes of a score, its derivative by the score)."""
    if modify is None:

        @device
        def straight(score, index, head, q_idx, kv_idx, aux):
            return score, ONE

        return straight

    both = make_value_and_slope(modify)

    @device
    def bend(score, index, head, q_idx, kv_idx, aux):
        return both(score, index, head, q_idx, kv_idx, aux)

    return bend


def make_bend_after(until: Any, after: Any) -> Any:
    """As `make_bend` of `until` and `after`, but the derivative is by what `until` makes of the score."""
    bend = make_bend(after)

    @device
    def bend_after(score, index, head, q_idx, kv_idx, aux):
        score = until(real(score), place(index), place(head), place(q_idx), place(kv_idx), scalars(aux))
        return bend(to_float32(score), index, head, q_idx, kv_idx, aux)

    return bend_after


@device
def weight_of(score, lse):
    """exp(score - LSE), of the LSE in base 2."""
    return ex2_approx(score * LOG2_E - lse)  # one rounding, of what is left: the compiler fuses the two


@device
def gradient_of(weight, product, delta):
    """The gradient of a score from dP = dO V^T; 0 without weight, whatever lies where it comes from."""
    return ZERO if weight == ZERO else weight * (product - delta)


@device
def chain(gradient, slope):
    """The gradient of what a bias was given; 0 stays 0, whatever the derivative."""
    return ZERO if gradient == ZERO else gradient * slope


def make_lse_and_delta(block: int) -> Any:
    """lse_and_delta(rows, number, q_idx, seqlen_q): what the preprocess for tiles of `block` queries left of a query.

    number: batch index * heads + head. A query past the end has those of the last one.
    """

    @device
    def lse_and_delta(rows, number, q_idx, seqlen_q):
        q_idx = min(q_idx, seqlen_q - 1)
        tile = int64(number) * ((seqlen_q + block - 1) // block) + q_idx // block
        address = rows + (tile * 2 * block + q_idx % block) * 4
        return ld_global_f32(address), ld_global_f32(address + block * 4)

    return lse_and_delta
