"""Order between lanes of a warp, and between blocks through a counter in global memory."""

from numba_fa.ptx.core import Op, define

# What the lanes did before is seen by all of them after.
warp_sync = define(Op("warp_sync", "", "bar.warp.sync 0xffffffff;"))
# Until the int32 at an address equals a value; then all that was released with it is visible.
counter_wait = define(
    Op(
        "counter_wait",
        "lr",
        "{\n.reg .pred there;\n.reg .b32 count;\nLOOK:\nld.acquire.gpu.global.b32 count, [$0];\n"
        "setp.eq.s32 there, count, $1;\n@there bra SEEN;\nbra LOOK;\nSEEN:\n}",
    )
)
# Add one, releasing what this thread did before, asynchronous copies that it waited for included.
counter_add = define(
    Op("counter_add", "l", "fence.proxy.async;\nfence.acq_rel.gpu;\nred.release.gpu.global.add.s32 [$0], 1;")
)
