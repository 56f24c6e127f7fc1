"""What the Hopper forward makes of raw scores before the softmax: scale and biases, then the mask."""

from typing import Any

from numba_fa.flash.line import Line
from numba_fa.flash.online_softmax import LOG2_E, ZERO
from numba_fa.flash.program import Program
from numba_fa.jit import device, int32
from numba_fa.kernels.sm90.questions import make_value
from numba_fa.ptx.elementwise import make_keep, make_map
from numba_fa.ptx.fragment import make_scale_rows, make_slope_columns
from numba_fa.ptx.math import rcp_approx


def make_judge(count: int, program: Program, line: Line | None, *, ragged: bool, fast: bool) -> Any:
    """judge(scores, scale, judged, index, head, q0, q1, start, last_key, aux) -> (scores, lift0, lift1).

    scores: a fragment of `count` registers, raw q.k. With biases they come out scaled and biased; where the biases have a
    line, divided by the scale after that, and a row's lift is still to be added. judged: not 0 where a key of this tile
    may be hidden, or its biases are not straight. q0, q1: the thread's queries. start: the tile's first key plus the
    thread's column. ragged: whether keys of the tile may lie past last_key; only the first tile that is visited can be
    so. fast: tanh is the hardware's, whose error bfloat16 hides.
    """
    keep = make_keep(count, program.visible, clamp=ragged, bounded=ragged, fast=fast)
    if program.modify is None:

        @device
        def judge(scores, scale, judged, index, head, q0, q1, start, last_key, aux):
            if judged != 0:
                scores = keep(scores, index, head, q0, q1, start, last_key, aux)
            return scores, ZERO, ZERO

        return judge

    scale_rows, change = make_scale_rows(count), make_map(count, program.modify, clamp=ragged, fast=fast)
    if line is not None:
        return _make_judge_line(count, line, scale_rows, change, keep, ragged)

    @device
    def judge_biased(scores, scale, judged, index, head, q0, q1, start, last_key, aux):
        scores = change(scale_rows(scores, scale, scale), index, head, q0, q1, start, last_key, aux)
        if judged != 0:
            scores = keep(scores, index, head, q0, q1, start, last_key, aux)
        return scores, ZERO, ZERO

    return judge_biased


def _make_judge_line(count: int, line: Line, scale_rows: Any, change: Any, keep: Any, ragged: bool) -> Any:
    """A judge of biases that are a line over most tiles: one multiply-add an element there, where there were three.

    Scores stay raw, for which the line is divided by the scale. A ragged tile, the first, is always judged by element.
    """
    lift_of, step_of = make_value(line.base), make_value(line.step)
    slope_columns, RAGGED = make_slope_columns(count), ragged

    @device
    def judge_line(scores, scale, judged, index, head, q0, q1, start, last_key, aux):
        lift0 = ZERO
        lift1 = ZERO
        unit = rcp_approx(scale)
        if RAGGED or int32(judged) != 0:
            scores = change(scale_rows(scores, scale, scale), index, head, q0, q1, start, last_key, aux)
            if judged != 0:
                scores = keep(scores, index, head, q0, q1, start, last_key, aux)
            scores = scale_rows(scores, unit, unit)
        else:
            scores = slope_columns(scores, step_of(unit, index, head, q0, start, aux))
            lift0 = lift_of(unit, index, head, q0, start, aux)
            lift1 = lift_of(unit, index, head, q1, start, aux)
        return scores, lift0, lift1

    return judge_line


def make_exponent_scale(program: Program, line: Line | None) -> Any:
    """exponent_scale(scale) -> what takes judged scores to exponents of 2.

    A kernel without biases gets scale * log2(e) from the host and never scales a score by itself.
    """
    BIASED, LINE = program.modify is not None, line is not None

    @device
    def exponent_scale(scale):
        if LINE:
            return scale * LOG2_E
        return LOG2_E if BIASED else scale

    return exponent_scale
