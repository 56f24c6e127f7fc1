"""The tensor memory accelerator: boxes of a 4-axis tensor between global and shared memory."""

from numba.cuda import types

from numba_fa.ptx.core import I64, Op, define, make

# The address of a descriptor that is a kernel parameter.
tensor_map = make(
    "tensor_map", 1, lambda _: types.int64, lambda context, builder, signature, args: builder.ptrtoint(args[0], I64)
)
prefetch_tensormap = define(Op("prefetch_tensormap", "l", "prefetch.tensormap [$0];"))
# destination, tensor map, mbarrier, then coordinates from the fastest axis
tma_load = define(
    Op(
        "tma_load",
        "rlrrrrr",
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [$0], [$1, {$3, $4, $5, $6}], [$2];",
    )
)
# tensor map, source, then coordinates from the fastest axis; what lies outside the tensor is not written
tma_store = define(
    Op("tma_store", "lrrrrr", "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [$0, {$2, $3, $4, $5}], [$1];")
)
bulk_commit_group = define(Op("bulk_commit_group", "", "cp.async.bulk.commit_group;"))
# until the sources of all stores may be overwritten
bulk_wait_group_read = define(Op("bulk_wait_group_read", "", "cp.async.bulk.wait_group.read 0;"))
# until all stores are complete
bulk_wait_group = define(Op("bulk_wait_group", "", "cp.async.bulk.wait_group 0;"))
# orders generic writes to shared memory before asynchronous reads of it
fence_proxy_async = define(Op("fence_proxy_async", "", "fence.proxy.async.shared::cta;"))
