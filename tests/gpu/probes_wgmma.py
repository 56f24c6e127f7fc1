"""Probes of warpgroup matrix products: operands in shared memory and in registers, accumulators, two in flight.

Matrices hold small integers: every sum is exact, so that hardware and emulator must agree to the bit.
"""

import ml_dtypes
import numpy as np

from numba_fa.jit import KernelSource, cuda, device, int32, uint8
from numba_fa.ptx.fragment import make_pack, make_zeros
from numba_fa.ptx.mbarrier import fence_mbarrier_init, mbarrier_expect_tx, mbarrier_init, mbarrier_wait
from numba_fa.ptx.memory import shared_address
from numba_fa.ptx.tma import tensor_map, tma_load
from numba_fa.ptx.wgmma import make_gemm_rs, make_gemm_ss, make_wait
from numba_fa.tile.layout import k_major_descriptor, k_major_step, mn_major_descriptor, mn_major_step
from tests.gpu.probe import Box, Probe
from tests.gpu.probe_tools import make_gather, make_scatter

HALVES = {"f16": np.float16, "bf16": ml_dtypes.bfloat16}
PACKED = {"f16": "fp16", "bf16": "bf16"}


def integers(seed, *shape):
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(np.float32)


def index_matrices(n, k):
    """a (64, k), b (n, k) with (a @ b.T)[i, j] = 256 * i + j: every element tells its place."""
    a, b = np.zeros((64, k), np.float32), np.zeros((n, k), np.float32)
    a[:, 0], a[:, 1], b[:, 0], b[:, 1] = np.arange(64), 1, 256, np.arange(n)
    return a, b


def fragments_of(tile):
    """PTX ISA, accumulator of m64nN: what each of 128 threads holds of a tile (64, n)."""
    thread, register = np.arange(128)[:, None], np.arange(tile.shape[1] // 2)[None, :]
    row = thread // 32 * 16 + thread % 32 // 4 + 8 * (register // 2 % 2)
    return tile[row, register // 4 * 8 + thread % 4 * 2 + register % 2]


def boxed(matrix, dtype):
    """A matrix as the argument of a tensor map whose box has all its rows."""
    return Box(matrix.astype(HALVES[dtype])[None, :, None, :].copy(), matrix.shape[0])


@device
def begin(barrier, thread):
    """Make the one mbarrier."""
    if thread == 0:
        mbarrier_init(barrier, 1)
        fence_mbarrier_init()
    cuda.syncthreads()


def atoms_of(columns):
    return -(-columns // 64)


def make_load(rows, columns):
    """load(map, room, barrier): all atoms of a (rows, columns) matrix, by one thread; atoms of rows * 128 bytes."""
    ATOMS, ATOM = atoms_of(columns), rows * 128

    @device
    def load(matrix, room, barrier):
        for atom in range(ATOMS):
            tma_load(int32(room + atom * ATOM), matrix, barrier, 64 * atom, 0, 0, 0)

    return load


def product_kernel(gemm, count, descriptor, loads, a_bytes, total):
    """out = fragments of `count` registers of the product of a and b, both loaded into `total` bytes of shared memory."""
    BITS, (load_a, load_b) = np.int64(descriptor), loads
    wait, scatter = make_wait(count, 0), make_scatter(count)

    def kernel(a, b, out):
        base = int32((shared_address(cuda.shared.array(0, uint8)) + 1023) & ~1023)
        barrier = int32(base + total)
        thread = int32(cuda.threadIdx.x)
        begin(barrier, thread)
        if thread == 0:
            mbarrier_expect_tx(barrier, total)
            load_a(tensor_map(a), base, barrier)
            load_b(tensor_map(b), base + a_bytes, barrier)
        mbarrier_wait(barrier, 0)
        a_tile = BITS | np.int64((base & 0x3FFFF) >> 4)
        b_tile = BITS | np.int64(((base + a_bytes) & 0x3FFFF) >> 4)
        scatter(out, thread * count, wait(gemm(a_tile, b_tile)))

    return KernelSource(kernel, ("tensor_map", "tensor_map", "float32*"), 128, 1024 + total + 8)


def ss_kernel(n, k, dtype):
    """out = fragments of a @ b.T."""
    A_ATOM, B_ATOM = 64 * 128, n * 128
    gemm = make_gemm_ss(n, k // 16, dtype, lambda i: k_major_step(i, A_ATOM), lambda i: k_major_step(i, B_ATOM))
    loads, atoms = (make_load(64, k), make_load(n, k)), atoms_of(k)
    return product_kernel(gemm, n // 2, k_major_descriptor(), loads, atoms * A_ATOM, atoms * (A_ATOM + B_ATOM))


def rs_kernel(n, k, dtype):
    """out = fragments of accumulator + p @ v; accumulator and p come as fragments, v (k, n) from shared memory."""
    ATOM, COUNT = k * 128, n // 2
    BYTES = atoms_of(n) * ATOM
    MN_MAJOR = np.int64(mn_major_descriptor(ATOM))
    gemm, wait, pack = make_gemm_rs(n, k // 16, dtype, mn_major_step), make_wait(COUNT, 0), make_pack(k // 2, PACKED[dtype])
    scatter, load = make_scatter(COUNT), make_load(k, n)
    gather_p, gather_sum, P_COUNT = make_gather(k // 2), make_gather(COUNT), k // 2

    def kernel(p, v, start, out):
        base = int32((shared_address(cuda.shared.array(0, uint8)) + 1023) & ~1023)
        barrier = int32(base + BYTES)
        thread = int32(cuda.threadIdx.x)
        begin(barrier, thread)
        if thread == 0:
            mbarrier_expect_tx(barrier, BYTES)
            load(tensor_map(v), base, barrier)
        mbarrier_wait(barrier, 0)
        tile = MN_MAJOR | np.int64((base & 0x3FFFF) >> 4)
        words = pack(gather_p(p, thread * P_COUNT))
        scatter(out, thread * COUNT, wait(gemm(gather_sum(start, thread * COUNT), words, tile)))

    return KernelSource(kernel, ("float32*", "tensor_map", "float32*", "float32*"), 128, 1024 + BYTES + 8)


def pair_kernel(n, dtype):
    """Two products under way, as in the forward's loop: the first is used while the second still runs."""
    ATOM, COUNT, STEPS = n * 128, n // 2, n // 16
    TILE = atoms_of(n) * ATOM
    K_MAJOR, MN_MAJOR = np.int64(k_major_descriptor()), np.int64(mn_major_descriptor(ATOM))
    gemm_ss = make_gemm_ss(n, STEPS, dtype, lambda i: k_major_step(i, ATOM), lambda i: k_major_step(i, ATOM))
    gemm_rs, pack = make_gemm_rs(n, STEPS, dtype, mn_major_step), make_pack(COUNT, PACKED[dtype])
    wait_all, wait_first, zeros, scatter = make_wait(COUNT, 0), make_wait(COUNT, 1), make_zeros(COUNT), make_scatter(COUNT)
    load = make_load(n, n)

    def kernel(a, b, scores, out):
        base = int32((shared_address(cuda.shared.array(0, uint8)) + 1023) & ~1023)
        barrier = int32(base + 2 * TILE)
        thread = int32(cuda.threadIdx.x)
        begin(barrier, thread)
        if thread == 0:
            mbarrier_expect_tx(barrier, 2 * TILE)
            load(tensor_map(a), base, barrier)
            load(tensor_map(b), base + TILE, barrier)
        mbarrier_wait(barrier, 0)
        a_tile = K_MAJOR | np.int64((base & 0x3FFFF) >> 4)
        b_tile = K_MAJOR | np.int64(((base + TILE) & 0x3FFFF) >> 4)
        v_tile = MN_MAJOR | np.int64(((base + TILE) & 0x3FFFF) >> 4)
        words = pack(wait_all(gemm_ss(a_tile, b_tile)))
        first = gemm_ss(b_tile, a_tile)
        second = gemm_rs(zeros(), words, v_tile)
        first = wait_first(first)
        scatter(scores, thread * COUNT, first)
        scatter(out, thread * COUNT, wait_all(second))

    return KernelSource(kernel, ("tensor_map", "tensor_map", "float32*", "float32*"), 128, 1024 + 2 * TILE + 8)


def ss_probes():
    for n, k, dtype in ((16, 16, "f16"), (64, 64, "bf16"), (128, 128, "f16"), (256, 48, "bf16"), (80, 256, "f16"),
                        (112, 192, "bf16")):  # fmt: skip
        pairs = [(integers(n, 64, k), integers(k + 1, n, k))]
        if dtype == "f16":
            pairs.append(index_matrices(n, k))
        for name, (a, b) in zip(("", "_index"), pairs):
            truth = fragments_of(a @ b.T)
            arguments = [boxed(a, dtype), boxed(b, dtype), np.full_like(truth, 7)]
            yield Probe(f"gemm_ss_n{n}k{k}_{dtype}{name}", ss_kernel(n, k, dtype), arguments, {2: truth})


def rs_probes():
    for n, k, dtype in ((16, 64, "f16"), (64, 16, "bf16"), (128, 128, "f16"), (256, 32, "bf16"), (192, 48, "f16")):
        p, v, start = integers(n, 64, k), integers(k + 1, k, n), integers(7, 64, n)
        truth = fragments_of(start + p @ v)
        arguments = [fragments_of(p), boxed(v, dtype), fragments_of(start), np.full_like(truth, 7)]
        yield Probe(f"gemm_rs_n{n}k{k}_{dtype}", rs_kernel(n, k, dtype), arguments, {3: truth})


def pair_probe():
    a, b = (np.sign(integers(seed, 64, 64)) for seed in (1, 2))  # products stay exact in float16
    scores, out = b @ a.T, (a @ b.T) @ b
    arguments = [boxed(a, "f16"), boxed(b, "f16"), np.full((128, 32), 7, np.float32), np.full((128, 32), 7, np.float32)]
    truth = {2: fragments_of(scores), 3: fragments_of(out)}
    yield Probe("gemm_pair", pair_kernel(64, "f16"), arguments, truth)


def probes():
    yield from ss_probes()
    yield from rs_probes()
    yield from pair_probe()
