"""Barriers in shared memory that count threads and bytes. Addresses are 32-bit shared addresses."""

from numba_fa.ptx.core import Op, define

mbarrier_init = define(Op("mbarrier_init", "rr", "mbarrier.init.shared::cta.b64 [$0], $1;"))
mbarrier_expect_tx = define(Op("mbarrier_expect_tx", "rr", "mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;"))
mbarrier_arrive = define(Op("mbarrier_arrive", "r", "mbarrier.arrive.shared::cta.b64 _, [$0];"))
# Braces keep the labels local, so that the loop may be inlined many times.
mbarrier_wait = define(
    Op(
        "mbarrier_wait",
        "rr",
        "{\n.reg .pred done;\nTRY:\nmbarrier.try_wait.parity.shared::cta.b64 done, [$0], $1;\n"
        "@done bra DONE;\nbra TRY;\nDONE:\n}",
    )
)
fence_mbarrier_init = define(Op("fence_mbarrier_init", "", "fence.mbarrier_init.release.cluster;"))
