"""Order between blocks, through an int32 in global memory, and between a kernel and the next one of its stream."""

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
# Until the kernels before this one in its stream have ended, and all that they wrote is visible; of use where this one is
# launched early (`Variant.early`). Whatever they write, or read and this one writes, is touched after.
grid_wait = define(Op("grid_wait", "", "griddepcontrol.wait;"))
# The next kernel may start, if it is launched early, once all blocks have said so or ended.
grid_go_ahead = define(Op("grid_go_ahead", "", "griddepcontrol.launch_dependents;"))
