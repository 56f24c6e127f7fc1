"""Probes of what the backward alone uses: columns' values, 16-byte pieces, bulk copies, tickets, transposed products."""

import ml_dtypes
import numpy as np

from numba_fa.jit import KernelSource, cuda, device, float32, int32, uint8, uint16
from numba_fa.ptx.bulk import bulk_load, bulk_reduce_add
from numba_fa.ptx.fragment import make_pack
from numba_fa.ptx.fragment_columns import (
    make_column_exponential,
    make_column_gradient,
    make_column_values,
    make_keep_from,
    make_share_words,
    make_shared_values,
    make_stmatrix_words,
    make_store_quads,
)
from numba_fa.ptx.fragment_gradients import make_add_gradient, make_store_rows
from numba_fa.ptx.integer import opaque, quotient
from numba_fa.ptx.mbarrier import mbarrier_expect_tx, mbarrier_wait
from numba_fa.ptx.memory import float_to_bits, shared_address, st_shared_u32
from numba_fa.ptx.order import grid_go_ahead, grid_wait, ticket_set, ticket_wait
from numba_fa.ptx.tma import bulk_commit_group, bulk_wait_group, fence_proxy_async
from numba_fa.ptx.vector import (
    ld_global_f32,
    ld_global_u16,
    load_words,
    make_add_quads,
    make_dot,
    make_load_quads,
    store_zero,
)
from numba_fa.ptx.wgmma import make_gemm_tt
from numba_fa.tile.layout import mn_major_descriptor, mn_major_step
from tests.gpu.probe import Probe
from tests.gpu.probe_tools import dump_shared, make_gather, make_scatter
from tests.gpu.probes_fragment import APPROXIMATE, COUNT, fragments, on_fragments, rows
from tests.gpu.probes_memory import swizzled
from tests.gpu.probes_wgmma import atoms_of, begin, boxed, fragments_of, integers, make_load, product_kernel

HALVES = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}
ROW = 160  # bytes of a row of a tile
QUADS, PIECE = 16, 2048  # registers stored as 16-byte pieces, a warpgroup's pieces side by side


def keep_probe():
    thread, (second, column) = np.arange(32)[:, None], rows()
    keep_from, values = make_keep_from(COUNT), fragments()

    @device
    def later(fragment, thread):
        return keep_from(fragment, 2 * thread - 4, 50 - 3 * thread)

    kept = np.where(column >= np.where(second, 50 - 3 * thread, 2 * thread - 4), values, -np.inf)
    yield on_fragments("keep_from", later, COUNT, kept, values=values)


def column_probes():
    """By one warp, with one value a column in shared memory."""
    gather, scatter = make_gather(COUNT), make_scatter(COUNT)
    load, exponential, gradient = make_column_values(COUNT), make_column_exponential(COUNT), make_column_gradient(COUNT)
    columns = 2 * COUNT

    def kernel(source, others, vector, powers, gradients):
        base = int32((shared_address(cuda.shared.array(0, uint8)) + 15) & ~15)
        thread = int32(cuda.threadIdx.x)
        for i in range(thread, columns, 32):
            st_shared_u32(int32(base + 4 * i), float_to_bits(vector[i]))
        cuda.syncthreads()
        mine = load(int32(base + 8 * (thread & 3)))
        fragment, other = gather(source, thread * COUNT), gather(others, thread * COUNT)
        scatter(powers, thread * COUNT, exponential(fragment, float32(1.7), mine))
        scatter(gradients, thread * COUNT, gradient(fragment, other, mine))

    source, others = fragments(1, special=False), fragments(2, special=False)
    vector = np.random.default_rng(3).standard_normal(columns).astype(np.float32)
    values = vector[rows()[1] + 2 * (np.arange(32)[:, None] % 4)]
    powers = np.exp2((source.astype(np.float64) * np.float32(1.7) - values).astype(np.float32))
    truth = {3: powers, 4: source * (others - values)}
    outs = [np.full_like(source, 7) for _ in range(2)]
    made = KernelSource(kernel, ("float32*",) * 5, 32, 16 + 4 * columns)
    yield Probe("columns", made, [source, others, vector, *outs], truth, rtol=2 * APPROXIMATE)


def stmatrix_words_probes():
    """As the probe of stmatrix, of words packed before."""
    columns, atom = 128, 64 * 128
    tile = np.random.default_rng(5).standard_normal((64, columns)).astype(np.float32)
    for dtype, half in HALVES.items():
        source = KernelSource(
            _stmatrix_words_kernel(columns // 2, atom, dtype), ("float32*", "uint16*"), 128, 1024 + 2 * atom
        )
        words = tile.astype(half).view(np.uint16)
        truth = np.concatenate([swizzled(words[:, :64]), swizzled(words[:, 64:])])
        yield Probe(f"stmatrix_words_{dtype}", source, [fragments_of(tile), np.full_like(truth, 7)], {1: truth})


def _stmatrix_words_kernel(count, atom, dtype):
    gather, pack, stmatrix_words = make_gather(count), make_pack(count, dtype), make_stmatrix_words(count // 2)

    def kernel(source, out):
        base = int32((shared_address(cuda.shared.array(0, uint8)) + 1023) & ~1023)
        thread = int32(cuda.threadIdx.x)
        lane, row = thread & 31, (thread >> 5) * 16 + (thread & 15)
        words = pack(gather(source, thread * count))
        stmatrix_words(words, int32(base + row * 128), atom, row & 7, lane >> 4)
        cuda.syncthreads()
        dump_shared(out, 0, base, 2 * atom // 4)

    return kernel


def piece_probes():
    """Fragments stored as pieces, as they lie; packed ones read back by a neighbour."""
    gather, store_quads, size = make_gather(QUADS), make_store_quads(QUADS), QUADS // 4 * PIECE

    def store(source, out):
        base = int32((shared_address(cuda.shared.array(0, uint8)) + 15) & ~15)
        thread = int32(cuda.threadIdx.x)
        store_quads(gather(source, thread * QUADS), int32(base + 16 * thread))
        cuda.syncthreads()
        dump_shared(out, 0, base, size // 4)

    values = np.random.default_rng(7).standard_normal((128, QUADS)).astype(np.float32)
    pieces = np.ascontiguousarray(values.reshape(128, -1, 4).transpose(1, 0, 2))
    truth = pieces.reshape(-1).view(np.uint16)
    source = KernelSource(store, ("float32*", "uint16*"), 128, 16 + size)
    yield Probe("store_quads", source, [values, np.full_like(truth, 7)], {1: truth})
    for dtype, half in HALVES.items():
        truth = values.astype(half).astype(np.float32)[np.arange(128) ^ 1]
        source = KernelSource(_share_kernel(dtype), ("float32*", "float32*"), 128, 16 + size // 2)
        yield Probe(f"share_words_{dtype}", source, [values, np.full_like(values, 7)], {1: truth})


def _share_kernel(dtype):
    gather, scatter, pack = make_gather(QUADS), make_scatter(QUADS), make_pack(QUADS, dtype)
    share_words, shared_values = make_share_words(QUADS // 2), make_shared_values(QUADS, dtype)

    def kernel(source, out):
        base = int32((shared_address(cuda.shared.array(0, uint8)) + 15) & ~15)
        thread = int32(cuda.threadIdx.x)
        share_words(pack(gather(source, thread * QUADS)), int32(base + 16 * thread))
        cuda.syncthreads()
        scatter(out, thread * QUADS, shared_values(int32(base + 16 * (thread ^ 1))))

    return kernel


def score_gradient_probes():
    """Sums of score gradients; and rows of a fragment in shared memory, as they lie."""
    gather, add_gradient = make_gather(COUNT), make_add_gradient(COUNT)
    scatter, store_rows = make_scatter(COUNT), make_store_rows(QUADS, ROW)

    def kernel(totals, weights, products, out):
        at = int32(cuda.threadIdx.x * COUNT)
        values = float32(0.25), float32(cuda.threadIdx.x)
        scatter(out, at, add_gradient(gather(totals, at), gather(weights, at), gather(products, at), *values))

    totals, weights, products = (fragments(seed, special=False) for seed in range(3))
    weights[::3, ::2], products[::3, ::2] = 0, np.nan  # hidden
    values = np.where(rows()[0], np.arange(32, dtype=np.float32)[:, None], np.float32(0.25))
    inner = np.where(weights == 0, 0, products - values)
    truth = (weights.astype(np.float64) * inner + totals).astype(np.float32)
    made = KernelSource(kernel, ("float32*",) * 4, 32, 0)
    yield Probe("add_gradient", made, [totals, weights, products, np.full_like(totals, 7)], {3: truth})

    def store(source, out):
        base = int32((shared_address(cuda.shared.array(0, uint8)) + 15) & ~15)
        thread = int32(cuda.threadIdx.x)
        for i in range(thread, 16 * ROW // 4, 32):
            st_shared_u32(int32(base + 4 * i), 0)
        cuda.syncthreads()
        mine = int32(base + (thread >> 2) * ROW + (thread & 3) * 8)
        store_rows(make_fragment(source, thread * QUADS), mine)
        cuda.syncthreads()
        dump_shared(out, 0, base, 16 * ROW // 4)

    make_fragment = make_gather(QUADS)
    tile = np.random.default_rng(9).standard_normal((64, 2 * QUADS)).astype(np.float32)[:16]
    truth = np.zeros((16, ROW // 4), np.float32)
    truth[:, : 2 * QUADS] = tile
    truth = truth.reshape(-1).view(np.uint16)
    first_warp = fragments_of(np.tile(tile, (4, 1)))[:32]
    made = KernelSource(store, ("float32*", "uint16*"), 32, 16 + 16 * ROW)
    yield Probe("store_rows", made, [np.ascontiguousarray(first_warp), np.full_like(truth, 7)], {1: truth})


def bulk_probe():
    """Plain memory into shared memory, and out of it as a sum, twice."""
    size = 1040  # bytes: a multiple of 16, not of 128

    def kernel(source, target, loaded):
        base = int32((shared_address(cuda.shared.array(0, uint8)) + 127) & ~127)
        barrier = int32(base + 1152)
        thread = int32(cuda.threadIdx.x)
        begin(barrier, thread)
        if thread == 0:
            mbarrier_expect_tx(barrier, size)
            bulk_load(base, source + 32, size, barrier)
        mbarrier_wait(barrier, 0)
        dump_shared(loaded, 0, base, size // 4)
        if thread == 0:
            for _ in range(2):
                bulk_reduce_add(target + 16, base, size)
                bulk_commit_group()
            bulk_wait_group()

    numbers = integers(1, 300)
    target = integers(2, 300)
    part, sums = numbers[8 : 8 + size // 4], target.copy()
    sums[4 : 4 + size // 4] += 2 * part
    truth = {1: sums, 2: part.view(np.uint16)}
    source = KernelSource(kernel, ("pointer", "pointer", "uint16*"), 64, 128 + 1152 + 8)
    yield Probe("bulk", source, [numbers, target, np.full(size // 2, 7, np.uint16)], truth)


def reduce_probe():
    """A sum from words that threads wrote, behind a fence."""

    def kernel(target):
        base = int32((shared_address(cuda.shared.array(0, uint8)) + 127) & ~127)
        thread = int32(cuda.threadIdx.x)
        st_shared_u32(int32(base + 4 * thread), float_to_bits(float32(thread)))
        fence_proxy_async()
        cuda.syncthreads()
        if thread == 0:
            bulk_reduce_add(target, base, 256)
            bulk_commit_group()
            bulk_wait_group()

    target = integers(3, 64)
    source = KernelSource(kernel, ("pointer",), 64, 128 + 256)
    yield Probe("bulk_reduce_add", source, [target], {0: target + np.arange(64, dtype=np.float32)})


def vector_probe():
    """Pieces between global memory and registers, by a warpgroup."""
    load_quads, add_quads, scatter = make_load_quads(QUADS), make_add_quads(QUADS), make_scatter(QUADS)

    def kernel(pieces, sums, out, single, half):
        thread = int32(cuda.threadIdx.x)
        fragment = load_quads(pieces + 16 * thread)
        scatter(out, thread * QUADS, fragment)
        add_quads(fragment, sums + 16 * (thread ^ 5))
        add_quads(fragment, sums + 16 * (thread ^ 6))
        single[thread] = ld_global_f32(pieces + 4 * thread)
        half[thread] = uint16(ld_global_u16(pieces + 2 * thread))

    values, start = integers(4, 128, QUADS), integers(5, 128, QUADS)

    def laid(fragments):
        return np.ascontiguousarray(fragments.reshape(128, -1, 4).transpose(1, 0, 2))

    thread = np.arange(128)
    sums = laid(start + values[thread ^ 5] + values[thread ^ 6])
    first = laid(values).reshape(-1)[:128]
    truth = {1: sums, 2: values, 3: first, 4: first.view(np.uint16)[:128]}
    outs = [np.full_like(values, 7), np.full(128, 7, np.float32), np.full(128, 7, np.uint16)]
    source = KernelSource(kernel, ("pointer", "pointer", "float32*", "float32*", "uint16*"), 128, 0)
    yield Probe("vector", source, [laid(values), laid(start), *outs], truth)


def dot_probes():
    """Sums of products of the elements that 16 bytes hold; and zeros where they were."""
    for dtype, half in {**HALVES, "fp32": np.float32}.items():
        n = 16 // np.dtype(half).itemsize
        a, b = (integers(seed, 32, n).astype(half) for seed in (1, 2))
        truth = (a.astype(np.float32) * b.astype(np.float32)).sum(axis=1)
        patterns = [x.view(np.float32) for x in (a, b)]
        source = KernelSource(_dot_kernel(dtype), ("pointer", "pointer", "pointer", "float32*"), 32, 0)
        arguments = [*patterns, np.full((32, 4), 7, np.float32), np.full(32, 7, np.float32)]
        yield Probe(f"dot_{dtype}", source, arguments, {2: np.zeros((32, 4), np.float32), 3: truth})


def _dot_kernel(dtype):
    dot = make_dot(dtype)

    def kernel(a, b, zeroed, out):
        thread = int32(cuda.threadIdx.x)
        out[thread] = dot(load_words(a + 16 * thread), load_words(b + 16 * thread))
        store_zero(zeroed + 16 * thread)

    return kernel


def ticket_probe():
    """Blocks take their turns, and each finds what the one before left."""

    def kernel(ticket, total):
        block = int32(cuda.blockIdx.x)
        if cuda.threadIdx.x == 0:
            ticket_wait(ticket, block + 3)
            total[0] = total[0] * 2 + float32(block + 1)
            ticket_set(ticket, block + 4)

    truth = {0: np.array([7], np.int32), 1: np.array([((1 * 2 + 2) * 2 + 3) * 2 + 4], np.float32)}
    source = KernelSource(kernel, ("pointer", "float32*"), 32, 0)
    yield Probe("tickets", source, [np.array([3], np.int32), np.zeros(1, np.float32)], truth, grid=(4, 1, 1))


def grid_probe():
    """Nothing runs before this kernel or after it; `test_gpu_backward.py` has chains of kernels that wait."""

    def kernel(out):
        grid_go_ahead()
        grid_wait()
        out[cuda.threadIdx.x] = float32(cuda.threadIdx.x)

    truth = np.arange(32, dtype=np.float32)
    yield Probe("grids", KernelSource(kernel, ("float32*",), 32, 0), [np.full_like(truth, 7)], {0: truth})


def integer_probe():
    def kernel(out):
        thread = int32(cuda.threadIdx.x)
        out[thread] = float32(quotient(thread * 1000 + 7, thread + 3)) + float32(opaque(thread))

    thread = np.arange(32)
    truth = ((thread * 1000 + 7) // (thread + 3) + thread).astype(np.float32)
    yield Probe("integers", KernelSource(kernel, ("float32*",), 32, 0), [np.full_like(truth, 7)], {0: truth})


def tt_kernel(n, k, dtype):
    """out = fragments of a.T @ b; a (k, 64) and b (k, n)."""
    ATOM = k * 128
    gemm = make_gemm_tt(n, k // 16, dtype, mn_major_step, mn_major_step)
    loads = make_load(k, 64), make_load(k, n)
    return product_kernel(gemm, n // 2, mn_major_descriptor(ATOM), loads, ATOM, (1 + atoms_of(n)) * ATOM)


def tt_probes():
    for n, k, dtype in ((64, 64, "f16"), (128, 128, "bf16"), (192, 48, "f16")):
        a, b = integers(n, k, 64), integers(k + 1, k, n)
        truth = fragments_of(a.T @ b)
        arguments = [boxed(a, dtype), boxed(b, dtype), np.full_like(truth, 7)]
        yield Probe(f"gemm_tt_n{n}k{k}_{dtype}", tt_kernel(n, k, dtype), arguments, {2: truth})


def probes():
    yield from keep_probe()
    yield from column_probes()
    yield from stmatrix_words_probes()
    yield from piece_probes()
    yield from score_gradient_probes()
    yield from bulk_probe()
    yield from reduce_probe()
    yield from vector_probe()
    yield from dot_probes()
    yield from ticket_probe()
    yield from grid_probe()
    yield from integer_probe()
    yield from tt_probes()
