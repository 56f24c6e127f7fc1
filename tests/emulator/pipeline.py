"""A small kernel with every mechanism of a Hopper pipeline, from which single steps can be left out."""

import numpy as np
from numba import cuda

from numba_fa.emulator import TensorMap, run_kernel
from numba_fa.jit import KernelSource, int32, uint8
from numba_fa.ptx.fragment import make_stmatrix
from numba_fa.ptx.mbarrier import (
    fence_mbarrier_init,
    mbarrier_arrive,
    mbarrier_expect_tx,
    mbarrier_init,
    mbarrier_wait,
)
from numba_fa.ptx.memory import shared_address
from numba_fa.ptx.tma import (
    bulk_commit_group,
    bulk_wait_group_read,
    fence_proxy_async,
    tensor_map,
    tma_load,
    tma_store,
)
from numba_fa.ptx.warp import bar_sync
from numba_fa.ptx.wgmma import make_gemm_ss, make_wait
from numba_fa.tile.layout import k_major_descriptor, k_major_step

TILE = 64 * 128  # bytes of 64 rows x 64 columns
TILES = 3


def make_products(omit=None, early_release=False, bytes_expected=2 * TILE):
    """out[t] = a[t] @ b[t]^T for TILES tiles of 64 x 64 through one stage; `omit` names the step to leave out.

    Warpgroup 0's first thread loads, warpgroup 1 multiplies and stores.
    """
    gemm = make_gemm_ss(64, 4, "f16", lambda k: k_major_step(k, TILE), lambda k: k_major_step(k, TILE))
    wait = make_wait(32, 4 if omit == "wgmma wait" else 0)
    stmatrix = make_stmatrix(32, "fp16")
    bits = np.int64(k_major_descriptor())

    def products(a, b, out):
        base = int32((shared_address(cuda.shared.array(0, uint8)) + 1023) & ~1023)
        room, full, empty = base + 2 * TILE, base + 3 * TILE, base + 3 * TILE + 8
        thread = cuda.threadIdx.x
        lane, row = thread & 31, ((thread & 127) >> 5) * 16 + (thread & 15)
        if thread == 0:
            mbarrier_init(full, 1)
            mbarrier_init(empty, 1)
            if omit != "init fence":
                fence_mbarrier_init()
        if omit != "init barrier":
            cuda.syncthreads()
        for tile in range(TILES):
            if thread == 0:
                if omit != "empty wait":
                    mbarrier_wait(empty, tile & 1 ^ 1)
                mbarrier_expect_tx(full, bytes_expected)
                tma_load(base, tensor_map(a), full, 0, 0, 0, tile)
                tma_load(base + TILE, tensor_map(b), full, 0, 0, 0, tile)
            elif thread >= 128:
                if omit != "full wait":
                    mbarrier_wait(full, tile & 1)
                product = gemm(bits | base >> 4, bits | base + TILE >> 4)
                if early_release and thread == 128:
                    mbarrier_arrive(empty)
                product = wait(product)
                if not early_release and thread == 128:
                    mbarrier_arrive(empty)
                if thread == 128 and omit != "read wait":
                    bulk_wait_group_read()
                if omit != "room barrier":
                    bar_sync(1, 128)
                stmatrix(product, room + row * 128, TILE, row & 7, lane >> 4)
                if omit != "proxy fence":
                    fence_proxy_async()
                if omit != "store barrier":
                    bar_sync(1, 128)
                if thread == 128:
                    tma_store(tensor_map(out), room, 0, 0, 0, tile)
                    if omit != "commit":
                        bulk_commit_group()

    return KernelSource(products, ("tensor_map",) * 3, 256, 1024 + 3 * TILE + 16)


def run_products(seed=0, **changes):
    """(out, a @ b^T, trace) of one run; arrays (TILES, 64, 64) float32."""
    rng = np.random.default_rng(seed)
    a, b = (rng.standard_normal((TILES, 64, 1, 64)).astype(np.float16) for _ in range(2))
    out = np.full_like(a, np.nan)
    maps = tuple(TensorMap(array, 64, 64) for array in (a, b, out))
    trace = run_kernel(make_products(**changes), (1, 1, 1), maps, seed=seed)
    truth = a[:, :, 0].astype(np.float32) @ b[:, :, 0].astype(np.float32).transpose(0, 2, 1)
    return out[:, :, 0].astype(np.float32), truth, trace
