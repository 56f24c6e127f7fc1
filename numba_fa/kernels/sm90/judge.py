"""What the Hopper forward makes of raw scores before the softmax: scale and biases, then the mask."""

from typing import Any

from numba_fa.flash.online_softmax import LOG2_E
from numba_fa.flash.program import Program
from numba_fa.jit import device
from numba_fa.ptx.elementwise import make_keep, make_map
from numba_fa.ptx.fragment import make_scale_rows


def make_judge(count: int, program: Program, *, ragged: bool, fast: bool) -> Any:
    """judge(scores, scale, masked, index, head, q0, q1, start, last_key, aux) -> scores as the softmax takes them.

    scores: a fragment of `count` registers, raw q.k; with biases they come out biased, and scaled unless the program is raw.
    scale: times log2(e) unless biases take scaled scores. masked: not 0 where a
    key of this tile may be hidden. q0, q1: the thread's queries. start: the tile's first key plus the thread's column.
    ragged: whether keys of the tile may lie past last_key; only the first tile that is visited can be so. fast: tanh is
    the hardware's, whose error bfloat16 hides.
    """
    keep = make_keep(count, program.visible, clamp=ragged, bounded=ragged, fast=fast)
    if program.modify is None:

        @device
        def judge(scores, scale, masked, index, head, q0, q1, start, last_key, aux):
            if masked != 0:
                scores = keep(scores, index, head, q0, q1, start, last_key, aux)
            return scores

        return judge

    change = make_map(count, program.modify, clamp=ragged, fast=fast)
    if program.raw:

        @device
        def judge_raw(scores, scale, masked, index, head, q0, q1, start, last_key, aux):
            scores = change(scores, index, head, q0, q1, start, last_key, aux + (LOG2_E / scale,))
            if masked != 0:
                scores = keep(scores, index, head, q0, q1, start, last_key, aux)
            return scores

        return judge_raw

    scale_rows = make_scale_rows(count)

    @device
    def judge_biased(scores, scale, masked, index, head, q0, q1, start, last_key, aux):
        scores = change(scale_rows(scores, scale, scale), index, head, q0, q1, start, last_key, aux)
        if masked != 0:
            scores = keep(scores, index, head, q0, q1, start, last_key, aux)
        return scores

    return judge_biased


def make_exponent_scale(program: Program) -> Any:
    """exponent_scale(scale) -> what takes judged scores to exponents of 2.

    A kernel that gets scale * log2(e) from the host never scales a score by itself.
    """
    SCALED = program.modify is not None and not program.raw

    @device
    def exponent_scale(scale):
        return LOG2_E if SCALED else scale

    return exponent_scale
