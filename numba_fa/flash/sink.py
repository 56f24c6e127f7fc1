"""Learnable sinks: one logit a head that joins the softmax's denominator (OpenAI, gpt-oss, 2025; Xiao et al. 2023)."""

from typing import Any

from numba_fa.flash.online_softmax import inverse_sum, shift_of, with_sink
from numba_fa.flash.program import Program
from numba_fa.jit import device


def make_join_sink(program: Program) -> Any:
    """join_sink(row_max, row_sum, scale_log2, head, aux) -> (shift, row sum, factor of the output)."""
    SINK = program.sink

    if SINK is None:

        @device
        def no_sink(row_max, row_sum, scale_log2, head, aux):
            return shift_of(row_max, scale_log2), row_sum, inverse_sum(row_sum)

        return no_sink

    @device
    def join_sink(row_max, row_sum, scale_log2, head, aux):
        return with_sink(row_max, row_sum, scale_log2, aux[SINK][head])

    return join_sink
