"""Warp shuffles, named barriers and the register budget of a warpgroup."""

from typing import Any

from numba_fa.ptx.core import Op, define

shfl_bfly = define(Op("shfl_bfly", "fr", "shfl.sync.bfly.b32 $0, $1, $2, 31, 0xffffffff;", "f"))
# Lane 0's value in every lane: tells the compiler that a warp does not diverge on it.
warp_uniform = define(Op("warp_uniform", "r", "shfl.sync.idx.b32 $0, $1, 0, 31, 0xffffffff;", "r"))
# 1 in every lane when the argument is not 0 in any of them.
vote_any = define(
    Op("vote_any", "r", "{\n.reg .pred p, q;\nsetp.ne.b32 p, $1, 0;\nvote.sync.any.pred q, p, 0xffffffff;\n"
       "selp.b32 $0, 1, 0, q;\n}", "r")
)  # fmt: skip
# The first lane in which the argument is not 0; NOBODY where there is none.
first_lane = define(
    Op("first_lane", "r", "{\n.reg .pred p;\n.reg .b32 lanes;\nsetp.ne.b32 p, $1, 0;\n"
       "vote.sync.ballot.b32 lanes, p, 0xffffffff;\nbrev.b32 lanes, lanes;\nclz.b32 $0, lanes;\n}", "r")
)  # fmt: skip
NOBODY = 32
bar_sync = define(Op("bar_sync", "rr", "bar.sync $0, $1;"))
# The lanes in a mask meet. A full mask that the compiler cannot tell, made from a result, holds what follows behind it.
bar_warp_sync = define(Op("bar_warp_sync", "r", "bar.warp.sync $0;"))
bar_arrive = define(Op("bar_arrive", "rr", "bar.arrive $0, $1;"))


def make_setmaxnreg(registers: int, direction: str) -> Any:
    """Set this warpgroup's registers a thread; direction "inc" or "dec"."""
    return define(Op("setmaxnreg", "", f"setmaxnreg.{direction}.sync.aligned.u32 {registers};"),
                  parameters=(registers, direction))  # fmt: skip
