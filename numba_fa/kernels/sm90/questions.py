"""What Hopper kernels ask of a program and of its biases' line, by integers and float32 as they have them."""

from typing import Any

from numba_fa.flash.line import Line
from numba_fa.flash.program import Program
from numba_fa.jit import device
from numba_fa.ptx.elementwise import index as position
from numba_fa.ptx.elementwise import real, scalars, to_float32, to_int32


def make_reach(program: Program) -> Any:
    """reach(index, head, first, last, kv_idx, aux) -> the last key up to kv_idx that a query of these may see."""
    visible_up_to = program.reach

    @device
    def reach(index, head, first, last, kv_idx, aux):
        return to_int32(visible_up_to(position(index), position(head), position(first), position(last), position(kv_idx),
                                      scalars(aux)))  # fmt: skip

    return reach


def make_verdict(function: Any) -> Any:
    """verdict(index, head, first, last, start, end, aux) of a tile: `whole` of a program, or `straight` of a line."""

    @device
    def verdict(index, head, first, last, start, end, aux):
        return function(position(index), position(head), position(first), position(last), position(start), position(end),
                        scalars(aux))  # fmt: skip

    return verdict


def make_plain(program: Program, line: Line | None) -> Any:
    """plain(index, head, first, last, start, end, aux): whether no element of a tile is judged by itself.

    All are seen, and biases lie on their line, if ever they have one.
    """
    LINE, whole = line is not None, make_verdict(program.whole)
    straight = make_verdict(line.straight) if line else None

    @device
    def plain(index, head, first, last, start, end, aux):
        if LINE:  # first: behind the loop over a block mask's table the forward's producer spilled 44 bytes
            if not straight(index, head, first, last, start, end, aux):
                return False
        return whole(index, head, first, last, start, end, aux)

    return plain


def make_value(function: Any) -> Any:
    """value(unit, index, head, q_idx, kv_idx, aux) -> `base` or `step` of a line, times unit, as a float32."""

    @device
    def value(unit, index, head, q_idx, kv_idx, aux):
        places = position(index), position(head), position(q_idx), position(kv_idx)
        return to_float32(function(*places, real(unit), scalars(aux)))

    return value
