"""Order between blocks, through an int32 in global memory."""

from numba_fa.ptx.core import Op, define

# Until the int32 at an address equals a value; then all that was released with it is visible.
ticket_wait = define(
    Op(
        "ticket_wait",
        "lr",
        "{\n.reg .pred there;\n.reg .b32 ticket;\nLOOK:\nld.acquire.gpu.global.b32 ticket, [$0];\n"
        "setp.eq.s32 there, ticket, $1;\n@there bra SEEN;\nbra LOOK;\nSEEN:\n}",
    )
)
# Write a value, releasing what this thread did, and what it knows that others did.
ticket_set = define(Op("ticket_set", "lr", "fence.acq_rel.gpu;\nst.release.gpu.global.b32 [$0], $1;"))
